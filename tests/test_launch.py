"""Several processes train one model: the same model, and they end together."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import log_of, wait_for

from jalm import slurm
from jalm.commands import launch
from jalm.commands.launch import LaunchError
from jalm.formats import checkpoints

INTERRUPTED = {"max_steps": 60, "save_steps": 10, "eval_steps": 20}


def command(processes: int, *stage: str) -> list[str]:
    """A call of `jalm launch`."""
    return [sys.executable, "-m", "jalm", "launch", "--processes", str(processes), "--cpus", "1", *stage]


def start(tiny, config, folder, processes: int) -> subprocess.Popen:
    """A training as several processes of this machine."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    stage = command(processes, "pretrain", *tiny.training(config, folder))
    return subprocess.Popen(stage, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def train(tiny, config, folder, processes: int) -> list[dict]:
    """A training to its end; its log but for the speed."""
    process = start(tiny, config, folder, processes)
    _, printed = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    return log_of(folder / "output")


def ranks(process: subprocess.Popen) -> list[int]:
    """Process ids of the trainings that a launch has started."""
    found = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "jalm pretrain"], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


@pytest.fixture(scope="module")
def two(tiny, tmp_path_factory) -> list[dict]:
    """Log of a training by two processes, with dropout, that nobody disturbed."""
    return train(tiny, tiny.config("gpt2", dropout=0.1, **INTERRUPTED), tmp_path_factory.mktemp("two"), 2)


# ---- the same model


@pytest.mark.parametrize(
    ("architecture", "optim"),
    [("gpt2", "adamw"), pytest.param("roberta", "muon", marks=pytest.mark.slow), ("bert", "muon")],
)
def test_two_processes_learn_what_one_does(tiny, tmp_path, architecture, optim):
    """Each works on half of a step's sequences, in two pieces, and they validate together."""
    knobs = {"optim": optim, "max_steps": 30, "learning_rate": 2e-3, "per_device_train_batch_size": 2, "eval_steps": 10}
    config = tiny.config(architecture, **knobs)
    one = train(tiny, config, tmp_path / "one", 1)
    both = train(tiny, config, tmp_path / "two", 2)
    assert [record["step"] for record in one] == [record["step"] for record in both]
    assert len(one) == 33
    for name in ("loss", "valid_loss"):
        first, second = ([record[name] for record in log if name in record] for log in (one, both))
        assert second == pytest.approx(first, abs=1e-5, rel=0)
        assert len(set(first)) == len(first)
    assert json.loads((tmp_path / "two/output/training.json").read_text())["processes"] == 2


@pytest.mark.parametrize(("before", "after"), [(1, 2), pytest.param(2, 1, marks=pytest.mark.slow)])
def test_another_number_of_processes_goes_on_with_the_same_training(tiny, tmp_path, before, after):
    config = tiny.config("gpt2", **INTERRUPTED | {"max_steps": 40, "learning_rate": 1e-3})
    whole = train(tiny, config, tmp_path / "whole", 1)
    process = start(tiny, config, tmp_path / "changed", before)
    wait_for(15, tmp_path / "changed", process)
    process.send_signal(signal.SIGTERM)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "saved at step" in printed
    changed = train(tiny, config, tmp_path / "changed", after)
    assert [r["loss"] for r in changed if "loss" in r] == pytest.approx(
        [r["loss"] for r in whole if "loss" in r], abs=1e-5
    )
    (settings,) = (tmp_path / "changed").glob("states/*/settings.json")
    assert [run["processes"] for run in json.loads(settings.read_text())["runs"]] == [before, after]


def test_a_batch_that_the_processes_cannot_share_is_refused(tiny, tmp_path):
    config = tiny.config("gpt2", global_batch_size=9, per_device_train_batch_size=3)
    process = start(tiny, config, tmp_path, 2)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 1
    message = "pretrain: global_batch_size 9 does not divide into 2 processes; use 6 or 12, or another number of GPUs\n"
    assert message in printed
    assert "Traceback" not in printed


# ---- ending together


def test_one_process_killed_ends_both_and_the_next_start_goes_on_to_the_last_bit(tiny, tmp_path, two):
    config = tiny.config("gpt2", dropout=0.1, **INTERRUPTED)
    process = start(tiny, config, tmp_path, 2)
    wait_for(15, tmp_path, process)
    os.kill(ranks(process)[1], signal.SIGKILL)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 1
    assert printed.splitlines()[-1].startswith("launch: process ")
    assert train(tiny, config, tmp_path, 2) == two


