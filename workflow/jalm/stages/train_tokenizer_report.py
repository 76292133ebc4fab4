"""Measure a tokenizer on the valid side of its corpora, and describe its pieces.

Characters and bytes are those of the text before the normaliser, so that tokenizers that normalise otherwise can be
compared. A document is its paragraphs joined by line ends, as shard encodes it; a line end is a token, where there are
byte pieces <0x0A>, but is not counted among these, which tell how much text the vocabulary has no characters for.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jalm import Fault, cli
from jalm.config import NoKnobs
from jalm.formats import accounts, documents

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

BATCH = 100  # documents encoded at once
SHOWN = 30  # longest and rarest pieces
SCRIPTS = {  # beginning of Unicode's name of a letter
    "HIRAGANA": "hiragana",
    "KATAKANA": "katakana",
    "HALFWIDTH KATAKANA": "katakana",
    "CJK": "kanji",
    "IDEOGRAPHIC": "kanji",  # 々, 〆, 〇
    "LATIN": "Latin",
    "FULLWIDTH LATIN": "Latin",
}


class NothingToMeasure(Fault):
    """A valid side without text."""


def script(piece: str) -> str:
    """What a piece is made of: one kind of characters, `kanji + hiragana`, or `mixed`; ー and marks go with any."""
    kinds = {_kind(char) for char in piece if char != "ー" and unicodedata.category(char)[0] != "M"}
    if len(kinds) > 1:
        return "kanji + hiragana" if kinds == {"kanji", "hiragana"} else "mixed"
    return kinds.pop() if kinds else "katakana" if "ー" in piece else "punctuation and symbols"


def _kind(char: str) -> str:
    category, name = unicodedata.category(char), unicodedata.name(char, "")
    if category[0] == "L" or name.startswith("IDEOGRAPHIC NUMBER"):
        return next((kind for start, kind in SCRIPTS.items() if name.startswith(start)), "other letters")
    if char == "▁" or category[0] == "Z":
        return "white space"
    return "digits" if category[0] == "N" else "punctuation and symbols"


def measure(
    texts: Iterable[documents.Document], spm: "SentencePieceProcessor", normalize: Callable[[str], str]
) -> tuple[dict[str, float], np.ndarray]:
    """Sizes of documents in text and tokens, and how often each piece occurs: int64, shape (pieces,).

    Raises:
        NothingToMeasure: the documents are empty.
    """
    sizes, uses = Counter(), np.zeros(spm.get_piece_size(), dtype=np.int64)
    for document in texts:
        sizes.update(accounts.size(document))
        ids = spm.encode(normalize(documents.text(document)), return_type="numpy")
        uses += np.bincount(ids, minlength=len(uses))
    byte = np.array([spm.is_byte(number) for number in range(len(uses))])
    line_end = spm.piece_to_id("<0x0A>" if byte.any() else "\n")
    line_ends = int(uses[line_end]) * (line_end != spm.unk_id())
    tokens = int(uses.sum())
    if not tokens:
        raise NothingToMeasure(
            f"valid has {sizes['documents']} documents and no text; look at filter.min_characters and split.valid_fraction"
        )
    figures = {
        "tokens": tokens,
        "unknown": int(uses[spm.unk_id()]),
        "byte_pieces": int(uses[byte].sum()) - line_ends * bool(byte.any()),
        "line_ends": line_ends,
        "characters_per_token": sizes["characters"] / tokens,
        "bytes_per_token": sizes["bytes"] / tokens,
    }
    return dict(sizes) | figures, uses


def pieces(spm: "SentencePieceProcessor", uses: np.ndarray) -> dict:
    """What the vocabulary is made of; `uses` says how often each piece occurs."""
    everything = range(spm.get_piece_size())
    special = [n for n in everything if spm.is_control(n) or spm.is_unknown(n) or spm.is_unused(n)]
    byte = [n for n in everything if spm.is_byte(n)]
    apart = {*special, *byte}
    normal = [n for n in everything if n not in apart]
    scripts = Counter(script(spm.id_to_piece(n)) for n in normal)

    def shown(numbers: list[int]) -> list[dict]:
        return [{"piece": spm.id_to_piece(n), "score": spm.get_score(n), "uses": int(uses[n])} for n in numbers[:SHOWN]]

    long = [n for n in normal if len(spm.id_to_piece(n)) > 1]
    return {
        "special": len(special),
        "bytes": len(byte),
        "scripts": dict(scripts.most_common()),
        "unused": sum(1 for n in normal if not uses[n]),
        "longest": shown(sorted(long, key=lambda n: (-len(spm.id_to_piece(n)), n))),
        "rarest": shown(sorted(long, key=lambda n: (spm.get_score(n), n))),
    }


def _trained_on(report: dict) -> list[str]:
    lines = [f"# {report['tokenizer']}", "", "| trained on | documents | of | lines | characters | MB of text |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for corpus, n in report["sample"]["corpora"].items():
        numbers = " | ".join(f"{n[key]:,}" for key in ("documents", "of_documents", "lines", "characters"))
        lines.append(f"| {corpus} | {numbers} | {n['bytes'] / 1e6:.1f} |")
    return lines


def table(report: dict) -> str:
    """A report for reading, in Markdown."""
    if "own_model" in report["sample"]:
        same, compared = (f"{report['sample'][key]:,}" for key in ("same_lines", "lines"))
        what = f"Made of {report['sample']['own_model']}, which cuts {same} of {compared} pairs of lines of train into the same pieces."
        lines = [f"# {report['tokenizer']}", "", what]
    else:
        lines = _trained_on(report)
    lines += ["", "| valid side of | documents | characters | tokens | characters a token | bytes a token |"]
    lines[-1] += " unknown | byte pieces |"
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    for corpus, n in report["valid"].items():
        numbers = " | ".join(f"{n[key]:,}" for key in ("documents", "characters", "tokens"))
        means = " | ".join(f"{n[key]:.3f}" for key in ("characters_per_token", "bytes_per_token"))
        shares = " | ".join(f"{n[key] / n['tokens']:.3%}" for key in ("unknown", "byte_pieces"))
        lines.append(f"| {corpus} | {numbers} | {means} | {shares} |")
    found = report["pieces"]
    lines += ["", f"{report['vocab_size']:,} pieces: {found['special']} special, {found['bytes']} bytes, and"]
    lines[-1] += f" {sum(found['scripts'].values()):,} of text, of which valid never uses {found['unused']:,}."
    lines += ["", "| made of | pieces |", "|---|---:|"]
    lines += [f"| {kind} | {count:,} |" for kind, count in found["scripts"].items()]
    for kind, what in (("longest", "longest"), ("rarest", "rarest, by their score, of several characters")):
        lines += ["", f"| {what} | score | uses in valid |", "|---|---:|---:|"]
        lines += [f"| {_quoted(p['piece'])} | {p['score']:.2f} | {p['uses']:,} |" for p in found[kind]]
    return "\n".join(lines) + "\n"


def _quoted(piece: str) -> str:
    return "".join("\\" + char if char in "\\`*_|<>[]~#" else char for char in piece)


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, NoKnobs, "train_tokenizer_report")
    parser.add_argument(
        "--documents",
        nargs="+",
        action="append",
        required=True,
        metavar=("NAME", "FILE"),
        help="corpus, and its valid side",
    )
    parser.add_argument("--name", required=True, help="name of the tokenizer")
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="the SentencePiece model (spm.model)")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="FILE", help="the same as tokenizer.json")
    parser.add_argument("--sample", type=Path, required=True, metavar="FILE", help="what it was trained on (.json)")
    parser.add_argument("--report", type=Path, required=True, metavar="FILE", help="the figures (.json)")
    parser.add_argument("--table", type=Path, required=True, metavar="FILE", help="the same for reading (.md)")
    args, _ = cli.parse(parser, argv)

    from sentencepiece import SentencePieceProcessor

    from jalm.formats import tokenizer

    spm = SentencePieceProcessor(model_proto=tokenizer.read(args.model))
    normalize = tokenizer.read_exported(args.tokenizer).normalizer.normalize_str
    valid, total = {}, np.zeros(spm.get_piece_size(), dtype=np.int64)
    for corpus, *files in args.documents:
        texts = chain.from_iterable(documents.read(Path(file)) for file in files)
        valid[corpus], uses = measure(cli.progress(texts, unit=" documents"), spm, normalize)
        total += uses
    report = {
        "tokenizer": args.name,
        "vocab_size": spm.get_piece_size(),
        "sample": json.loads(args.sample.read_text(encoding="utf-8")),
        "valid": valid,
        "pieces": pieces(spm, total),
    }
    with cli.writing(args.report, args.table) as (figures, reading):
        figures.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        reading.write_text(table(report), encoding="utf-8")
    made = ", ".join(f"{corpus}: {n['characters_per_token']:.3f} characters a token" for corpus, n in valid.items())
    cli.closing("train_tokenizer_report", f"{sum(n['documents'] for n in valid.values()):,} documents", made)
