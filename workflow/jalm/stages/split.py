"""Assign whole documents to train, valid and test.

The side that a document falls on depends on its id and the salt only, so that the next dump keeps every article it
shares with this one on the same side; a document that came with a side keeps it.
"""

import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from jalm import cli
from jalm.config import SIDES, Split
from jalm.formats import accounts, documents, sides


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, Split, "split")
    parser.add_argument("--input", type=Path, required=True, metavar="FILE", help="filtered documents")
    parser.add_argument("--drop", type=Path, required=True, metavar="FILE", help="ids to drop, with the reason")
    for name in SIDES:
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="FILE", help=f"documents of {name}")
    parser.add_argument("--counts", type=Path, required=True, metavar="FILE", help="documents and sizes of each side")
    args, config = cli.parse(parser, argv)
    drop = {entry["id"]: entry["reason"] for entry in documents.read(args.drop)}
    out, dropped = {name: Counter() for name in SIDES}, {}
    shares = dict(config)
    with cli.writing(*(getattr(args, name) for name in SIDES), args.counts) as paths:
        with ExitStack() as stack:
            writers = {
                name: stack.enter_context(documents.writing(path)) for name, path in zip(SIDES, paths, strict=False)
            }
            for document in cli.progress(documents.read(args.input), unit=" documents"):
                size = accounts.size(document)
                if reason := drop.get(document["id"]):
                    dropped[reason] = dropped.get(reason, Counter()) + size
                    continue
                name = sides.side(document, **shares)
                writers[name].write(document)
                out[name] += size
        counts = {"out": {name: {key: size[key] for key in accounts.SIZES} for name, size in out.items()}}
        paths[-1].write_text(json.dumps(counts | {"dropped": dropped}, indent=2) + "\n", encoding="utf-8")
    kept = {name: size["documents"] for name, size in out.items()}
    lost = {reason: size["documents"] for reason, size in dropped.items()}
    cli.closing(
        "split",
        f"{sum(kept.values()) + sum(lost.values()):,} documents",
        " + ".join(f"{count:,} {name}" for name, count in kept.items()),
        lost,
    )
