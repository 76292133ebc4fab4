import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from jalm.formats import checkpoints
from jalm.formats.checkpoints import StateError

HOLD = """
import sys, time
from pathlib import Path
from jalm.formats import checkpoints
with checkpoints.locked(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


def save(state, step, content="重み"):
    """A checkpoint with two files, one of them in a folder."""
    with checkpoints.writing(checkpoints.checkpoint(state, step)) as folder:
        (folder / "model.bin").write_text(content, encoding="utf-8")
        (folder / "部品").mkdir()
        (folder / "部品/optimizer.bin").write_bytes(bytes(1000))


def flip(path):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# ---- checkpoints


def test_the_newest_whole_checkpoint_is_found(tmp_path):
    for step in (900, 1000, 20):  # not in the order of their names as text
        save(tmp_path, step)
    assert checkpoints.steps(tmp_path) == [20, 900, 1000]
    assert checkpoints.newest(tmp_path, pytest.fail) == 1000


def test_a_state_without_checkpoints_begins_at_zero(tmp_path):
    assert checkpoints.newest(tmp_path, pytest.fail) == 0
    assert checkpoints.steps(tmp_path / "none") == []


def test_a_process_killed_while_writing_leaves_the_checkpoint_before(tmp_path):
    save(tmp_path, 10)
    with pytest.raises(KeyboardInterrupt), checkpoints.writing(checkpoints.checkpoint(tmp_path, 20)) as folder:
        (folder / "model.bin").write_text("半分", encoding="utf-8")
        raise KeyboardInterrupt
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step-000000010",
        "step-000000020.partial",
    ]
    assert checkpoints.newest(tmp_path, pytest.fail) == 10
    save(tmp_path, 20)
    assert checkpoints.newest(tmp_path, pytest.fail) == 20
    assert not list((tmp_path / "checkpoints").glob("*.partial"))


@pytest.mark.parametrize("name", ["model.bin", "部品/optimizer.bin", "digests.json"])
@pytest.mark.parametrize("damage", [flip, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_a_damaged_checkpoint_is_passed_over_with_a_message(tmp_path, name, damage):
    save(tmp_path, 10)
    save(tmp_path, 20)
    damage(checkpoints.checkpoint(tmp_path, 20) / name)
    said = []
    assert checkpoints.newest(tmp_path, said.append) == 10
    assert said == [f"{checkpoints.checkpoint(tmp_path, 20)} is corrupt and is passed over"]


def test_where_all_checkpoints_are_damaged_the_training_begins_again(tmp_path):
    said = []
    for step in (10, 20):
        save(tmp_path, step)
        flip(checkpoints.checkpoint(tmp_path, step) / "model.bin")
    assert checkpoints.newest(tmp_path, said.append) == 0
    assert len(said) == 2


def test_a_damaged_folder_can_be_written_again(tmp_path):
    save(tmp_path, 10, "前")
    flip(checkpoints.checkpoint(tmp_path, 10) / "model.bin")
    save(tmp_path, 10, "後")
    assert checkpoints.whole(checkpoints.checkpoint(tmp_path, 10))
    assert (checkpoints.checkpoint(tmp_path, 10) / "model.bin").read_text(encoding="utf-8") == "後"


def test_the_last_checkpoints_are_kept(tmp_path):
    for step in (5, 50, 500, 5000):
        save(tmp_path, step)
    checkpoints.forget(tmp_path, keep=2)
    assert checkpoints.steps(tmp_path) == [500, 5000]
    checkpoints.forget(tmp_path, keep=3)
    assert checkpoints.steps(tmp_path) == [500, 5000]


# ---- the lock


@pytest.fixture
def quick(monkeypatch):
    """Signs of life every tenth of a second, death after one."""
    monkeypatch.setattr(checkpoints, "HEARTBEAT", 0.1)
    monkeypatch.setattr(checkpoints, "SILENCE", 1)


def left_by(folder, **holder) -> None:
    """The lock of a process that did not let go of it."""
    folder.mkdir(exist_ok=True)
    (folder / "lock").write_text(json.dumps({"process": 7, "host": "n1", "job": ""} | holder), encoding="utf-8")


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    said = []
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        refusal = rf"is being written by process {holder.pid} on .*; wait for it, or end it: kill {holder.pid}$"
        with pytest.raises(StateError, match=refusal):
            checkpoints.locked(tmp_path, said.append).__enter__()
        os.kill(holder.pid, signal.SIGKILL)
    assert not said
    with checkpoints.locked(tmp_path, said.append):
        assert said == [
            f"{tmp_path} was locked by process {holder.pid} on {socket.gethostname()}, which is dead; going on"
        ]


def test_a_lock_is_free_after_its_block_even_if_that_failed(tmp_path):
    with pytest.raises(ZeroDivisionError), checkpoints.locked(tmp_path, print):
        raise ZeroDivisionError
    said = []
    with checkpoints.locked(tmp_path, said.append):
        assert json.loads((tmp_path / "lock").read_text())["process"] == os.getpid()
    assert not said


def test_a_lock_of_another_machine_is_taken_over_when_it_shows_no_sign_of_life(tmp_path, quick):
    left_by(tmp_path, host="n1", job="45")
    said = []
    with checkpoints.locked(tmp_path, said.append):
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
        with pytest.raises(StateError, match=r"written by process 7 on n1, Slurm job 45; .* end it: scancel 45$"):
            checkpoints.locked(tmp_path, print).__enter__()
    finally:
        ended.set()
        thread.join()
    assert json.loads((tmp_path / "lock").read_text())["job"] == "45"


def test_a_holder_touches_its_lock_and_notices_when_another_has_taken_it(tmp_path, quick):
    with checkpoints.locked(tmp_path, print) as lock:
        before = (tmp_path / "lock").stat().st_mtime_ns
        time.sleep(0.5)
        assert (tmp_path / "lock").stat().st_mtime_ns > before
        lock.check()
        left_by(tmp_path, host="n2")
        time.sleep(0.5)
        with pytest.raises(StateError, match="was taken over by another process; this one ends without saving"):
            lock.check()
    assert json.loads((tmp_path / "lock").read_text())["host"] == "n2"  # not ours to clear


def test_a_lock_that_says_nothing_readable_is_a_dead_one(tmp_path, quick):
    (tmp_path / "lock").write_text('{"proc', encoding="utf-8")
    said = []
    with checkpoints.locked(tmp_path, said.append):
        pass
    assert "process ? on ?" in said[-1]


# ---- publishing


def files(folder) -> dict:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def test_published_files_are_the_same_files(tmp_path):
    save(tmp_path, 10)
    final = checkpoints.checkpoint(tmp_path, 10)
    checkpoints.publish(final, tmp_path / "結果/モデル")
    published = files(tmp_path / "結果/モデル")
    assert set(published) == {"model.bin", "部品/optimizer.bin", "digests.json"}
    assert all(path.samefile(final / name) for name, path in published.items())


def test_publishing_replaces_what_was_there(tmp_path):
    save(tmp_path, 10)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old.bin").touch()
    (tmp_path / "out.partial").mkdir()
    checkpoints.publish(checkpoints.checkpoint(tmp_path, 10), tmp_path / "out")
    assert set(files(tmp_path / "out")) == {"model.bin", "部品/optimizer.bin", "digests.json"}
    assert not (tmp_path / "out.partial").exists()


def test_removing_what_was_published_leaves_the_state(tmp_path):
    save(tmp_path, 10)
    checkpoints.publish(checkpoints.checkpoint(tmp_path, 10), tmp_path / "out")
    for path in files(tmp_path / "out").values():
        path.unlink()
    assert checkpoints.whole(checkpoints.checkpoint(tmp_path, 10))


def test_files_are_copied_where_links_are_impossible(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise OSError(18, "Invalid cross-device link")

    save(tmp_path, 10)
    monkeypatch.setattr(os, "link", refuse)
    final = checkpoints.checkpoint(tmp_path, 10)
    checkpoints.publish(final, tmp_path / "out")
    assert checkpoints.whole(tmp_path / "out")
    assert not (tmp_path / "out/model.bin").samefile(final / "model.bin")
