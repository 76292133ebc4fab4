"""Training state on disk: one folder for one training, with checkpoints that are whole or not there.

A state's folder has `lock`, `settings.json`, `log.jsonl`, `checkpoints/step-…/` and, at the end, `final/`. It lies
outside what Snakemake deletes before it runs a job again. `settings.json` says what it stands for and, under `runs`, what trained it
from which step on.
"""

import contextlib
import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from safetensors import SafetensorError

from jalm import unfinished
from jalm.formats.shards import digest

ROOM = 1 << 24  # bytes; where less is free, what could not be written did not fit
VANISHED = {errno.ENOENT, errno.ESTALE}  # what is answered where another process removes what we read


@contextlib.contextmanager
def writing(folder: Path, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A folder to fill, on disk and in its place only when the block has ended well and `check` does not object."""
    partial = unfinished(folder)
    partial.mkdir()
    try:
        yield partial
    except (RuntimeError, SafetensorError):  # of torch and safetensors, which do not say that the disk is full
        if shutil.disk_usage(partial).free >= ROOM:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from None
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    digests = {path.relative_to(partial).as_posix(): digest(path) for path in files}
    (partial / "digests.json").write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")
    _sync_all(partial)
    check()
    if folder.exists():  # it was not whole, or it would not be written again
        shutil.rmtree(folder)
    partial.replace(folder)
    _sync(folder.parent)


def whole(folder: Path) -> bool:
    """Whether the files of a folder are those that `writing` left; what cannot be read for other reasons is an OSError."""
    try:
        digests = json.loads((folder / "digests.json").read_text(encoding="utf-8"))
        return all(digest(folder / name) == value for name, value in digests.items())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def steps(folder: Path) -> list[int]:
    """Steps that a state has checkpoints of, oldest first."""
    names = (re.fullmatch(r"step-(\d+)", path.name) for path in (folder / "checkpoints").glob("step-*"))
    return sorted(int(name[1]) for name in names if name)


def checkpoint(folder: Path, step: int) -> Path:
    """Folder of the checkpoint of a step."""
    return folder / "checkpoints" / f"step-{step:09d}"


def newest(folder: Path, say: Callable[[str], None]) -> int:
    """The last step that a state has a whole checkpoint of, 0 if there is none; `say` hears of corrupt ones, now step-….corrupt."""
    for step in reversed(steps(folder)):
        path = checkpoint(folder, step)
        if whole(path):
            return step
        aside = path.with_name(f"{path.name}.corrupt")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        say(f"{path} is corrupt and is passed over; it is {aside.name} until another is written")
    return 0


def forget(folder: Path, keep: int, spared: Collection[int] = ()) -> None:
    """Remove all checkpoints but the `keep` last and those of the steps in `spared`, and all corrupt ones."""
    for path in (folder / "checkpoints").glob("step-*.corrupt"):
        shutil.rmtree(path)
    for step in steps(folder)[:-keep]:
        if step not in spared:
            shutil.rmtree(checkpoint(folder, step))


def records(log: Path) -> list[dict]:
    """The lines of a log.jsonl, empty without one; half a line at its end, of a process that was killed, is left out."""
    try:
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("}\n")]


def best(log: Path, steps: Collection[int]) -> int | None:
    """Which of `steps` has the lowest valid_loss in a log; the first of equals, None if none of them has one."""
    losses = {record["step"]: record["valid_loss"] for record in records(log) if "valid_loss" in record}
    finite = [step for step in sorted(steps) if math.isfinite(losses.get(step, math.nan))]
    return min(finite, key=losses.__getitem__, default=None)


def recorded(folder: Path) -> dict:
    """What pretrain recorded of a state in its settings.json; empty if that cannot be read."""
    try:
        return dict(json.loads((folder / "settings.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def record(folder: Path, settings: dict, run: dict, say: Callable[[str], None]) -> None:
    """Write down what a state stands for and what trains it now; `say` hears what of this is another than before.

    Args:
        folder: of the state.
        settings: what it stands for.
        run: what trains it, and under "from_step" the step that it goes on from.
        say: is told each difference to the last run that something is left of.
    """
    runs = [earlier for earlier in recorded(folder).get("runs", []) if earlier["from_step"] < run["from_step"]]
    for name, value in run.items() if runs else ():
        if name != "from_step" and (last := runs[-1].get(name)) != value:
            say(f"{name} changed since this training was last run: {last} is now {value}")
    _write(folder, settings | {"runs": [*runs, run]})


def _write(folder: Path, settings: dict) -> None:
    partial = unfinished(folder / "settings.json")
    partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / "settings.json")


def cut(log: Path, step: int) -> None:
    """Drop the lines of steps after `step`: they will be written again."""
    if log.is_file():
        lines = [json.dumps(line) + "\n" for line in records(log) if line["step"] <= step]
        partial = unfinished(log)
        partial.write_text("".join(lines), encoding="utf-8")
        _sync(partial)
        partial.replace(log)


def continue_from(
    state: Path,
    family: str,
    stable_until: int,
    say: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
) -> int:
    """Give a state without checkpoints the last one that a training of another length shares with it.

    What the states beside it learnt is what this one would learn, as long as both have the same learning rates. The
    checkpoint comes as hard links, copies where the file system has none; log.jsonl comes with it, up to its step, and what
    trained it so far. The other state may be trained on meanwhile: it is read only.

    Args:
        state: folder of the state; the caller holds its lock.
        family: what all settings but the length of the training and of its decay stand for, as "family" in settings.json.
        stable_until: the last step, counted as steps done, whose learning rates do not depend on the length.
        say: hears which checkpoint was taken, and of those that are not whole.
        check: objects, as in `writing`.

    Returns:
        the step of the checkpoint; 0 if there is none to take, or the state has one of its own.
    """
    if steps(state):
        return 0
    found = []
    for sibling in state.parent.iterdir():
        there = recorded(sibling)
        if there.get("family") == family:
            last = min(stable_until, there.get("stable_until", 0))
            found += [(step, sibling) for step in steps(sibling) if step <= last]
    for step, sibling in sorted(found, reverse=True):
        if _take(sibling, state, step, check):
            say(f"{state} goes on from step {step:,} of {sibling}: until there both learn the same")
            return step
        say(f"{checkpoint(sibling, step)} is not whole, or was removed meanwhile, and is passed over")
    return 0


def _take(sibling: Path, state: Path, step: int, check: Callable[[], None]) -> bool:
    """Take a checkpoint, and the log up to it, over from another state; False if it is not whole."""
    partial, log = unfinished(checkpoint(state, step)), unfinished(state / "log.jsonl")
    try:
        _link(checkpoint(sibling, step), partial)
    except OSError as error:
        if error.errno not in VANISHED:
            raise
    lines = [json.dumps(record) + "\n" for record in records(sibling / "log.jsonl") if record["step"] <= step]
    if not (lines and whole(partial)):  # the first step always has its line, but in a state that is being removed
        shutil.rmtree(partial, ignore_errors=True)
        return False
    log.write_text("".join(lines), encoding="utf-8")
    _sync(log)
    _sync_all(partial)
    check()
    _write(state, {"runs": [run for run in recorded(sibling).get("runs", []) if run["from_step"] < step]})
    log.replace(state / "log.jsonl")  # a log without its checkpoint is cut, a checkpoint without its log is not mended
    partial.replace(checkpoint(state, step))
    _sync(state / "checkpoints")
    return True


def publish(final: Path, output: Path) -> None:
    """Fill `output` with the files of `final`, as hard links where the file system allows."""
    partial = unfinished(output)
    _link(final, partial)
    if output.exists():
        shutil.rmtree(output)
    partial.replace(output)


def published(final: Path, output: Path) -> bool:
    """Whether `output` was published from `final`, by their digests."""
    try:
        return (final / "digests.json").read_bytes() == (output / "digests.json").read_bytes()
    except OSError:
        return False


def _link(source: Path, target: Path) -> None:
    """Make a folder of the files of another: hard links where the file system allows, else copies."""
    target.mkdir()
    for path in sorted(source.rglob("*")):
        if path.is_file():
            new = target / path.relative_to(source)
            new.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, new)
            except FileNotFoundError:
                raise
            except OSError:
                shutil.copy2(path, new)


def _sync_all(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
