"""List training states: what they take on disk, how they differ, and which of them are still needed.

A state is current when results/pretrain/<model> was published from it, and so is the newest of each model with anything
saved. --clean removes the others and what killed writers have left; without --yes it only says what that would free. A
state that a living process writes to is never removed, nor does removing one touch what was published from it.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from jalm import Fault, cli, slurm, unfinished
from jalm.formats import checkpoints
from jalm.formats.lock import LockError, holder, locked
from jalm.knobs import parse_flags

KEY = "[0-9a-f]{16}"  # name of a state's folder


class StatesError(Fault):
    """Training states that cannot be listed or removed as asked."""


@dataclass
class Entry:
    """What lies below states/.

    Attributes:
        path: the folder, or the file.
        kind: state; compiled, a compiler's cache; or partial, what a killed writer has left.
        files: its files, with what the system knows of each.
        state: folder of the state whose lock guards it; None if it lies in none.
    """

    path: Path
    kind: str
    files: dict[Path, os.stat_result]
    state: Path | None

    @property
    def saved_at(self) -> float:
        """When one of its files but the lock was last written, in seconds of time.time(); 0 if it has none."""
        return max((stat.st_mtime for path, stat in self.files.items() if path.name != "lock"), default=0.0)

    @property
    def written(self) -> float:
        """When it was last written, in seconds of time.time()."""
        return self.saved_at or self.path.stat().st_mtime

    def record(self) -> dict:
        """What --json prints."""
        written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.written))
        return {"path": str(self.path), "kind": self.kind, "bytes": size(self.files.values()), "written": written}


@dataclass
class State(Entry):
    """A training state.

    Attributes:
        results: what is published of its model.
        settings: what pretrain recorded of it.
        step: of its last checkpoint; the last of all if it is finished.
        holder: who writes to it, empty if nobody.
        current: whether it is needed.
        differences: knob to its value here and in the newest state of the model.
    """

    results: Path
    settings: dict
    step: int
    holder: str
    current: bool = False
    differences: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def max_steps(self) -> int | None:
        """Steps of the whole training; None if that was not recorded."""
        steps = knobs(self.settings).get("max_steps", "")
        return int(steps) if steps.isdecimal() else None

    @property
    def begun(self) -> bool:
        """Whether anything was written there, or may be soon; a start that was refused leaves nothing but the lock."""
        return bool(self.saved_at or self.holder)

    @property
    def finished(self) -> bool:
        """Whether it has the trained model."""
        return (self.path / "final").is_dir()

    @property
    def published(self) -> bool:
        """Whether results/pretrain/<model> is its model."""
        return checkpoints.published(self.path / "final", self.results)

    @property
    def shared(self) -> int:
        """Bytes that it has in common with what is published, by hard links."""
        there = {_inode(stat) for stat in _files(self.results).values()}
        return size(stat for stat in self.files.values() if _inode(stat) in there)

    @property
    def valid_loss(self) -> float | None:
        """The last validation's (nats a predicted token)."""
        lines = checkpoints.records(self.path / "log.jsonl")
        return next((line["valid_loss"] for line in reversed(lines) if "valid_loss" in line), None)

    def record(self) -> dict:
        """What --json prints."""
        return {
            **super().record(),
            "model": self.path.parent.name,
            "key": self.path.name,
            "shared_bytes": self.shared,
            "step": self.step,
            "max_steps": self.max_steps,
            "valid_loss": self.valid_loss,
            "finished": self.finished,
            "published": self.published,
            "current": self.current,
            "holder": self.holder,
            "differences": self.differences,
        }


def size(found: Iterable[os.stat_result]) -> int:
    """Bytes of files, of those that are one by hard links once."""
    return sum({_inode(stat): stat.st_size for stat in found}.values())


def freed(found: Iterable[os.stat_result]) -> int:
    """Bytes that are free once these files, each given by its own name, are removed: those that no other name keeps."""
    found = list(found)
    names = Counter(map(_inode, found))
    return size(stat for stat in found if names[_inode(stat)] == stat.st_nlink)


def human(count: int) -> str:
    """A number of bytes for people.

    >>> human(999), human(1_234_567)
    ('999 B', '1.2 MB')
    """
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def knobs(settings: dict) -> dict[str, str]:
    """What decided what a state has learnt, by name; sizes as config.n_layer."""
    found = {}
    for name, value in parse_flags(settings.get("flags", "")).items():
        parts = json.loads(value) if value.startswith("{") else {}
        found |= {f"{name}.{part}": str(one) for part, one in parts.items()} or {name: value}
    if "recipe" in settings:
        found["recipe"] = str(settings["recipe"])
    if "inputs" in settings:
        found["shards"] = " ".join(digest[:8] for digest in settings["inputs"])
    return found


