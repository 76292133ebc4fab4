"""Add up what fell on each side of a corpus; an empty side is an error before anything is trained on it."""

import json
from pathlib import Path

from jalm import Fault, cli
from jalm.config import SIDES, NoKnobs


class EmptySide(Fault):
    """A corpus whose train, valid or test side has no document."""


def total(counts: list[dict]) -> dict:
    """Sum of the counts of all parts, by side.

    Raises:
        EmptySide: no part has a document of a side.
    """
    sums = {side: {key: sum(part[side][key] for part in counts) for key in counts[0][side]} for side in SIDES}
    empty = [side for side in SIDES if not sums[side]["documents"]]
    if empty:
        documents = sum(sums[side]["documents"] for side in SIDES)
        raise EmptySide(
            f"{' and '.join(empty)} would be empty: {documents:,} documents are too few for split.valid_fraction and "
            "split.test_fraction in config.yaml; change these or split.salt, or take a larger corpus"
        )
    return sums


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, NoKnobs, "split_summary")
    parser.add_argument("--input", type=Path, nargs="+", required=True, metavar="FILE", help="counts of the parts")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="their sums (.json)")
    args, _ = cli.parse(parser, argv)
    sums = total([json.loads(path.read_text(encoding="utf-8")) for path in args.input])
    with cli.writing(args.output) as (output,):
        output.write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")
    made = "; ".join(
        f"{side}: {n['documents']:,} documents, {n['characters']:,} characters" for side, n in sums.items()
    )
    cli.closing("split_summary", f"{len(args.input)} parts", made)
