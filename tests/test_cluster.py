"""The workflow on a real Slurm cluster: what runs where, and what becomes of it when something ends too early."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cluster import ACCOUNTING, missing, started, until

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

# the shipped profile, asking for the states of jobs more often, and of squeue, which needs no accounting
PROFILE = (
    "--profile",
    "slurm",
    "--seconds-between-status-checks",
    "1",
    "--slurm-init-seconds-before-status-checks",
    "2",
)
SQUEUE = (*PROFILE, "--slurm-status-command", "squeue")
MODEL = "results/pretrain/gpt2-tiny-20261001"
DATA = ("results/extract", "results/segment", "results/filter", "results/dedup", "results/split", "results/shard")

# trains for some seconds, in which a test can do something
LONG = (
    "models={roberta-tiny: null, gpt2-tiny: {max_steps: 120, save_steps: 20, logging_steps: 1, eval_steps: 50,"
    " block_size: 128, config: {n_layer: 2, n_embd: 128, resid_pdrop: 0.1}}}"
)


@pytest.fixture
def slurm(finished, cluster, tmp_path):
    """Makes a workflow whose jobs go to the cluster; its queue is empty before and after."""
    assert not cluster.queue()

    def make(workflow=None):
        return replace(
            workflow or finished.elsewhere(tmp_path / "work"), options=SQUEUE, environment=cluster.environment
        )

    yield make
    cluster.idle()


def jalm(workflow, *args: str) -> subprocess.CompletedProcess:
    """A call of jalm on the cluster."""
    environment = os.environ | workflow.environment
    return subprocess.run(
        [sys.executable, "-m", "jalm", *args], capture_output=True, text=True, env=environment, timeout=120
    )


def undisturbed(finished, name: str, knobs: str, cores: int = 8) -> list[tuple]:
    """Losses of a training on this machine, with as many threads as a job has: another number rounds differently."""
    workflow = finished.moved(name)
    workflow.run(MODEL, "--config", knobs, cores=cores)
    return losses(workflow)


def losses(workflow) -> list[tuple]:
    """Step, loss and validation loss of each line of a training's log."""
    lines = (workflow.work / MODEL / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [(line["step"], line.get("loss"), line.get("valid_loss")) for line in map(json.loads, lines)]


def ended(process: subprocess.Popen, seconds: float = 300) -> str:
    """Output of a snakemake that has to end well."""
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, output[-5000:]
    return output


def killed(process: subprocess.Popen) -> None:
    """End the head at once, as when the login node goes down."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


# ---- everything


@pytest.fixture(scope="module")
def on_slurm(finished, cluster, tmp_path_factory):
    """The data stages by `snakemake data --cores 1 --profile slurm`: the workflow and its jobs."""
    work = finished.elsewhere(tmp_path_factory.mktemp("cluster") / "work")
    workflow = replace(work, options=SQUEUE, environment=cluster.environment)
    before = cluster.jobs().keys()
    workflow.run("data", cores=1)
    return workflow, [job for number, job in cluster.jobs().items() if number not in before]


def asked(jobs: list[dict[str, str]]) -> dict[str, set[tuple]]:
    """Rule to partition, cores, longest time and GPUs of its jobs."""
    found = {}
    for job in jobs:
        rule = re.match(r"rule_([a-z_]+?)_wildcards", job["Comment"])[1]
        told = (job["Partition"], job["NumCPUs"], job["TimeLimit"], job.get("TresPerJob", ""))
        found.setdefault(rule, set()).add(told)
    return found


def test_the_data_stages_make_on_the_cluster_what_they_make_here(on_slurm, finished):
    workflow, _ = on_slurm
    made = workflow.files(*DATA)
    assert len(made) > 30
    assert made == finished.files(*DATA)


def test_moving_to_a_cluster_makes_nothing_stale(on_slurm, finished):
    workflow, _ = on_slurm
    assert workflow.stale("data") == set()
    assert replace(workflow, options=(), environment={}).stale("data") == set()
    assert replace(finished, options=SQUEUE, environment=workflow.environment).stale() == set()


def test_jobs_ask_for_what_the_profile_says_whatever_the_cores_of_the_head_are(on_slurm):
    _, jobs = on_slurm
    told = asked(jobs)
    assert told["extract"] == {("cpu", "1", "04:00:00", "")}
    assert told["shard"] == {("cpu", "4", "01:00:00", "")}
    assert told["train_tokenizer"] == {("cpu", "2", "06:00:00", "")}  # as many as num_threads
    assert not {"download", "split_summary"} & told.keys()


@pytest.mark.parametrize("rule", ["extract", "split", "shard"])  # whose parts become ready together
def test_parts_are_one_job_array(on_slurm, rule):
    _, jobs = on_slurm
    parts = [job for job in jobs if job["Comment"].startswith(f"rule_{rule}_wildcards")]
    assert sorted(job["ArrayTaskId"] for job in parts) == ["1", "2"]
    assert len({job["ArrayJobId"] for job in parts}) == 1


def test_a_part_that_is_done_before_the_others_of_its_array_stays_done(slurm, finished):
    moved = finished.moved("array")
    main = '"""Run the stage."""\n'
    later = '    import os, time\n    time.sleep(3 * int(os.environ["SLURM_ARRAY_TASK_ID"]))\n'
    parts = [f"results/split/jawiki-20261001/counts/{part}.json" for part in ("000", "001")]
    with moved.edited("workflow/jalm/stages/split.py", main, main + later):
        workflow = slurm(moved)
        assert [rule for rule, _ in workflow.run(*parts).jobs] == ["split", "split"]
        assert workflow.stale(*parts) == set()


# ---- several GPUs and nodes


IN_STEP = LONG.replace("resid_pdrop: 0.1", "resid_pdrop: 0, embd_pdrop: 0").replace("120", "25, learning_rate: 5.0e-4")


@pytest.fixture(scope="module")
def alone(finished):
    """Losses of one process."""
    return undisturbed(finished, "one-process", IN_STEP, cores=2)


@pytest.mark.parametrize(
    ("resources", "nodes"),
    [
        ("pretrain:nodes=2 pretrain:tasks=2 pretrain:tasks_per_gpu=0 pretrain:mpi=srun pretrain:gres=gpu:1", 2),
        pytest.param("pretrain:gpu=2", 1, marks=pytest.mark.slow),
    ],
)
def test_a_training_over_several_gpus_has_the_losses_of_one_process(slurm, finished, cluster, alone, resources, nodes):
    several = slurm(finished.moved(f"{nodes}-nodes"))
    several.run(MODEL, "--set-resources", "pretrain:cpus_per_task=2", *resources.split(), "--config", IN_STEP)
    number = max(cluster.jobs(), key=int)
    assert cluster.jobs()[number]["NumNodes"] == str(nodes)
    assert json.loads((several.work / MODEL / "training.json").read_text())["processes"] == 2
    together = losses(several)
    assert len(alone) == 26
    pairs = [(a, b) for left, right in zip(alone, together, strict=True) for a, b in zip(left, right, strict=True) if a]
    difference = max(abs(a - b) for a, b in pairs)
    print(f"largest difference of {len(pairs)} numbers: {difference:.1e}")
    assert 0 < difference < 1e-4, difference  # Muon's steps are of bfloat16, where rounding goes far


# ---- jobs that cannot start


def test_a_job_that_asks_for_too_much_is_refused_at_once(slurm, finished):
    workflow = slurm(finished.moved("too-many"))
    ran = workflow.snakemake(MODEL, "--retries", "0", "--set-resources", "pretrain:gpu=9", "--config", LONG)
    assert ran.status != 0
    assert "Requested node configuration is not available" in ran.output


@pytest.mark.slow
def test_a_job_that_cannot_start_as_it_is_is_reported_and_fails(slurm, finished, cluster):
    workflow = slurm(finished.moved("waiting"))
    resources = ["pretrain:slurm_partition=short", "pretrain:runtime=60"]
    with workflow.edited("workflow/rules/cluster.smk", "QUEUE_INTERVAL = 30", "QUEUE_INTERVAL = 2"):
        ran = workflow.snakemake(MODEL, "--retries", "0", "--set-resources", *resources, "--config", LONG)
    assert ran.status != 0
    what = r"Slurm job \d+ \(pretrain gpt2-tiny-20261001\) will not start and was cancelled: PartitionTimeLimit: it asks for"
    assert re.search(what, ran.output)
    assert not cluster.queue()


def test_ctrl_c_while_jobs_are_submitted_leaves_an_empty_queue(slurm, cluster):
    workflow = slurm()
    many = ["--config", "corpora={jawiki: {parts: 30}}", "--slurm-array-jobs", ""]
    cluster.call("scontrol", "update", "NodeName=n[1-2]", "State=DRAIN", "Reason=test")  # jobs wait, and do not end
    try:
        process = workflow.started("corpus", *many, wait=False)
        until(lambda: len(cluster.queue()) > 2)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        if process.poll() is None:  # Snakemake may miss one that comes at a bad moment; a user asks again
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=180)
        assert not cluster.queue()
    finally:
        cluster.call("scontrol", "update", "NodeName=n[1-2]", "State=RESUME")


def test_fewer_jobs_at_once_than_an_array_has_parts_are_refused(slurm):
    """The executor plugin would wait for ever."""
    ran = slurm().snakemake("corpus", "--jobs", "2", "--config", "corpora={jawiki: {parts: 6}}")
    assert ran.status != 0
    assert "--jobs 2 is less than the 6 parts that may be ready at once" in ran.output
    assert "do without arrays: --slurm-array-jobs ''" in ran.output


def test_several_nodes_that_are_asked_for_by_half_are_refused(slurm, finished):
    """Slurm would wait for ever."""
    ran = slurm(finished.moved("half")).snakemake(MODEL, "--set-resources", "pretrain:nodes=2", "--config", LONG)
    assert ran.status != 0
    assert "pretrain has nodes: 2 in the profile, which needs tasks: 2, tasks_per_gpu: 0, mpi: srun too" in ran.output


# ---- the head dies


@pytest.mark.slow
def test_a_new_start_refuses_to_write_beside_living_jobs_and_takes_the_training_that_was_waited_for(
    slurm, finished, cluster
):
    workflow = slurm(finished.moved("headless"))
    process = workflow.started(MODEL, "--config", LONG, wait=False)
    number = until(lambda: cluster.running("pretrain"))
    killed(process)
    workflow.run("--unlock")
    for again in (workflow, replace(workflow, options=())):  # by Slurm, and without it
        refused = again.snakemake(MODEL, "--config", LONG)
        assert refused.status != 0
        assert "An earlier start has left jobs in the queue, which write here:" in refused.output
        assert re.search(rf"{number} +pretrain gpt2-tiny-20261001 +RUNNING", refused.output)
    assert re.match(
        rf"{number} +pretrain gpt2-tiny-20261001 +RUNNING", jalm(workflow, "jobs", "--directory", workflow.work).stdout
    )
    waited = jalm(workflow, "jobs", "--wait", "--directory", str(workflow.work))
    assert waited.returncode == 0, waited.stderr
    assert not cluster.queue()
    trained = (workflow.work / MODEL / "model.safetensors").read_bytes()
    workflow.run(MODEL, "--config", LONG)
    assert "its model, without training" in (workflow.work / "logs/pretrain/gpt2-tiny-20261001.log").read_text()
    assert (workflow.work / MODEL / "model.safetensors").read_bytes() == trained
    assert workflow.stale(MODEL, "--config", LONG) == set()
    assert workflow.stale(MODEL, "--config", LONG.replace("120", "130")) == {"pretrain"}


def test_what_a_job_made_without_its_head_is_made_again(slurm, cluster):
    """Nobody recorded what it was made from, so that a change would not make it stale."""
    workflow = slurm()
    process = workflow.started("results/extract/jawiki-20261001/000.jsonl.zst", wait=False)
    until(lambda: cluster.running("extract"))
    killed(process)
    until(lambda: not cluster.queue())
    assert (workflow.work / "results/extract/jawiki-20261001/000.jsonl.zst").is_file()
    workflow.run("--unlock")
    assert workflow.stale("results/extract/jawiki-20261001/000.jsonl.zst") == {"extract"}


@pytest.mark.slow
def test_living_jobs_can_be_cancelled_and_their_training_goes_on_in_the_next_start(slurm, finished, cluster):
    workflow = slurm(finished.moved("cancelled"))
    process = workflow.started(MODEL, "--config", LONG, wait=False)
    until(lambda: cluster.running("pretrain"))
    until(lambda: list(workflow.work.glob("states/gpt2-tiny-20261001/*/checkpoints/step-000000020")))
    killed(process)
    workflow.run("--unlock")
    cancelled = jalm(workflow, "jobs", "--cancel", "--directory", str(workflow.work))
    assert cancelled.returncode == 0, cancelled.stderr
    assert not cluster.queue()
    workflow.run(MODEL, "--config", LONG)
    assert losses(workflow) == undisturbed(finished, "undisturbed-cancelled", LONG)
    assert (
        "going on from the checkpoint of step" in (workflow.work / "logs/pretrain/gpt2-tiny-20261001.log").read_text()
    )


def test_jobs_of_another_folder_are_not_ours(slurm, finished, cluster, tmp_path):
    workflow = slurm(finished.moved("ours"))
    cluster.call("sbatch", "--output", f"{tmp_path}/%j.log", "--wrap", "sleep 60")
    assert jalm(workflow, "jobs", "--directory", str(workflow.work)).stdout.startswith("no jobs of ")
    nowhere = jalm(workflow, "jobs", "--directory", str(workflow.work / "nosuch"))
    assert (nowhere.returncode, "there is no such folder" in nowhere.stderr) == (1, True)
    assert "Nothing to be done" in workflow.run().output
    assert len(cluster.queue()) == 1


# ---- ended too early: slow, since Slurm lets a job that comes back into the queue wait


def again_at_once(cluster, number: str) -> None:
    """Wait until a job is back in the queue, and let it start without the two minutes that Slurm would wait."""
    until(lambda: cluster.jobs()[number]["JobState"] == "PENDING")
    cluster.call("scontrol", "update", f"JobId={number}", "StartTime=now")


def checkpoint(workflow, after: int) -> int:
    """Wait for a checkpoint of a later step than `after`; its step."""

    def newest() -> int:
        found = workflow.work.glob("states/gpt2-tiny-20261001/*/checkpoints/step-*")
        return max((int(path.name[5:]) for path in found if path.name[5:].isdigit()), default=0)

    return until(lambda: newest() if newest() > after else 0, 120)


@pytest.mark.slow
def test_a_training_that_slurm_ends_again_and_again_learns_what_an_undisturbed_one_does(slurm, finished, cluster):
    """Its time is up; it is requeued; its node dies. The job keeps its number, and every loss its last bit."""
    knobs = LONG.replace("120", "900").replace("gpt2-tiny: {", "gpt2-tiny: {time_budget: 0.25, ")
    workflow = slurm(finished.moved("disturbed"))
    head = workflow.started(MODEL, "--config", knobs, wait=False)
    number = until(lambda: cluster.running("pretrain"))

    until(lambda: cluster.jobs()[number]["JobState"] == "PENDING", 120)
    log = workflow.work / "logs/pretrain/gpt2-tiny-20261001.log"
    assert "pretrain: time is up; saved at step" in log.read_text()
    assert f"job {number} goes back into the queue" in log.read_text()
    again_at_once(cluster, number)

    saved = checkpoint(workflow, checkpoint(workflow, 0))
    cluster.call("scontrol", "requeue", number)
    again_at_once(cluster, number)

    until(lambda: cluster.running("pretrain"))
    checkpoint(workflow, checkpoint(workflow, saved))  # it was saved when it was requeued; now it goes on
    node = cluster.jobs()[number]["NodeList"]
    cluster.kill_node(node)
    until(lambda: cluster.jobs()[number]["JobState"] == "PENDING", 120)
    again_at_once(cluster, number)
    until(lambda: cluster.running("pretrain"))
    assert cluster.jobs()[number]["NodeList"] != node
    while head.poll() is None:  # its time is up once or twice more
        if cluster.jobs()[number]["JobState"] == "PENDING":
            again_at_once(cluster, number)
        time.sleep(1)
    ended(head)
    cluster.start_node(node)
    assert int(cluster.jobs()[number]["Restarts"]) >= 3

    expected = undisturbed(finished, "undisturbed", knobs.replace("time_budget: 0.25, ", ""))
    assert len(expected) == 918
    assert losses(workflow) == expected


@pytest.mark.slow
def test_a_job_that_ran_out_of_memory_gets_more_in_its_next_attempt(slurm, finished, cluster):
    moved = finished.moved("memory")
    hungry = "    ballast = bytearray(300_000_000)\n    import time\n    time.sleep(15)\n    "
    main = '"""Run the stage."""\n    '
    with (
        contextlib.ExitStack() as stack,
        moved.edited("workflow/jalm/stages/dedup.py", main, f"{main.rstrip()}\n{hungry}"),
        moved.edited("workflow/rules/corpus.smk", "mem_mb=growing(4000)", "mem_mb=growing(400)"),
    ):
        stack.callback(shutil.rmtree, moved.work)
        before = cluster.jobs().keys()
        ran = slurm(moved).run("results/dedup/jawiki-20261001/drop.jsonl.zst")
        jobs = [job for number, job in cluster.jobs().items() if number not in before]
    assert [(job["MinMemoryNode"], job["JobState"]) for job in jobs][-1] == ("800M", "COMPLETED")
    assert jobs[0]["MinMemoryNode"] == "400M"
    assert jobs[0]["JobState"] != "COMPLETED"
    assert "Trying to restart job" in ran.output


@pytest.mark.slow
@pytest.mark.skipif(bool(missing(*ACCOUNTING)), reason=missing(*ACCOUNTING))
def test_the_shipped_profile_works_with_accounting_as_sites_have_it(finished, tmp_path):
    """States come from sacct; `slurm-status-command` is left to the plugin, as in the profile."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, started(Path(folder), accounting=True) as cluster:
        workflow = replace(finished.elsewhere(tmp_path / "work"), options=PROFILE, environment=cluster.environment)
        ran = workflow.run(cores=1)
        assert re.search(r"(\d+) of \1 steps \(100%\) done", ran.output)
        assert workflow.files(*DATA) == finished.files(*DATA)
        assert len(list((workflow.work / "results/export").glob("*/model.safetensors"))) == 2
        assert workflow.stale() == set()
        told = asked(list(cluster.jobs().values()))
        assert told["pretrain"] == {("gpu", "8", "1-00:00:00", "gres:gpu:1")}
        assert told["evaluate"] == {("gpu", "4", "02:00:00", "gres:gpu:1")}
        states = cluster.call("sacct", "-X", "-n", "-P", "-o", "State").splitlines()
        assert len(states) > 15
        assert set(states) == {"COMPLETED"}
