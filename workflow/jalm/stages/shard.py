"""Turn the text of one part into tokens, once; training memory-maps them."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from jalm import cli
from jalm.config import SIDES, NoKnobs
from jalm.formats import documents, shards, tokenizer

BATCH = 1000  # documents encoded at once


def encode(texts: Iterator[str], model: Path, exported: Path, cpus: int) -> Iterator[list[int]]:
    """Tokens of each text, between <s> and </s>.

    Args:
        texts: as they are in the documents.
        model: the SentencePiece model, which is faster than its exported form and gives the same ids.
        exported: its tokenizer.json, which has the normaliser.
        cpus: threads.
    """
    import sentencepiece
    import tokenizers

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    normalize = tokenizers.Tokenizer.from_file(str(exported)).normalizer.normalize_str
    bos, eos = tokenizer.IDS[tokenizer.BOS], tokenizer.IDS[tokenizer.EOS]
    while batch := [normalize(text) for text in islice(texts, BATCH)]:
        for ids in pieces.encode(batch, num_threads=cpus):
            yield [bos, *ids, eos]


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, NoKnobs, "shard")
    for side in SIDES:
        parser.add_argument(f"--{side}", type=Path, required=True, metavar="FILE", help=f"documents of {side}")
        parser.add_argument(f"--{side}-tokens", type=Path, required=True, metavar="FILE", help=f"tokens of {side}")
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="the SentencePiece model (spm.model)")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="FILE", help="the same as tokenizer.json")
    parser.add_argument("--cpus", type=int, default=1, metavar="N", help="threads (default: 1)")
    args, _ = cli.parse(parser, argv)

    import sentencepiece

    kind = shards.dtype(sentencepiece.SentencePieceProcessor(model_file=str(args.model)).get_piece_size())
    made, taken = [], 0
    with cli.writing(*(getattr(args, f"{side}_tokens") for side in SIDES)) as paths:
        for side, path in zip(SIDES, paths, strict=True):
            texts = (documents.text(document) for document in documents.read(getattr(args, side)))
            tokens = 0
            with open(path, "wb") as file:
                for ids in cli.progress(encode(texts, args.model, args.tokenizer, args.cpus), unit=" documents"):
                    file.write(np.array(ids, dtype=kind).tobytes())
                    tokens, taken = tokens + len(ids), taken + 1
            made.append(f"{tokens:,} {side}")
    cli.closing("shard", f"{taken:,} documents", f"tokens: {' + '.join(made)}")
