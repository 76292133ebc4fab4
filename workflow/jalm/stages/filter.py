"""Keep the documents that are good enough, and sign them for the search for duplicates.

The rules that need no dictionary: length, repetition, lines that are no sentences, letters, compressibility; for web text
HojiChar's too, if asked for. What is dropped is written down with its reason, the first of each reason with their text,
for reading. The dedup stage reads the signatures only.
"""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import zstandard

from jalm import cli
from jalm.config import Filter, Filtering
from jalm.formats import accounts, documents, signatures

SAMPLE = 20  # dropped documents of each reason and part that are kept for reading
EXCERPT = 2000  # characters of each
COMPRESSED = 10_000  # characters, about a web page; what is longer compresses better without being worse
NO_KANA = re.compile("[^ぁ-ゖァ-ヺｦ-ﾝー]+")
SENTENCE_ENDS = frozenset("。｡．.！？!?‼⁇⁈⁉…‥")

Judge = Callable[[str], bool]


def fault(text: str, config: Filter, judges: dict[str, Judge] | None = None) -> str | None:
    """The first rule that a text breaks, None if it is good enough; `judges` are rules of others, true if broken."""
    if len(text) < config.min_characters:
        return "shorter than min_characters"
    if len(text) > config.max_characters:
        return "longer than max_characters"
    if not text:
        return None
    lines = [line for line in text.split("\n") if line.strip()]
    repeated = _repeated(lines)
    if len(repeated) > config.dup_line_frac * len(lines):
        return "more repeated lines than dup_line_frac"
    if sum(map(len, repeated)) > config.char_duplicates_ratio * len(text):
        return "more text in repeated lines than char_duplicates_ratio"
    if sum(map(_ends_as_sentence, lines)) < config.line_punct_thr * len(lines):
        return "fewer lines that end as sentences than line_punct_thr"
    if text.count("\n") > config.new_line_ratio * len(text):
        return "more line ends than new_line_ratio"
    if sum(map(str.isalpha, text)) < config.min_letters * len(text):
        return "fewer letters than min_letters"
    if len(NO_KANA.sub("", text)) < config.min_kana * len(text):
        return "less kana than min_kana"
    data = text[:COMPRESSED].encode()
    ratio = len(zstandard.compress(data, 3)) / len(data)
    if ratio < config.min_compression_ratio:
        return "more repetitive than min_compression_ratio"
    if ratio > config.max_compression_ratio:
        return "less compressible than max_compression_ratio"
    return next((f"HojiChar's {name}" for name, is_broken in (judges or {}).items() if is_broken(text)), None)


def _ends_as_sentence(line: str) -> bool:
    """Whether nothing but brackets, emoji and the like stands behind the last mark that ends a sentence."""
    for character in reversed(line):
        if character in SENTENCE_ENDS:
            return True
        if character.isalnum() or character == "_":
            return False
    return False


def _repeated(lines: list[str]) -> list[str]:
    """Lines that are equal to an earlier one."""
    seen: set[str] = set()
    return [line for line in lines if line in seen or seen.add(line)]


def hojichar(names: list[str]) -> dict[str, Judge]:
    """HojiChar's filters of these names."""
    if not names:
        return {}
    from hojichar import Document, document_filters

    filters = {name: getattr(document_filters, name)() for name in names}
    return {name: lambda text, f=f: f.apply(Document(text)).is_rejected for name, f in filters.items()}


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, Filtering, "filter")
    parser.add_argument("--input", type=Path, required=True, metavar="FILE", help="segmented documents")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="documents that were kept")
    parser.add_argument(
        "--dropped", type=Path, required=True, metavar="FILE", help="id, title and reason of the others, text of some"
    )
    parser.add_argument("--signatures", type=Path, required=True, metavar="FILE", help="signatures of the kept")
    parser.add_argument("--counts", type=Path, required=True, metavar="FILE", help="sizes in, out and dropped (.json)")
    args, config = cli.parse(parser, argv)
    judges = hojichar(config.hojichar)
    reasons: dict[str, Counter] = {}
    taken, left = Counter(), Counter()
    with cli.writing(args.output, args.dropped, args.signatures, args.counts) as paths:
        with (
            documents.writing(paths[0]) as kept,
            documents.writing(paths[1]) as dropped,
            documents.writing(paths[2]) as signed,
        ):
            for document in cli.progress(documents.read(args.input), unit=" documents"):
                text, size = documents.text(document), accounts.size(document)
                taken += size
                reason = fault(text, config, judges)
                if reason is None:
                    left += size
                    kept.write(document)
                    signed.write(signatures.entry(document, config.ngram, config.num_perm))
                    continue
                reasons[reason] = reasons.get(reason, Counter()) + size
                entry = {"id": document["id"], "title": document["title"], "reason": reason, "characters": len(text)}
                is_sample = reasons[reason]["documents"] <= SAMPLE
                dropped.write(entry | ({"text": text[:EXCERPT]} if is_sample else {}))
        counts = {"in": taken, "out": left, "dropped": reasons}
        paths[3].write_text(json.dumps(counts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    cli.closing(
        "filter",
        f"{taken['documents']:,} documents",
        f"{left['documents']:,} documents",
        {reason: size["documents"] for reason, size in reasons.items()},
    )
