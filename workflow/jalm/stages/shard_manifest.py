"""Describe the token shards of a corpus: what they hold, their digests, and where each document ends."""

import json
from pathlib import Path

import numpy as np

from jalm import cli
from jalm.config import SIDES, NoKnobs
from jalm.formats import shards, tokenizer


def describe(files: list[Path], kind: np.dtype) -> tuple[dict, np.ndarray]:
    """Counts and digests of the shards of one side, and the end of each document in the whole stream (int64)."""
    entries, ends, total, unknown, in_bytes = [], [], 0, 0, 0
    for path in files:
        ids = np.fromfile(path, dtype=kind)
        ends.append(np.flatnonzero(ids == tokenizer.IDS[tokenizer.EOS]) + 1 + total)
        unknown += int(np.count_nonzero(ids == tokenizer.IDS[tokenizer.UNK]))
        in_bytes += int(np.count_nonzero((ids >= tokenizer.BYTES.start) & (ids < tokenizer.BYTES.stop)))
        total += len(ids)
        entries.append({"name": path.name, "tokens": len(ids), "sha256": shards.digest(path)})
    counts = {"dtype": kind.str, "tokens": total, "unknown_tokens": unknown, "byte_tokens": in_bytes, "files": entries}
    return counts, np.concatenate(ends).astype(np.int64)


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, NoKnobs, "shard_manifest")
    for side in SIDES:
        parser.add_argument(f"--{side}", type=Path, nargs="+", required=True, metavar="FILE", help=f"shards of {side}")
        parser.add_argument(
            f"--{side}-index", type=Path, required=True, metavar="FILE", help="ends of documents (.npy)"
        )
        parser.add_argument(f"--{side}-manifest", type=Path, required=True, metavar="FILE", help="the manifest (.json)")
    parser.add_argument(
        "--summary", type=Path, required=True, metavar="FILE", help="sizes of the text (split's summary)"
    )
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="the SentencePiece model (spm.model)")
    args, _ = cli.parse(parser, argv)

    import sentencepiece

    vocab_size = sentencepiece.SentencePieceProcessor(model_file=str(args.model)).get_piece_size()
    summary = json.loads(args.summary.read_text(encoding="utf-8"))
    made = []
    for side in SIDES:
        counts, ends = describe(getattr(args, side), shards.dtype(vocab_size))
        text = summary[side]
        if len(ends) != text["documents"]:
            raise shards.ShardError(
                f"the {side} shards have {len(ends):,} documents, split counted {text['documents']:,}"
            )
        manifest = {"tokenizer": shards.digest(args.model), "vocab_size": vocab_size, **text, **counts}
        with cli.writing(getattr(args, f"{side}_index"), getattr(args, f"{side}_manifest")) as (index, record):
            with open(index, "wb") as file:
                np.save(file, ends)
            record.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        made.append(f"{counts['tokens']:,} {side}")
    cli.closing(
        "shard_manifest", f"{sum(len(getattr(args, side)) for side in SIDES)} shards", f"tokens: {' + '.join(made)}"
    )
