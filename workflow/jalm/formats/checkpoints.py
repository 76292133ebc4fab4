"""Training state on disk: one folder for one training, with checkpoints that are whole or not there.

A state's folder has `lock`, `settings.json`, `log.jsonl`, `checkpoints/step-…/` and, at the end, `final/`. It lies
outside what Snakemake deletes before it runs a job again.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from jalm import Fault
from jalm.formats.shards import digest

HEARTBEAT = 10  # seconds between two signs of life of a writer
SILENCE = 60  # seconds without one after which a writer on another machine is dead


class StateError(Fault):
    """A training state that cannot be used."""


class Lock:
    """The right to write to a state, as `locked` gives it.

    The holder's name stands in the file `lock`, which the holder touches every few seconds: on a cluster, a lock of the
    kernel's does not reach every node, and a job that is gone cannot tell.
    """

    def __init__(self, file: TextIO, holder: dict) -> None:
        self.lost = False
        self._file, self._text = file, json.dumps(holder)
        self._ended = threading.Event()
        file.seek(0)
        file.truncate()
        file.write(self._text)
        file.flush()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self.lost and not self._ended.wait(HEARTBEAT):
            self.lost = _read(Path(self._file.name))[0] != self._text
            if not self.lost:
                os.utime(self._file.fileno())

    def check(self) -> None:
        """Raise StateError if another process has taken the state over."""
        if self.lost:
            raise StateError(f"{self._file.name} was taken over by another process; this one ends without saving")

    def release(self) -> None:
        """Let go of the state."""
        self._ended.set()
        self._thread.join()
        if not self.lost:
            self._file.truncate(0)


@contextlib.contextmanager
def locked(folder: Path, say: Callable[[str], None]) -> Iterator[Lock]:
    """Keep a second writer out of a state; `say` hears of a dead one's lock that is taken over.

    A holder on this machine is known to live, or not, at once. One on another machine lives as long as it touches the
    lock: it is watched for at most SILENCE seconds.

    Raises:
        StateError: another process is writing there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    me = {"process": os.getpid(), "host": socket.gethostname(), "job": os.environ.get("SLURM_JOB_ID", "")}
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(_refusal(folder, _read(path)[0])) from None
        text, touched = _read(path)
        if text:
            holder = _holder(text)
            began = time.monotonic()
            if holder.get("host") != me["host"]:
                say(f"{folder} was locked by {_who(holder)}; waiting {SILENCE} s for a sign of life")
                while time.monotonic() - began < SILENCE:
                    time.sleep(min(1, HEARTBEAT))
                    if _read(path) != (text, touched):
                        raise StateError(_refusal(folder, _read(path)[0]))
            say(f"{folder} was locked by {_who(holder)}, which is dead; going on")
        lock = Lock(file, me)
        try:
            yield lock
        finally:
            lock.release()


def _read(path: Path) -> tuple[str, int]:
    """Content of a lock, and when it was touched; opened anew, for a network's file system answers from memory else."""
    with open(path, encoding="utf-8") as file:
        return file.read(), os.fstat(file.fileno()).st_mtime_ns


def _holder(text: str) -> dict:
    try:
        return dict(json.loads(text))
    except ValueError:
        return {}


def _who(holder: dict) -> str:
    job = f", Slurm job {holder['job']}" if holder.get("job") else ""
    return f"process {holder.get('process', '?')} on {holder.get('host', '?')}{job}"


def _refusal(folder: Path, text: str) -> str:
    holder = _holder(text)
    end = f"scancel {holder['job']}" if holder.get("job") else f"kill {holder.get('process', '?')}"
    return f"{folder} is being written by {_who(holder)}; wait for it, or end it: {end}"


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A folder to fill, on disk and in its place only when the block has ended well."""
    partial = folder.with_name(folder.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    yield partial
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    digests = {path.relative_to(partial).as_posix(): digest(path) for path in files}
    (partial / "digests.json").write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")
    for path in (*partial.rglob("*"), partial):
        _sync(path)
    if folder.exists():  # it was not whole, or it would not be written again
        shutil.rmtree(folder)
    partial.replace(folder)
    _sync(folder.parent)


def whole(folder: Path) -> bool:
    """Whether the files of a folder are those that `writing` left."""
    try:
        digests = json.loads((folder / "digests.json").read_text(encoding="utf-8"))
        return all(digest(folder / name) == value for name, value in digests.items())
    except (OSError, ValueError):
        return False


def steps(folder: Path) -> list[int]:
    """Steps that a state has checkpoints of, oldest first."""
    names = (re.fullmatch(r"step-(\d+)", path.name) for path in (folder / "checkpoints").glob("step-*"))
    return sorted(int(name[1]) for name in names if name)


def checkpoint(folder: Path, step: int) -> Path:
    """Folder of the checkpoint of a step."""
    return folder / "checkpoints" / f"step-{step:09d}"


def newest(folder: Path, say: Callable[[str], None]) -> int:
    """The last step that a state has a whole checkpoint of, 0 if there is none; `say` hears of corrupt ones."""
    for step in reversed(steps(folder)):
        if whole(checkpoint(folder, step)):
            return step
        say(f"{checkpoint(folder, step)} is corrupt and is passed over")
        shutil.rmtree(checkpoint(folder, step))
    return 0


def forget(folder: Path, keep: int) -> None:
    """Remove all but the `keep` last checkpoints."""
    for step in steps(folder)[:-keep]:
        shutil.rmtree(checkpoint(folder, step))


def publish(final: Path, output: Path) -> None:
    """Fill `output` with the files of `final`, as hard links where the file system allows."""
    partial = output.with_name(output.name + ".partial")
    for folder in (partial, output):
        if folder.exists():
            shutil.rmtree(folder)
    try:
        shutil.copytree(final, partial, copy_function=os.link)
    except (OSError, shutil.Error):
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(final, partial)
    partial.replace(output)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
