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
from collections.abc import Callable, Iterator
from pathlib import Path

from jalm import Fault
from jalm.formats.shards import digest


class StateError(Fault):
    """A training state that cannot be used."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second writer out of a state; the lock ends with the process, however that ends.

    Raises:
        StateError: another process is writing there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise StateError(
                f"{folder} is being written by {file.read() or 'another process'}; wait, or stop it"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


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
