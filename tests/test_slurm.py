"""What is asked of Slurm, and what its answers mean."""

import math
import os
import time
from pathlib import Path

import pytest
from cluster import GPUS, until

from jalm import slurm
from jalm.config import Pretrain
from jalm.stages import pretrain


@pytest.fixture
def clients(cluster, monkeypatch):
    """The cluster's commands, for this process."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield cluster
    cluster.idle()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1-02:03:04", 93784),
        ("23:59:59", 86399),
        ("05:00", 300),
        ("0:07", 7),
        ("UNLIMITED", None),
        ("NOT_SET", None),
        ("INVALID", None),
    ],
)
def test_durations_are_read_as_slurm_writes_them(text, seconds):
    assert slurm.duration(text) == seconds


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("PartitionTimeLimit", "lower its runtime"),
        ("QOSMaxWallDurationPerJobLimit", "lower its runtime"),
        ("PartitionConfig", "no node of the partition has what it asks for"),
        ("BadConstraints", "no node of the partition"),
        ("QOSMaxGRESPerJob", "than its account or QOS may have in one job"),
        ("AssocMaxNodePerJobLimit", "than its account or QOS may have in one job"),
        ("ReqNodeNotAvail, UnavailableNodes:n1", "down, drained or reserved"),
        (
            "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
            "down, drained",
        ),
        ("AssocGrpCPUMinutesLimit", "is used up"),
        ("AssocGrpBillingRunMinutes", "is used up"),
        ("MaxMemPerLimit", "may have in one job"),
        ("JobHeldUser", "scontrol release 12_3"),
        ("launch failed requeued held", "scontrol release 12_3"),
        ("Resources", ""),
        ("Priority", ""),
        ("QOSMaxJobsPerUserLimit", ""),
        ("BeginTime", ""),
        ("Dependency", ""),
        ("None", ""),
    ],
)
def test_a_job_that_waits_for_others_may_start_and_one_that_waits_for_you_may_not(reason, advice):
    job = slurm.Job("12_3", "PENDING", reason, "0:00", "", "extract", Path())
    assert advice in job.stuck
    assert bool(advice) == bool(job.stuck)
    assert not slurm.Job("12_3", "RUNNING", reason, "0:01", "n1", "extract", Path()).stuck


def test_what_an_administrator_or_time_can_mend_is_not_hopeless():
    def hopeless(reason):
        return bool(slurm.Job("1", "PENDING", reason, "0:00", "", "extract", Path()).hopeless)

    assert all(map(hopeless, ("PartitionTimeLimit", "PartitionConfig", "QOSMaxCpuPerJobLimit", "AccountNotAllowed")))
    assert not any(
        map(hopeless, ("ReqNodeNotAvail", "JobHeldUser", "PartitionDown", "AssocGrpCPUMinutesLimit", "Priority"))
    )


def test_the_jobs_of_a_folder_are_those_whose_log_lies_there(clients, tmp_path):
    for folder, comment in (("こちら a", "rule_split_wildcards_jawiki_000"), ("あちら", "rule_all")):
        logs = tmp_path / folder / slurm.LOGS / "rule_split"
        logs.mkdir(parents=True)
        options = ["--output", f"{logs}/%A_%a.log", "--comment", comment, "--array", "1-2"]
        clients.call("sbatch", *options, "--gres", f"gpu:{GPUS}", "--wrap", "sleep 60")
    until(lambda: sorted(clients.queue().values()) == ["PENDING", "RUNNING"])
    jobs = slurm.jobs(tmp_path / "こちら a")
    assert [job.name for job in jobs] == ["split", "split"]
    assert [job.number.partition("_")[2] for job in jobs] == ["1", "2"]
    assert {job.state for job in jobs} <= {"RUNNING", "PENDING"}
    slurm.cancel(jobs)
    until(lambda: not slurm.jobs(tmp_path / "こちら a"))
    assert len(slurm.jobs(tmp_path / "あちら")) == 2


def test_a_job_knows_the_time_it_has_left(clients, monkeypatch):
    number = clients.call("sbatch", "--parsable", "-o", "/dev/null", "--time", "30", "--wrap", "sleep 60").strip()
    until(lambda: clients.jobs()[number]["JobState"] == "RUNNING")
    assert 1700 < slurm.seconds_left(number) <= 1800
    monkeypatch.setenv("SLURM_JOB_ID", number)
    config = Pretrain(architecture="gpt2", config={}, corpora={"wiki": 1}, max_steps=1)
    began = time.monotonic() - 100  # the budget counts from then, what the job has left from now
    for budget, left in (
        (0, 1800 - pretrain.END_MARGIN),
        (2.5, 50),
        (600, 1800 - pretrain.END_MARGIN),
    ):  # minutes, seconds
        ends = pretrain.ending(config.model_copy(update={"time_budget": budget}), began)
        assert left - 100 < ends - time.monotonic() <= left
    assert not slurm.is_rule(number)
    assert not slurm.gone(number)
    clients.call("scancel", number)
    until(lambda: slurm.gone(number))
    assert slurm.gone("987654321")


def test_without_a_job_nothing_limits_a_training(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    config = Pretrain(architecture="gpt2", config={}, corpora={"wiki": 1}, max_steps=1)
    assert pretrain.ending(config, 0.0) == math.inf


def test_a_limit_that_cannot_be_asked_for_is_logged(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    config = Pretrain(architecture="gpt2", config={}, corpora={"wiki": 1}, max_steps=1)
    with caplog.at_level("INFO", logger="jalm"):
        assert pretrain.ending(config, 0.0) == math.inf
    assert "how long this job may last is not known" in caplog.text


def test_the_first_of_several_nodes_is_where_slurm_says_that_it_is(clients):
    assert slurm.first_node("n[1-2]") == "127.0.0.1"
    assert slurm.first_node("n2") == "127.0.0.1"


def test_what_slurm_answers_to_a_mistake_is_the_message(clients):
    with pytest.raises(slurm.SlurmError, match=r"scontrol requeue 987654321: .*Invalid job id"):
        slurm.requeue("987654321")
    with pytest.raises(slurm.SlurmError, match="no-such-command"):
        slurm.ask("no-such-command")
    assert os.environ["PATH"].startswith(str(clients.folder))
