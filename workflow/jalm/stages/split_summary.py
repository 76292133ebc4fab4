"""Add up what fell on each side of a corpus, and give account of it from its intake on.

An empty side is an error, before anything is trained on it.
"""

import json
from collections import Counter
from pathlib import Path

from jalm import Fault, cli
from jalm.config import SIDES, NoKnobs
from jalm.formats import accounts

STAGES = ("intake", "filter", "dedup", "split")


class EmptySide(Fault):
    """A corpus whose train, valid or test side has no document."""


def checked(account: dict) -> dict:
    """Sizes of the sides in an account, none of them empty.

    Raises:
        EmptySide: a side has no document.
    """
    sides = account["split"]["out"]
    empty = [side for side in SIDES if not sides[side]["documents"]]
    documents = sum(sides[side]["documents"] for side in SIDES)
    if not documents:
        gone = Counter(account["intake"]["dropped"])
        for stage in ("filter", "split"):
            gone.update({reason: size["documents"] for reason, size in account[stage]["dropped"].items()})
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in gone.most_common() if count)
        raise EmptySide(
            f"no document is left: {account['intake']['in']:,} came in{f', and were dropped: {reasons}' if reasons else ''}; "
            "look at the corpus itself, or at the knobs of filter and dedup in config.yaml"
        )
    if empty:
        raise EmptySide(
            f"{' and '.join(empty)} would be empty: {documents:,} documents are too few for split.valid_fraction and "
            "split.test_fraction in config.yaml; change these or split.salt, or take a larger corpus (a folder with train, "
            "valid and test in it needs documents in each)"
        )
    return sides


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, NoKnobs, "split_summary")
    for stage in STAGES:
        parser.add_argument(
            f"--{stage}", type=Path, nargs="+", required=True, metavar="FILE", help=f"counts of {stage} (.json)"
        )
    parser.add_argument("--name", required=True, help="name of the corpus")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="sizes of the sides (.json)")
    parser.add_argument("--account", type=Path, required=True, metavar="FILE", help="sizes after each stage (.json)")
    parser.add_argument("--table", type=Path, required=True, metavar="FILE", help="the account for reading (.md)")
    args, _ = cli.parse(parser, argv)
    account = {
        stage: accounts.total(json.loads(path.read_text(encoding="utf-8")) for path in getattr(args, stage))
        for stage in STAGES
    }
    sides = checked(account)
    with cli.writing(args.output, args.account, args.table) as paths:
        for path, what in zip(paths, (sides, account), strict=False):
            path.write_text(json.dumps(what, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        paths[2].write_text(accounts.table(args.name, account), encoding="utf-8")
    made = "; ".join(
        f"{side}: {n['documents']:,} documents, {n['characters']:,} characters" for side, n in sides.items()
    )
    cli.closing("split_summary", f"{len(args.split)} parts", made)
