"""What the jobs of a stage took, by the benchmark file that Snakemake writes for each job."""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

STAGES = {  # in their order, and what the names in their paths are of
    **dict.fromkeys(
        ("download", "extract", "import_text", "segment", "filter", "dedup", "split", "split_summary"), "corpora"
    ),
    **dict.fromkeys(("train_tokenizer", "train_tokenizer_report", "shard", "shard_manifest"), "tokenizers"),
    **dict.fromkeys(("pretrain", "evaluate", "export"), "models"),
}


@dataclass
class Cost:
    """What some jobs took; of what was not measured nothing is in the sums.

    Attributes:
        jobs: that have a benchmark.
        unmeasured: those of them whose benchmark says nothing, because it was interrupted.
        wall: seconds from begin to end, summed.
        cpu: seconds of the processor, summed.
        longest: seconds of the longest job.
        memory: MiB of the largest job.
    """

    jobs: int = 0
    unmeasured: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    longest: float = 0.0
    memory: float = 0.0


def total(costs: Iterable[Cost]) -> Cost:
    """Costs together."""
    costs = list(costs)
    together = {field.name: sum(getattr(cost, field.name) for cost in costs) for field in fields(Cost)}
    most = {name: max((getattr(cost, name) for cost in costs), default=0.0) for name in ("longest", "memory")}
    return Cost(**(together | most))


def job(file: Path) -> Cost:
    """What a job took: the last line of its benchmark."""
    with open(file, encoding="utf-8", newline="") as lines:
        line = next(iter(list(csv.DictReader(lines, delimiter="\t"))[-1:]), {})
    seconds, cpu, memory = (_measured(line.get(key)) for key in ("s", "cpu_time", "max_rss"))
    return Cost(1, int(seconds is None), seconds or 0.0, cpu or 0.0, seconds or 0.0, memory or 0.0)


def _measured(text: str | None) -> float | None:
    """A number of a benchmark; None for NA or -, which Snakemake writes where it measured nothing."""
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def read(folder: Path, names: Iterable[str]) -> dict[str, Cost]:
    """What each stage took for these corpora, tokenizers and models; stages without a benchmark are left out."""
    names = set(names)
    found = {}
    for stage in STAGES:
        files = {file: file.relative_to(folder / stage).parts[0] for file in sorted((folder / stage).rglob("*.tsv"))}
        jobs = [job(file) for file, name in files.items() if name.removesuffix(".tsv") in names]
        if jobs:
            found[stage] = total(jobs)
    return found
