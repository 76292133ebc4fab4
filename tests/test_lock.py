"""One writer of a training state, on whatever machine."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from jalm.formats import lock
from jalm.formats.lock import LockError

HOLD = """
import sys, time
from pathlib import Path
from jalm.formats import lock
with lock.locked(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def quick(monkeypatch):
    """Signs of life every tenth of a second, death after one."""
    monkeypatch.setattr(lock, "HEARTBEAT", 0.1)
    monkeypatch.setattr(lock, "SILENCE", 1)


def left_by(folder, **holder) -> None:
    """The lock of a process that did not let go of it."""
    folder.mkdir(exist_ok=True)
    (folder / "lock").write_text(json.dumps({"process": 7, "host": "n1", "job": ""} | holder), encoding="utf-8")


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    said = []
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        refusal = rf"is being written by process {holder.pid} on .*; wait for it, or end it: kill {holder.pid}$"
        with pytest.raises(LockError, match=refusal):
            lock.locked(tmp_path, said.append).__enter__()
        os.kill(holder.pid, signal.SIGKILL)
    assert not said
    with lock.locked(tmp_path, said.append):
        assert said == [
            f"{tmp_path} was locked by process {holder.pid} on {socket.gethostname()}, which is dead; going on"
        ]


def test_a_lock_is_free_after_its_block_even_if_that_failed(tmp_path):
    with pytest.raises(ZeroDivisionError), lock.locked(tmp_path, print):
        raise ZeroDivisionError
    said = []
    with lock.locked(tmp_path, said.append):
        assert json.loads((tmp_path / "lock").read_text())["process"] == os.getpid()
    assert not said


def test_a_lock_of_another_machine_is_taken_over_when_it_shows_no_sign_of_life(tmp_path, quick):
    left_by(tmp_path, host="n1", job="45")
    said = []
    with lock.locked(tmp_path, said.append):
        pass
    assert said == [
        f"{tmp_path} was locked by process 7 on n1, Slurm job 45; waiting 1 s for a sign of life",
        f"{tmp_path} was locked by process 7 on n1, Slurm job 45, which is dead; going on",
    ]


def test_a_lock_that_another_machine_keeps_touching_is_respected_and_its_job_named(tmp_path, quick):
    """The clocks of the machines need not agree: it is enough that the time of the file moves."""
    left_by(tmp_path, job="45")
    ended = threading.Event()

    def live():
        beat = 1_000_000_000  # a clock of long ago
        while not ended.wait(0.1):
            beat += 1
            os.utime(tmp_path / "lock", (beat, beat))

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(LockError, match=r"written by process 7 on n1, Slurm job 45; .* end it: scancel 45$"):
            lock.locked(tmp_path, print).__enter__()
    finally:
        ended.set()
        thread.join()
    assert json.loads((tmp_path / "lock").read_text())["job"] == "45"


def test_a_holder_touches_its_lock_and_notices_when_another_has_taken_it(tmp_path, quick):
    with lock.locked(tmp_path, print) as held:
        before = (tmp_path / "lock").stat().st_mtime_ns
        time.sleep(0.5)
        assert (tmp_path / "lock").stat().st_mtime_ns > before
        held.check()
        left_by(tmp_path, host="n2")
        time.sleep(0.5)
        with pytest.raises(LockError, match="was taken over by another process; this one ends without saving"):
            held.check()
    assert json.loads((tmp_path / "lock").read_text())["host"] == "n2"  # not ours to clear


def test_a_lock_that_says_nothing_readable_is_a_dead_one(tmp_path, quick):
    (tmp_path / "lock").write_text('{"proc', encoding="utf-8")
    said = []
    with lock.locked(tmp_path, said.append):
        pass
    assert "process ? on ?" in said[-1]


def test_a_lock_of_a_job_that_is_gone_is_taken_over_at_once_but_not_that_of_our_own_job(tmp_path, quick, monkeypatch):
    """A job that was put back into the queue may have left a process behind, on a node that Slurm lost sight of."""
    asked, said = [], []
    left_by(tmp_path, job="45")
    with lock.locked(tmp_path, said.append, lambda job: asked.append(job) or True):
        pass
    assert (asked, len(said)) == (["45"], 1)
    monkeypatch.setenv("SLURM_JOB_ID", "45")
    left_by(tmp_path, job="45")
    with lock.locked(tmp_path, said.append, pytest.fail):
        pass
    assert "waiting 1 s for a sign of life" in said[1]


def test_on_a_file_system_without_locks_a_holder_on_this_machine_is_watched_too(tmp_path, quick, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    said = []
    left_by(tmp_path, host=socket.gethostname())
    with lock.locked(tmp_path, said.append):
        assert "waiting 1 s" in said[0]


def test_a_holder_that_could_not_touch_its_lock_for_long_does_not_write(tmp_path, quick, monkeypatch):
    """A server that is away for a moment is forgiven; another machine may have taken over what was silent for long."""
    with lock.locked(tmp_path, print) as held:

        def stale(*_):
            raise OSError(errno.ESTALE, "Stale file handle")

        monkeypatch.setattr(os, "utime", stale)
        time.sleep(0.3)
        held.check()
        monkeypatch.undo()
        monkeypatch.setattr(lock, "SILENCE", 0.2)
        monkeypatch.setattr(held, "_touched", held._touched - 1)
        with pytest.raises(LockError, match="could not be touched for"):
            held.check()


# ---- who holds it


def test_the_holder_of_a_state_is_seen_until_it_is_killed(tmp_path):
    assert lock.holder(tmp_path) == ""
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert lock.holder(tmp_path) == f"process {process.pid} on {socket.gethostname()}"
        os.kill(process.pid, signal.SIGKILL)
    assert lock.holder(tmp_path) == ""
    with lock.locked(tmp_path, print):
        assert lock.holder(tmp_path) == f"process {os.getpid()} on {socket.gethostname()}"
    assert lock.holder(tmp_path) == ""


def test_a_holder_on_another_machine_counts_until_its_job_is_gone_or_it_is_silent(tmp_path):
    left_by(tmp_path, host="n1", job="45")
    before = (tmp_path / "lock").stat().st_mtime_ns
    assert lock.holder(tmp_path) == "process 7 on n1, Slurm job 45"
    assert lock.holder(tmp_path, lambda job: job == "45") == ""
    assert (tmp_path / "lock").stat().st_mtime_ns == before  # looking is no sign of life
    silent = time.time() - lock.SILENCE - 1
    os.utime(tmp_path / "lock", (silent, silent))
    assert lock.holder(tmp_path) == ""


def test_a_holder_is_seen_by_its_signs_of_life_on_a_file_system_without_locks(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    left_by(tmp_path, host=socket.gethostname())
    assert lock.holder(tmp_path) == f"process 7 on {socket.gethostname()}"
    os.utime(tmp_path / "lock", (0, 0))
    assert lock.holder(tmp_path) == ""
