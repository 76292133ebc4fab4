"""Describe the token shards of a corpus: what they hold, their digests, and where each document and sentence ends."""

import json
import shutil
from pathlib import Path

import numpy as np

from jalm import cli
from jalm.config import SIDES, NoKnobs
from jalm.formats import ids, shards, tokenizer


def write_index(parts: list[Path], path: Path) -> None:
    """Where each document ends in all parts together, in tokens and sentences, out of what each part has of it."""
    rows = sum(part.stat().st_size for part in parts) // (2 * shards.LENGTH.itemsize)
    total = np.zeros(2, dtype=np.int64)
    with open(path, "wb") as file:
        _write_header(file, np.dtype("<i8"), (rows, 2))
        for part in parts:
            for lengths in shards.chunks(part, shards.LENGTH):
                ends = np.cumsum(lengths.reshape(-1, 2), axis=0, dtype="<i8") + total
                file.write(ends.tobytes())
                total = ends[-1]


def write_sentences(parts: list[Path], path: Path) -> None:
    """Tokens of each sentence of all parts together."""
    rows = sum(part.stat().st_size for part in parts) // shards.LENGTH.itemsize
    with open(path, "wb") as file:
        _write_header(file, shards.LENGTH, (rows,))
        for part in parts:
            with open(part, "rb") as source:
                shutil.copyfileobj(source, file)


def _write_header(file, kind: np.dtype, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": kind.str, "fortran_order": False, "shape": shape})


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, NoKnobs, "shard_manifest")
    for side in SIDES:
        parser.add_argument(
            f"--{side}",
            type=Path,
            nargs="+",
            required=True,
            metavar="FILE",
            help=f"shards of {side} (.bin), with .index, .sentences and .words beside them",
        )
        parser.add_argument(
            f"--{side}-manifest",
            type=Path,
            required=True,
            metavar="FILE",
            help="the manifest (.json); index.npy and sentences.npy are written beside it",
        )
    parser.add_argument(
        "--summary", type=Path, required=True, metavar="FILE", help="sizes of the text (split's summary)"
    )
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="the SentencePiece model (spm.model)")
    args, _ = cli.parse(parser, argv)

    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_proto=tokenizer.read(args.model))
    vocab_size, byte_fallback = model.get_piece_size(), model.is_byte(ids.BYTES.start)
    kind, digest = shards.dtype(vocab_size), shards.digest(args.model)
    summary = json.loads(args.summary.read_text(encoding="utf-8"))
    made = []
    for side in SIDES:
        parts, final, text = getattr(args, side), getattr(args, f"{side}_manifest"), summary[side]
        beside = [final.with_name(shards.INDEX), final.with_name(shards.SENTENCES)]
        with cli.writing(*beside, final) as (index, sentences, manifest):
            write_index([shards.of_part(part)[1] for part in parts], index)
            write_sentences([shards.of_part(part)[2] for part in parts], sentences)
            words = [path for path in (shards.of_part(part)[3] for part in parts) if path.stat().st_size]
            counts = shards.examine(final.parent, parts, vocab_size, byte_fallback, index, sentences, bool(words))
            for name in ("documents", "sentences"):
                if counts[name] != text[name]:
                    raise shards.ShardError(
                        f"the {side} shards have {counts[name]:,} {name}, split counted {text[name]:,} "
                        f"({args.summary}); remove the shards in {parts[0].parent}, so that they are made again"
                    )
            of = {"tokenizer": digest, "vocab_size": vocab_size, "byte_fallback": byte_fallback}
            record = {**of, **text, "dtype": kind.str, **counts, "word_starts": bool(words)}
            record["files"] = [
                {"name": part.name, "tokens": part.stat().st_size // kind.itemsize, "sha256": shards.digest(part)}
                for part in parts
            ]
            record["indexes"] = [
                {"name": path.name, "sha256": shards.digest(partial)}
                for path, partial in zip([*beside, *words], (index, sentences, *words), strict=True)
            ]
            manifest.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        made.append(f"{counts['tokens']:,} {side}")
    cli.closing(
        "shard_manifest", f"{sum(len(getattr(args, side)) for side in SIDES)} shards", f"tokens: {' + '.join(made)}"
    )
