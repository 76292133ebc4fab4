"""Show the evaluations of several models, or the reports of several tokenizers, side by side.

Models are compared on one and the same text: each text has a table of its own, the best model first. Bits per character
compare any models, perplexities those of one tokenizer. `95 %` is the interval of bits/char, `blocks` the same in disjoint blocks
of the stream, `PPL` and `sliding` the perplexities there and with a sliding window, `<unk>` the share of unknown tokens.
"""

import json
import math
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

from jalm import Fault, cli

Column = tuple[str, Callable[[dict], Any], str]  # its head, what it has of a record, and how that is written


class NoEvaluation(Fault):
    """A file that neither evaluate nor train_tokenizer_report wrote."""


def _of(*keys: str) -> Callable[[dict], Any]:
    """What a record has under these keys, one inside the other; None if it does not."""

    def value(record: dict) -> Any:
        for key in keys:
            record = record.get(key, {})
        return None if record == {} else record

    return value


def _interval(record: dict) -> str | None:
    found = _of("by_document", "bits_per_character_interval")(record)
    return found and "{:.3f}-{:.3f}".format(*found)


UNKNOWN = 0.001  # share of tokens above which it is told

NAMES: list[Column] = [("model", _of("model"), "<"), ("tokenizer", _of("tokenizer"), "<")]
CAUSAL: list[Column] = [
    ("bits/char", _of("by_document", "bits_per_character"), ".3f"),
    ("95 %", _interval, ""),
    ("BPB", _of("by_document", "bits_per_byte"), ".3f"),
    ("blocks", _of("bits_per_character"), ".3f"),
    ("PPL", _of("perplexity"), ".2f"),
    ("sliding", _of("sliding", "perplexity"), ".2f"),
    ("<unk>", _of("unknown_share"), ".2%"),
    ("tokens", _of("tokens"), ","),
]
MASKED: list[Column] = [
    ("masked PPL", _of("perplexity"), ".2f"),
    ("accuracy", _of("accuracy"), ".1%"),
    ("pseudo-PPL", _of("pseudo_perplexity"), ".2f"),
    ("NSP loss", _of("nsp_loss"), ".3f"),
    ("NSP accuracy", _of("nsp_accuracy"), ".1%"),
    ("tokens", _of("tokens"), ","),
]
TOKENIZER: list[Column] = [
    ("tokenizer", _of("tokenizer"), "<"),
    ("valid side of", _of("corpus"), "<"),
    ("pieces", _of("vocab_size"), ","),
    ("unused", _of("pieces", "unused"), ","),
    ("chars/token", _of("characters_per_token"), ".3f"),
    ("bytes/token", _of("bytes_per_token"), ".3f"),
    ("unknown", lambda record: record["unknown"] / record["tokens"], ".3%"),
    ("bytes", lambda record: record["byte_pieces"] / record["tokens"], ".3%"),
    ("tokens", _of("tokens"), ","),
]


def text_of(record: dict) -> tuple[int, ...]:
    """What tells the text that a model was judged on from others: documents, characters and bytes."""
    return tuple(record.get(size, 0) for size in ("documents", "characters", "bytes"))


def is_masked(record: dict) -> bool:
    """Whether a record is of a model that predicts masked tokens."""
    return "bits_per_character" not in record


def rank(record: dict) -> tuple:
    """Where a record stands among all: by test set, text and objective, then the best first.

    What was not asked each document alone stands behind the rest: bits in blocks, which see less, are another measure.
    """
    alone, bits = _of("by_document", "bits_per_character")(record), record.get("bits_per_character", math.inf)
    best = (alone is None, bits if alone is None else alone, record["perplexity"], record["model"])
    return record["test_set"], text_of(record), is_masked(record), *best


def written(columns: list[Column], records: list[dict]) -> str:
    """A table, each column as wide as it has to be."""
    rows = [[head for head, *_ in columns]]
    for record in records:
        values = [(value(record), form.strip("<")) for _, value, form in columns]
        rows.append(["-" if value is None else format(value, form) for value, form in values])
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    sides = ["<" if form == "<" else ">" for *_, form in columns]
    return "\n".join(
        " ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    )


def notes(records: list[dict]) -> list[str]:
    """What has to be known of a table of causal models."""
    causal, said = [record for record in records if not is_masked(record)], []
    blocks = [record["model"] for record in causal if "by_document" not in record]
    if 0 < len(blocks) < len(records):
        said.append(f"Without bits/char, so behind the others, by their blocks: {', '.join(blocks)}.")
    if unknown := [record["model"] for record in causal if record.get("unknown_share", 0) > UNKNOWN]:
        said.append(
            f"Over {100 * UNKNOWN:g} % of the tokens are unknown, so the bits are not of all characters: {', '.join(unknown)}."
        )
    return said


def table(records: list[dict]) -> str:
    """A table for each text and objective, and what must not be compared."""
    parts, texts = [], {}
    for (name, text, masked), some in groupby(sorted(records, key=rank), key=lambda record: rank(record)[:3]):
        title = "test set {}: {:,} documents, {:,} characters, {:,} bytes".format(name, *text)
        some = list(some)
        parts.append("\n".join([title, written(NAMES + (MASKED if masked else CAUSAL), some), *notes(some)]))
        texts.setdefault(name, set()).add(text)
    if differing := [name for name, found in texts.items() if len(found) > 1]:
        parts.append(f"Not the same text under one name: {', '.join(differing)}. Compare within a table only.")
    elif len(texts) > 1:
        parts.append("Test sets differ: compare within a table only.")
    return "\n\n".join(parts)


def tokenizers(reports: list[dict]) -> str:
    """One line for each tokenizer and corpus; those of one corpus and one date were measured on the same text."""
    return written(TOKENIZER, [{**one, "corpus": corpus, **n} for one in reports for corpus, n in one["valid"].items()])


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("compare", __doc__)
    parser.add_argument(
        "file",
        type=Path,
        nargs="+",
        help="results/evaluate/<model>/<test set>.json or results/train_tokenizer/<tokenizer>/report.json",
    )
    parser.add_argument("--json", action="store_true", help="print the records, in the order of the tables")
    args = parser.parse_args(argv)
    evaluations, reports = [], []
    for path in args.file:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = {}
        for record in found if isinstance(found, list) else [found]:  # an export's evaluation.json has several
            keys = set(record) if isinstance(record, dict) else set()
            if {"model", "test_set", "perplexity"} <= keys:
                evaluations.append(record)
            elif {"tokenizer", "valid", "pieces"} <= keys:
                reports.append(record)
            else:
                raise NoEvaluation(
                    f"{path} is no evaluation and no report of a tokenizer; they are results/evaluate/<model>/<test set>.json, "
                    "evaluation.json of an export, and results/train_tokenizer/<tokenizer>/report.json"
                )
    if args.json:
        records = {"evaluations": sorted(evaluations, key=rank), "tokenizers": reports}
        print(json.dumps(records, indent=2, ensure_ascii=False))
        return
    print("\n\n".join(show(records) for show, records in ((table, evaluations), (tokenizers, reports)) if records))
