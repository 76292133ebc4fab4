"""Show the evaluations of several models side by side."""

import argparse
import json
from pathlib import Path

from jalm import Fault


class NoEvaluation(Fault):
    """A file that evaluate did not write."""


def table(records: list[dict]) -> str:
    """One line a record; bits per character compare models with different tokenizers, perplexities do not."""
    lines = [f"{'model':<28} {'test set':<22} {'PPL':>9} {'bits/char':>9} {'accuracy':>8} {'tokens':>12}"]
    for r in records:
        bits = f"{r['bits_per_character']:9.3f}" if "bits_per_character" in r else f"{'-':>9}"
        lines.append(
            f"{r['model']:<28} {r['test_set']:<22} {r['perplexity']:9.2f} {bits} {r['accuracy']:8.1%} {r['predicted_tokens']:12,}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="jalm compare", description=__doc__)
    parser.add_argument("evaluation", type=Path, nargs="+", help="results/evaluate/<model>/<test set>.json")
    args = parser.parse_args(argv)
    records = [json.loads(path.read_text(encoding="utf-8")) for path in args.evaluation]
    for path, record in zip(args.evaluation, records, strict=True):
        if not {"model", "test_set", "perplexity"} <= record.keys():
            raise NoEvaluation(f"{path} is no evaluation; they are results/evaluate/<model>/<test set>.json")
    print(table(records))
