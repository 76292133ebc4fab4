"""Assign whole documents to train, valid and test.

The side that a document falls on depends on its id and the salt only, so that the next dump keeps every article it
shares with this one on the same side. A document that has a `side` already stays on it.
"""

import hashlib
import json
from contextlib import ExitStack
from pathlib import Path

from jalm import cli
from jalm.config import SIDES, Split
from jalm.formats import documents


def side(document_id: int | str, config: Split) -> str:
    """Name of the side that `document_id` belongs to."""
    digest = hashlib.blake2b(f"{config.salt}:{document_id}".encode(), digest_size=8).digest()
    u = int.from_bytes(digest, "big") / 2**64
    if u < config.valid_fraction:
        return "valid"
    if u < config.valid_fraction + config.test_fraction:
        return "test"
    return "train"


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, Split, "split")
    parser.add_argument("--input", type=Path, required=True, metavar="FILE", help="filtered documents")
    parser.add_argument("--drop", type=Path, required=True, metavar="FILE", help="ids to drop")
    for name in SIDES:
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="FILE", help=f"documents of {name}")
    parser.add_argument("--counts", type=Path, required=True, metavar="FILE", help="documents and sizes of each side")
    args, config = cli.parse(parser, argv)
    drop = {entry["id"] for entry in documents.read(args.drop)}
    counts = {name: {"documents": 0, "sentences": 0, "characters": 0, "bytes": 0} for name in SIDES}
    dropped = 0
    with cli.writing(*(getattr(args, name) for name in SIDES), args.counts) as paths:
        with ExitStack() as stack:
            writers = {
                name: stack.enter_context(documents.writing(path)) for name, path in zip(SIDES, paths, strict=False)
            }
            for document in cli.progress(documents.read(args.input), unit=" documents"):
                if document["id"] in drop:
                    dropped += 1
                    continue
                name = document.get("side") or side(document["id"], config)
                writers[name].write(document)
                text = documents.text(document)
                counts[name]["documents"] += 1
                counts[name]["sentences"] += sum(map(len, document["paragraphs"]))
                counts[name]["characters"] += len(text)
                counts[name]["bytes"] += len(text.encode())
        paths[-1].write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    kept = {name: counts[name]["documents"] for name in SIDES}
    cli.closing(
        "split",
        f"{sum(kept.values()) + dropped:,} documents",
        " + ".join(f"{count:,} {name}" for name, count in kept.items()),
        {"duplicates": dropped},
    )
