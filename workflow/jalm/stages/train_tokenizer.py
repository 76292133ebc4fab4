"""Train a SentencePiece model on a sample of the train side.

The sample is drawn by the hash of the document's id: the same articles whatever the order of the files. SentencePiece
gets sentences, normalised by the very object that the exported tokenizer carries, and does nothing to them itself.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from jalm import Fault, cli
from jalm.config import TrainTokenizer
from jalm.formats import documents

RESERVED = "▅"  # SentencePiece skips a sentence that has it
RECIPE = 1  # raise it when the pieces that come out change: the test of this number says when

LONGEST = (
    16_384  # characters handed over at once; SentencePiece drops lines over 65,536 bytes, and a character has up to 4
)
MB = 1_000_000


class VocabularyError(Fault):
    """A vocabulary that the text cannot fill, or that cannot hold its characters."""


def rank(document_id: int | str, seed: str) -> int:
    """Place of a document in the order in which documents are drawn, 64 bits."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{document_id}".encode(), digest_size=8).digest(), "big")


def last_rank(sizes: list[tuple[int, int]], limit: float) -> int:
    """Rank of the last document of the sample.

    Args:
        sizes: rank and bytes of every document.
        limit: bytes that the sample may have; it has at least one document.
    """
    taken, last = 0, -1
    for place, size in sorted(sizes):
        if taken and taken + size > limit:
            break
        taken, last = taken + size, place
    return last


def sample(paths: list[Path], config: TrainTokenizer) -> Iterator[documents.Document]:
    """Documents of the sample, in the order of the files."""
    sizes = [
        (rank(document["id"], config.seed), len(documents.text(document).encode()))
        for path in cli.progress(paths, unit=" parts", total=len(paths))
        for document in documents.read(path)
    ]
    last = last_rank(sizes, config.sample_mb * MB)
    for path in paths:
        yield from (d for d in documents.read(path) if rank(d["id"], config.seed) <= last)


def sentences(document: documents.Document, normalize: Callable[[str], str]) -> Iterator[str]:
    """Normalised sentences of a document, too long ones in pieces; ㌖ is one character before and six after."""
    for paragraph in document["paragraphs"]:
        for sentence in map(normalize, paragraph):
            sentence = sentence.replace(RESERVED, "")
            for begin in range(0, len(sentence), LONGEST):
                yield sentence[begin : begin + LONGEST]


def train(lines: Iterator[str], config: TrainTokenizer) -> bytes:
    """A serialised SentencePiece model of normalised lines.

    Raises:
        VocabularyError: vocab_size is too large or too small for the text.
    """
    import sentencepiece

    from jalm.formats import tokenizer

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            model_type=config.model_type,
            vocab_size=config.vocab_size,
            character_coverage=config.character_coverage,
            required_chars=tokenizer.SPELLING,
            num_threads=config.num_threads,
            split_digits=config.split_digits,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=4 * LONGEST,
            pad_id=tokenizer.IDS[tokenizer.PAD],
            unk_id=tokenizer.IDS[tokenizer.UNK],
            bos_id=tokenizer.IDS[tokenizer.BOS],
            eos_id=tokenizer.IDS[tokenizer.EOS],
            pad_piece=tokenizer.PAD,
            unk_piece=tokenizer.UNK,
            bos_piece=tokenizer.BOS,
            eos_piece=tokenizer.EOS,
            control_symbols=[tokenizer.CLS, tokenizer.SEP, tokenizer.MASK],
            minloglevel=1,
        )
    except RuntimeError as error:
        message = str(error)
        if found := re.search(r"Vocabulary size too high.*<= (\d+)", message, re.DOTALL):
            raise VocabularyError(
                f"vocab_size {config.vocab_size} is too large for this corpus, which has {found[1]} pieces at most; "
                "lower vocab_size, or train on more text (tokenizers.*.corpora, sample_mb)"
            ) from None
        if found := re.search(r"smaller than required_chars.*?(\d+) vs (\d+)", message, re.DOTALL):
            raise VocabularyError(
                f"vocab_size {config.vocab_size} has no room for the {found[2]} characters, bytes and special tokens "
                "that must be pieces; raise vocab_size, or lower character_coverage"
            ) from None
        raise
    return tokenizer.rounded(model.getvalue())


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, TrainTokenizer, "train_tokenizer")
    parser.add_argument("--input", type=Path, nargs="+", required=True, metavar="FILE", help="documents of train")
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="the SentencePiece model (spm.model)")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="FILE", help="the same as tokenizer.json")
    parser.add_argument("--report", type=Path, required=True, metavar="FILE", help="what it was trained on (.json)")
    args, config = cli.parse(parser, argv)

    from jalm.formats import normaliser, tokenizer

    normalize = normaliser.build(config.normalization).normalize_str
    counts = {"documents": 0, "sentences": 0, "characters": 0}

    def lines() -> Iterator[str]:
        for document in sample(args.input, config):
            counts["documents"] += 1
            for sentence in sentences(document, normalize):
                counts["sentences"] += 1
                counts["characters"] += len(sentence)
                yield sentence

    model = train(lines(), config)
    with cli.writing(args.model, args.tokenizer, args.report) as (spm, exported, report):
        spm.write_bytes(model)
        tokenizer.build(model, config.normalization).save(str(exported))
        counts["pieces"] = config.vocab_size
        report.write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    cli.closing(
        "train_tokenizer",
        f"{counts['documents']:,} documents, {counts['sentences']:,} sentences, {counts['characters']:,} characters",
        f"{counts['pieces']:,} pieces",
    )