def differences(settings: dict, newest: dict) -> dict[str, tuple[str, str]]:
    """Knob to its two values where a state and the newest of its model differ."""
    here, there = knobs(settings), knobs(newest)
    return {
        name: (here.get(name, "none"), there.get(name, "none"))
        for name in {**there, **here}
        if here.get(name) != there.get(name)
    }


def look(path: Path, results: Path) -> State:
    """A state as it is now.

    Args:
        path: its folder, states/<model>/<key>.
        results: where all results lie.
    """
    steps, settings = checkpoints.steps(path), checkpoints.recorded(path)
    found = State(
        path=path,
        kind="state",
        files=_files(path),
        state=path,
        results=results / "pretrain" / path.parent.name,
        settings=settings,
        step=max(steps, default=0),
        holder=holder(path, slurm.gone),
    )
    if found.finished:
        found.step = found.max_steps or found.step
    return found


def survey(folder: Path, results: Path) -> list[Entry]:
    """Everything below states/: the states by model, the newest first, then caches, then what killed writers left."""
    found: list[State] = []
    for model in sorted(folder.iterdir()):
        paths = model.iterdir() if model.is_dir() and model.name != "compiled" else ()
        states = [look(path, results) for path in paths if re.fullmatch(KEY, path.name)]
        # one in which nothing was saved yet does not make one older in which something was
        states.sort(key=lambda state: (state.step > 0 or state.finished, state.saved_at), reverse=True)
        for state in states:
            state.current = state.begun and (state is states[0] or state.published)
            state.differences = differences(state.settings, states[0].settings) if state.settings else {}
        found += states
    caches = [path for pattern in ("compiled", "*/compiled") for path in sorted(folder.glob(pattern))]
    left = {path: set(path.parents) for path in sorted(folder.rglob("*.partial"))}
    return [
        *found,
        *(Entry(path, "compiled", _files(path), None) for path in caches),
        *(
            Entry(path, "partial", _files(path), next((s.path for s in found if s.path in parents), None))
            for path, parents in left.items()
            if not parents & {*left, *caches, *(state.path for state in found if state.holder)}
        ),
    ]


def unneeded(entries: list[Entry], args: argparse.Namespace) -> list[Entry]:
    """What --clean removes; what lies in a folder that goes as a whole is not named too."""
    living = any(isinstance(entry, State) and entry.holder for entry in entries)
    newest = time.time() - args.older_than * 86400

    def goes(entry: Entry) -> bool:
        if entry.written > newest:
            return False
        if isinstance(entry, State):
            return not (entry.current or entry.holder or (args.keep_finished and entry.finished))
        return entry.kind == "partial" or (args.compiled and not living)  # a living training may read from its cache

    chosen = [entry for entry in entries if goes(entry)]
    paths = {entry.path for entry in chosen}
    return [entry for entry in chosen if not paths & set(entry.path.parents)]


def remove(entry: Entry, results: Path) -> None:
    """Remove it for good, under the lock of its state: as a whole or, if this is killed, to a partial folder.

    Raises:
        LockError: a living process writes there.
        StatesError: it was written to, or published, since it was looked at.
    """
    with locked(entry.state, cli.log.info, slurm.gone) if entry.state else contextlib.nullcontext():
        if isinstance(entry, State):
            now = look(entry.path, results)
            if (now.saved_at, now.published) != (entry.saved_at, entry.published):
                raise StatesError(f"{entry.path} was used meanwhile")
        aside = unfinished(entry.path)
        entry.path.rename(aside)
    if aside.is_dir():  # after the lock is let go: a network's file system removes no folder with an open file in it
        shutil.rmtree(aside)
    else:
        aside.unlink()


