import math
import re
from pathlib import Path

import pytest

from jalm.formats import costs

HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def write(file: Path, seconds: str = "10.5", memory: str = "100.25", cpu: str = "8.0", head: str = HEAD) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{head}{seconds}\t0:00:10\t{memory}\t1\t1\t1\t0\t0\t1\t{cpu}\n", encoding="utf-8")
    return file


def test_parts_are_summed_and_the_largest_job_told(tmp_path):
    write(tmp_path / "segment/jawiki-1/000.tsv")
    write(tmp_path / "segment/jawiki-1/001.tsv", "2.5", "300", "1.5")
    write(tmp_path / "segment/jawiki-2/000.tsv")
    write(tmp_path / "dedup/jawiki-1.tsv")
    found = costs.read(tmp_path, ["jawiki-1"])
    assert list(found) == ["segment", "dedup"]
    assert found["segment"] == costs.Cost(jobs=2, wall=13.0, cpu=9.5, longest=10.5, memory=300.0)


@pytest.mark.parametrize("text", ["", HEAD, f"{HEAD}NA\tNA\tNA\n", f"{HEAD}-\t-\t-\t-\t-\t-\t-\t-\t-\t-\n", "nonsense"])
def test_a_benchmark_that_was_interrupted_counts_as_unmeasured(tmp_path, text):
    file = tmp_path / "pretrain.tsv"
    file.write_text(text, encoding="utf-8")
    assert costs.job(file) == costs.Cost(jobs=1, unmeasured=1)


def test_a_job_that_was_over_before_it_was_looked_at_has_its_time(tmp_path):
    cost = costs.job(write(tmp_path / "a.tsv", memory="NA", cpu="NA"))
    assert (cost.wall, cost.memory, cost.unmeasured) == (10.5, 0.0, 0)
    assert not math.isnan(costs.total([cost, cost]).memory)


def test_no_folder_is_no_cost(tmp_path):
    assert costs.read(tmp_path / "benchmarks", ["jawiki-1"]) == {}
    assert costs.total([]) == costs.Cost()


def test_every_rule_but_the_report_and_publish_is_a_stage_that_costs():
    root = Path(__file__).parents[1] / "workflow" / "rules"
    rules = re.findall(r"(?m)^rule (\w+):$", "\n".join(path.read_text(encoding="utf-8") for path in root.glob("*.smk")))
    assert set(costs.STAGES) == set(rules) - {"report", "publish"}