@pytest.mark.slow
def test_all_killed_with_their_launcher_leave_a_state_that_goes_on_to_the_last_bit(tiny, tmp_path, two):
    config = tiny.config("gpt2", dropout=0.1, **INTERRUPTED)
    process = start(tiny, config, tmp_path, 2)
    wait_for(25, tmp_path, process)
    for pid in [process.pid, *ranks(process)]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert train(tiny, config, tmp_path, 2) == two


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1)),
    ],
)
def test_a_launcher_that_is_told_to_stop_lets_the_processes_save(tiny, tmp_path, two, number):
    config = tiny.config("gpt2", dropout=0.1, **INTERRUPTED | {"save_steps": 1000})
    process = start(tiny, config, tmp_path, 2)
    wait_for(5, tmp_path, process)
    os.killpg(process.pid, number)  # as a terminal and Slurm do: to each process
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "saved at step" in printed
    assert "Traceback" not in printed
    assert train(tiny, config, tmp_path, 2) == two


SLOW_SAVES = """
import sys, time
if "pretrain" in sys.orig_argv:
    from jalm.formats import checkpoints
    sync = checkpoints._sync_all
    checkpoints._sync_all = lambda folder: (time.sleep(4), sync(folder))
"""


def alive(pid: int) -> bool:
    """Whether a process lives; one that nobody has waited for yet does not."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_no_process_ends_before_the_lead_has_saved(tiny, tmp_path, two, monkeypatch):
    """The launcher kills the others half a minute after the first has ended."""
    config = tiny.config("gpt2", dropout=0.1, **INTERRUPTED | {"save_steps": 1000})
    (tmp_path / "sitecustomize.py").write_text(SLOW_SAVES, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = start(tiny, config, tmp_path, 2)
    wait_for(5, tmp_path, process)
    (state,), (_, second) = (tmp_path / "states").iterdir(), ranks(process)
    os.kill(second, signal.SIGUSR1)
    while alive(second):
        time.sleep(0.05)
    assert checkpoints.steps(state)
    _, printed = process.communicate(timeout=60)
    assert (process.returncode, "saved at step" in printed) == (75, True)
    monkeypatch.delenv("PYTHONPATH")
    assert train(tiny, config, tmp_path, 2) == two


# ---- GPUs


def held(tmp_path, gpus: str) -> subprocess.Popen:
    """A process that holds GPUs."""
    program = (
        "import contextlib, sys, time\nfrom pathlib import Path\nfrom jalm.commands import launch\n"
        "with contextlib.ExitStack() as stack:\n"
        "    gpus = sys.argv[2].split(',')\n"
        "    print(launch.claim(gpus, len(gpus), Path(sys.argv[1]), stack), flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, tmp_path, gpus], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == f"{gpus.split(',')}\n"
    return process


def test_trainings_of_one_machine_take_different_gpus(tmp_path):
    with held(tmp_path, "0") as other, contextlib.ExitStack() as stack:
        assert launch.claim(["0", "1", "2"], 2, tmp_path, stack) == ["1", "2"]
        other.kill()


def test_a_training_waits_until_a_gpu_is_free(tmp_path, caplog):
    with held(tmp_path, "0,1") as other, contextlib.ExitStack() as stack:
        subprocess.Popen(["sh", "-c", f"sleep 2; kill -9 {other.pid}"])
        began = time.monotonic()
        assert launch.claim(["0", "1"], 1, tmp_path, stack) == ["0"]
        assert time.monotonic() - began > 1


def test_more_gpus_than_the_machine_has_are_refused(tmp_path):
    with pytest.raises(LaunchError, match="--gpus 3, but this machine has 2 to use: 0, 1"):
        launch.claim(["0", "1"], 3, tmp_path, contextlib.ExitStack())


def test_the_gpus_are_those_that_the_job_or_the_user_gave(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert launch.given_gpus() == ["2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert launch.given_gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert launch.given_gpus() == []


# ---- mistakes


@pytest.mark.parametrize("node", ["0", "1"])
def test_a_node_that_meets_no_other_ends_with_a_message(node, monkeypatch):
    monkeypatch.setattr(launch, "MEETING_TIME", 3)
    monkeypatch.setattr(slurm, "first_node", lambda _: "127.0.0.1")
    for name, value in {"SLURM_NODEID": node, "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "77"}.items():
        monkeypatch.setenv(name, value)
    message = rf"node {int(node) + 1} of 2 did not meet the others at 127.0.0.1:20077 \(.*imed out"
    with pytest.raises(LaunchError, match=message):
        launch.start_processes(["pretrain"], nodes=2, processes=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "launch: which stage? jalm launch [options] STAGE …"),
        (["--nodes", "2", "pretrain"], "launch: --nodes 2 needs a Slurm job; "),
        (["pretrian"], "jalm: 'pretrian' is not one of: "),
    ],
)
def test_a_mistake_ends_in_one_message(options, message):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    stage = [sys.executable, "-m", "jalm", "launch", *options]
    ran = subprocess.run(stage, capture_output=True, text=True, env=environment)
    assert ran.returncode == 1
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
