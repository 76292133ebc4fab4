"""Training state on disk: one folder for one training, with checkpoints that are whole or not there.

A state's folder has `lock`, `settings.json`, `log.jsonl`, `checkpoints/step-…/` and, at the end, `final/`. It lies
outside what Snakemake deletes before it runs a job again.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from jalm import unfinished
from jalm.formats.shards import digest


@contextlib.contextmanager
def writing(folder: Path, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A folder to fill, on disk and in its place only when the block has ended well and `check` does not object."""
    partial = unfinished(folder)
    partial.mkdir()
    yield partial
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    digests = {path.relative_to(partial).as_posix(): digest(path) for path in files}
    (partial / "digests.json").write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")
    for path in (*partial.rglob("*"), partial):
        _sync(path)
    check()
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
    partial = unfinished(output)
    try:
        shutil.copytree(final, partial, copy_function=os.link)
    except (OSError, shutil.Error):
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(final, partial)
    if output.exists():
        shutil.rmtree(output)
    partial.replace(output)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
