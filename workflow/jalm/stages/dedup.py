"""Find the documents that are the same as an earlier one.

A corpus is compared with itself and with those before it in the configuration, so that adding a corpus never changes
an earlier one. Of equal documents the first stays: one in an earlier corpus, then the one met first.
"""

from pathlib import Path

from jalm import cli
from jalm.config import Dedup
from jalm.formats import documents


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, Dedup, "dedup")
    parser.add_argument("--input", type=Path, nargs="+", required=True, metavar="FILE", help="signatures of the corpus")
    parser.add_argument(
        "--earlier", type=Path, nargs="*", default=[], metavar="FILE", help="signatures of earlier corpora"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="ids to drop, and what each repeats")
    args, config = cli.parse(parser, argv)
    first: dict[bytes, int | str] = {}
    if config.exact:
        for path in args.earlier:
            for entry in documents.read(path):
                first.setdefault(bytes.fromhex(entry["signature"]), entry["id"])
    count = 0
    with cli.writing(args.output) as (output,), documents.writing(output) as drop:
        for path in cli.progress(args.input, unit=" parts", total=len(args.input)):
            for entry in documents.read(path):
                count += 1
                signature = bytes.fromhex(entry["signature"])
                if config.exact and signature in first:
                    drop.write({"id": entry["id"], "repeats": first[signature]})
                else:
                    first[signature] = entry["id"]
    cli.closing("dedup", f"{count:,} documents", f"{count - drop.count:,} documents", {"repeated": drop.count})
