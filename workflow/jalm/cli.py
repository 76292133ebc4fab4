"""What every stage's command line shares: arguments made from its knobs, logging, whole-file writing."""

import argparse
import ast
import contextlib
import difflib
import errno
import importlib
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

from jalm import Fault, __version__, unfinished
from jalm.knobs import Section, decode, help_text

log = logging.getLogger("jalm")
PACKAGE = Path(__file__).parent
LOG_INTERVAL = 30  # seconds between progress lines where there is no terminal
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Item = TypeVar("Item")


class DiskFull(Fault):
    """No room for what is being written."""


class Parser(argparse.ArgumentParser):
    """Arguments of a stage or command; `doc` is shown above them, and an option that there is not is met with the nearest."""

    def __init__(self, name: str, doc: str) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=f"jalm {name}", description=doc, formatter_class=formatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and end with status 2."""
        if unknown := re.search(r"unrecognized arguments: (--[^\s=]+)", message):
            known = re.findall(r"--[\w-]+", self.format_usage())
            message += "".join(f"; did you mean {near}?" for near in difflib.get_close_matches(unknown[1], known, n=1))
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help lists all)\n")


def run(argv: list[str] | None = None) -> None:
    """Run the stage or command named by the first argument; a user's mistake ends with its message and exit status."""
    argv = sys.argv[1:] if argv is None else argv
    modules = {
        path.stem: f"jalm.{kind}.{path.stem}"
        for kind in ("stages", "commands")
        for path in sorted((PACKAGE / kind).glob("[a-z]*.py"))
    }
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview(modules))
        return
    if argv[0] == "--version":
        print(__version__)
        return
    name, *rest = argv
    if name not in modules:
        sys.exit(f"jalm: {name!r} is not one of: {', '.join(modules)}")
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    log.setLevel(logging.INFO)
    # torch's threads wait for each other in a spin: a tenth faster alone, 1.6 times slower beside one busy process
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        importlib.import_module(modules[name]).main(rest)
    except Fault as fault:
        print(f"{name}: {fault}", file=sys.stderr)
        sys.exit(fault.status)
    except OSError as fault:
        if fault.filename is None and fault.errno is None:
            raise
        advice = ["make room and run again"] if fault.errno in FULL else []
        sys.exit(": ".join(map(str, filter(None, [name, fault.strerror, fault.filename, *advice]))))
    except KeyboardInterrupt:
        sys.exit(130)


def _overview(modules: dict[str, str]) -> str:
    lines = ["usage: jalm STAGE [--help] …", ""]
    for kind in ("stages", "commands"):
        lines.append(f"{kind}:")
        for name, module in modules.items():
            if module.split(".")[1] == kind:
                doc = ast.get_docstring(ast.parse((PACKAGE / kind / f"{name}.py").read_text(encoding="utf-8"))) or ""
                lines.append(f"  {name:<16} {doc.splitlines()[0]}")
        lines.append("")
    return "\n".join(lines)


def parser(doc: str, section: type[Section], name: str) -> Parser:
    """Argument parser with one option per knob of `section`; `doc` is shown above them."""
    made = Parser(name, doc)
    made.set_defaults(section=section)
    knobs = made.add_argument_group("knobs (config.yaml)")
    for field, info in section.model_fields.items():
        knobs.add_argument(
            "--" + field.replace("_", "-"),
            dest=f"knob:{field}",
            metavar=getattr(info.annotation, "__name__", "VALUE").upper(),
            required=info.is_required(),
            default=argparse.SUPPRESS,
            help=help_text(info),
        )
    return made


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> tuple[argparse.Namespace, Section]:
    """Arguments of a stage, and its knobs as a validated section.

    Raises:
        Fault: a knob has a value outside its bounds.
    """
    args = parser.parse_args(argv)
    values = {name[5:]: value for name, value in vars(args).items() if name.startswith("knob:")}
    return args, decode(args.section, values)


@contextlib.contextmanager
def writing(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Paths to write to, renamed to `paths` when the block ends well; a killed job leaves only `*.partial`.

    Raises:
        DiskFull: the block met a full disk, which says nothing of the file that it was met at.
    """
    partial = tuple(unfinished(path) for path in paths)
    try:
        yield partial
    except OSError as error:
        if error.errno not in FULL:
            raise
        more = f" and {counted(len(paths) - 1, 'file')} with it" if len(paths) > 1 else ""
        raise DiskFull(
            f"{paths[0]}{more} cannot be written ({error.strerror}); make room there, or in "
            f"{tempfile.gettempdir()} if that is full, and run again"
        ) from None
    for path, final in zip(partial, paths, strict=True):
        if final.is_dir():
            shutil.rmtree(final)
        path.replace(final)


def counted(number: int, noun: str) -> str:
    """A number of things, in English.

    >>> counted(1, "minute"), counted(1234, "file")
    ('1 minute', '1,234 files')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def progress(items: Iterable[Item], *, unit: str, total: int | None = None) -> Iterator[Item]:
    """Pass `items` on, with a bar on a terminal and a line every half minute elsewhere."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, unit=unit, total=total, unit_scale=True, leave=False)
        return
    began = last = time.monotonic()
    for count, item in enumerate(items):
        if time.monotonic() - last > LOG_INTERVAL:
            last = time.monotonic()
            left = ""
            if total and count:
                left = f", {counted(round((last - began) / count * (total - count) / 60), 'minute')} left"
            log.info("%s of %s%s%s", f"{count:,}", f"{total:,}" if total else "?", unit, left)
        yield item


def closing(stage: str, taken: str, made: str, dropped: dict[str, int] | None = None) -> None:
    """Log the closing line of a stage: what came in, what went out, and why the rest went."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in (dropped or {}).items() if count) or "nothing"
    log.info("%s: %s in, %s out%s", stage, taken, made, "" if dropped is None else f"; dropped: {reasons}")
