"""Keep the documents that are good enough, and sign them for the search for duplicates.

What is dropped is written down with its reason. A signature is the digest of a document's normalised text; the dedup
stage reads the signatures only.
"""

import hashlib
import unicodedata
from collections import Counter
from pathlib import Path

from jalm import cli
from jalm.config import Filter
from jalm.formats import documents


def fault(text: str, config: Filter) -> str | None:
    """Why a text is not good enough, None if it is."""
    if len(text) < config.min_characters:
        return "shorter than min_characters"
    if len(text) > config.max_characters:
        return "longer than max_characters"
    return None


def signature(text: str) -> str:
    """Digest, 128 bits in hexadecimal, that texts share which differ in width, compatibility forms or white space only."""
    letters = "".join(unicodedata.normalize("NFKC", text).split())
    return hashlib.blake2b(letters.encode(), digest_size=16).hexdigest()


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, Filter, "filter")
    parser.add_argument("--input", type=Path, required=True, metavar="FILE", help="segmented documents")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="documents that were kept")
    parser.add_argument(
        "--dropped", type=Path, required=True, metavar="FILE", help="id, title and reason of the others"
    )
    parser.add_argument("--signatures", type=Path, required=True, metavar="FILE", help="id and signature of the kept")
    args, config = cli.parse(parser, argv)
    reasons: Counter[str] = Counter()
    with (
        cli.writing(args.output, args.dropped, args.signatures) as paths,
        documents.writing(paths[0]) as kept,
        documents.writing(paths[1]) as dropped,
        documents.writing(paths[2]) as signatures,
    ):
        for document in cli.progress(documents.read(args.input), unit=" documents"):
            text = documents.text(document)
            reason = fault(text, config)
            if reason:
                reasons[reason] += 1
                dropped.write(
                    {"id": document["id"], "title": document["title"], "reason": reason, "characters": len(text)}
                )
            else:
                kept.write(document)
                signatures.write({"id": document["id"], "signature": signature(text)})
    cli.closing("filter", f"{kept.count + dropped.count:,} documents", f"{kept.count:,} documents", reasons)