def table(entries: list[Entry]) -> str:
    """One line an entry, and one for all."""
    lines = [f"{'model':<28} {'state':<16} {'step':>9} {'of':>9} {'valid loss':>10} {'size':>8} {'in results':>10}"]
    lines[0] += f" {'last written':<16}  remarks"
    for entry in entries:
        taken, written = human(size(entry.files.values())), time.strftime("%F %R", time.localtime(entry.written))
        if isinstance(entry, State):
            loss = "-" if entry.valid_loss is None else f"{entry.valid_loss:.4f}"
            most = "?" if entry.max_steps is None else f"{entry.max_steps:,}"
            remarks = [
                *(["current"] if entry.current else []),
                *(["published"] if entry.published else ["finished"] if entry.finished else []),
                *([f"written by {entry.holder}"] if entry.holder else []),
                *(f"{name} {here} → {there}" for name, (here, there) in entry.differences.items()),
            ]
            lines.append(
                f"{entry.path.parent.name:<28} {entry.path.name:<16} {entry.step:9,} {most:>9} {loss:>10}"
                f" {taken:>8} {human(entry.shared):>10} {written}  {', '.join(remarks)}"
            )
        else:
            remark = {"compiled": "cache of torch.compile", "partial": "left by a killed process"}[entry.kind]
            lines.append(f"{entry.path!s:<76} {taken:>8} {'':>10} {written}  {remark}")
    states = [entry for entry in entries if isinstance(entry, State)]
    total = human(size(stat for entry in entries for stat in entry.files.values()))
    shared = human(sum(entry.shared for entry in states))
    lines.append(
        f"{cli.counted(len(states), 'state')}; all together {total} on disk, of which results have {shared} by hard links"
    )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("states", __doc__)
    parser.add_argument(
        "--states", type=Path, default=Path("states"), metavar="DIR", help="where they are kept (default: states)"
    )
    parser.add_argument("--results", type=Path, metavar="DIR", help="default: results, beside the states")
    parser.add_argument("--json", action="store_true", help="one JSON record a line")
    parser.add_argument("--clean", action="store_true", help="say what is not needed and what removing it would free")
    clean = parser.add_argument_group("with --clean")
    clean.add_argument("--yes", action="store_true", help="remove it")
    clean.add_argument(
        "--older-than", type=float, default=0.0, metavar="DAYS", help="only what was last written before"
    )
    clean.add_argument("--keep-finished", action="store_true", help="not what has a trained model")
    clean.add_argument("--compiled", action="store_true", help="the caches of torch.compile too")
    args = parser.parse_args(argv)
    results = args.results or args.states.absolute().parent / "results"  # beside a link, not beside its target
    if not args.states.is_dir():
        raise StatesError(
            f"--states {args.states}: there is no such folder; it is named states and lies where snakemake works, "
            "for the demo: --states demo/states"
        )
    if any(re.fullmatch(KEY, path.name) for path in args.states.iterdir()):
        raise StatesError(f"--states {args.states} has the states of one model; use the folder above it")
    if not args.clean and (args.yes or args.older_than or args.keep_finished or args.compiled):
        raise StatesError("--yes, --older-than, --keep-finished and --compiled say what --clean does; add --clean")
    if not args.older_than >= 0:
        raise StatesError(f"--older-than {args.older_than:g} is no number of days; 0 is everything")
    entries = survey(args.states, results)
    chosen = unneeded(entries, args) if args.clean else []
    entries, say = [entry for entry in entries if not isinstance(entry, State) or entry.begun], print
    if args.json:
        say = cli.log.info
        for entry in entries:
            print(json.dumps({**entry.record(), "unneeded": entry in chosen}, ensure_ascii=False))
    else:
        print(table(entries) if entries else f"no training states in {args.states}")
    if args.clean:
        say(_clean(chosen, results, yes=args.yes))


def _clean(chosen: list[Entry], results: Path, *, yes: bool) -> str:
    """Remove what is not needed, if the user said yes; what was done, or would be."""
    if not chosen:
        return "nothing to remove"
    lines, gone = [], []
    for entry in chosen:
        try:
            if yes:
                remove(entry, results)
            gone.append(entry)
        except (LockError, StatesError) as fault:
            lines.append(f"stays: {fault}")
        else:
            lines.append(f"{'removed' if yes else 'would remove'} {entry.path}")
    room = human(freed(stat for entry in gone for stat in entry.files.values()))
    lines.append(f"freed {room}" if yes else f"would free {room}; nothing was removed, --yes does it")
    return "\n".join(lines)


def _inode(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _files(path: Path) -> dict[Path, os.stat_result]:
    """The files of a folder, or the one that it is; those that vanish meanwhile are left out."""
    found = {}
    for one in (path, *path.rglob("*")):
        try:
            if one.is_file():
                found[one] = one.lstat()
        except FileNotFoundError:
            continue
    return found
