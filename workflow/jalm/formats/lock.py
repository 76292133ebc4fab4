"""The lock of a training state: one writer, on whatever machine.

On a cluster a lock of the kernel's does not reach every node, and a job that is gone cannot tell. So the holder's name
stands in the file `lock`, and the holder touches it every few seconds: who is silent for long is dead.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from jalm import Fault

HEARTBEAT = 10  # seconds between two signs of life
SILENCE = 60  # seconds without one after which a holder on another machine is dead
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}  # what file systems answer that have none


class LockError(Fault):
    """A training state that another process writes to."""


class Lock:
    """The right to write to a state, as `locked` gives it."""

    def __init__(self, file: TextIO, holder: dict) -> None:
        self._file, self._text = file, json.dumps(holder)
        self._ended = threading.Event()
        file.seek(0)
        file.truncate()
        file.write(self._text)
        file.flush()
        self._touched = time.monotonic()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    @property
    def _ours(self) -> bool:
        return _read(Path(self._file.name))[0] == self._text

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            with contextlib.suppress(OSError):  # a server that is away for a moment
                if self._ours:
                    os.utime(self._file.fileno())
                    self._touched = time.monotonic()

    def check(self) -> None:
        """Look whether the state is still ours to write to.

        Raises:
            LockError: another process has taken it over, or could have.
        """
        if not self._ours:
            raise LockError(f"{self._file.name} was taken over by another process; this one ends without saving")
        if time.monotonic() - self._touched > SILENCE:
            raise LockError(f"{self._file.name} could not be touched for {SILENCE} s; this process ends without saving")

    def release(self) -> None:
        """Let go of the state."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if self._ours:
                self._file.truncate(0)


@contextlib.contextmanager
def locked(folder: Path, say: Callable[[str], None], gone: Callable[[str], bool] = lambda job: False) -> Iterator[Lock]:
    """Keep a second writer out of a state.

    A holder on this machine lives or does not. One on another machine is dead if its job is gone, or if it is silent
    for SILENCE seconds.

    Args:
        folder: of the state.
        say: hears of a dead holder whose lock is taken over.
        gone: whether a job of the scheduler's has ended.

    Raises:
        LockError: another process is writing there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    me = {"process": os.getpid(), "host": _host(), "job": os.environ.get("SLURM_JOB_ID", "")}
    with open(path, "a+", encoding="utf-8") as file:
        kernel = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockError(_refusal(folder, _read(path)[0])) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            kernel = False
        left, touched = _read(path)
        holder = _holder(left)
        if left and not (kernel and holder.get("host") == me["host"]) and not _gone(holder, me, gone):
            say(f"{folder} was locked by {_who(holder)}; waiting {SILENCE} s for a sign of life")
            began = time.monotonic()
            while time.monotonic() - began < SILENCE:
                time.sleep(min(1, HEARTBEAT))
                if _read(path) != (left, touched):
                    raise LockError(_refusal(folder, _read(path)[0]))
        if left:
            say(f"{folder} was locked by {_who(holder)}, which is dead; going on")
        lock = Lock(file, me)
        try:
            yield lock
        finally:
            lock.release()


def holder(folder: Path, gone: Callable[[str], bool] = lambda job: False) -> str:
    """Who writes to a state, as far as one look can tell, empty if nobody does.

    One on another machine counts until its job is gone, or it is silent for SILENCE seconds by this machine's clock;
    who has to be sure takes the lock.
    """
    path = folder / "lock"
    try:
        left, touched = _read(path)
        if not left:
            return ""
        found, me = _holder(left), {"host": _host(), "job": os.environ.get("SLURM_JOB_ID", "")}
        kernel = True
        with open(path, encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _who(found)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                kernel = False
    except FileNotFoundError:
        return ""
    dead = (kernel and found.get("host") == me["host"]) or _gone(found, me, gone)
    return "" if dead or time.time() - touched / 1e9 > SILENCE else _who(found)


def _host() -> str:
    """Name of this machine; the node's in a job."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _gone(holder: dict, me: dict, gone: Callable[[str], bool]) -> bool:
    """Whether a holder's job has ended; our own, if it was put back into the queue, may have left a process behind."""
    return bool(holder.get("job")) and holder["job"] != me["job"] and gone(holder["job"])


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
