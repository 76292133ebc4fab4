"""Train a SentencePiece model on a sample of the train side.

The sample is drawn by the hash of the corpus and the document's id: the same articles whatever the parts and their order,
and those of them that the next dump still has. It is drawn in one reading, which keeps no more than the sample.
SentencePiece gets its sentences in the order of these hashes, normalised by the very object that the exported tokenizer
carries, and does nothing to them itself. It only logs which lines it leaves out; that log is read, and it is an error.
"""

import contextlib
import hashlib
import heapq
import io
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from jalm import Fault, cli
from jalm.config import TrainTokenizer
from jalm.formats import documents, words

if TYPE_CHECKING:
    from tokenizers import Tokenizer


RECIPE = 2  # raise it when the pieces that come out change: the test of this number says when

RESERVED = "▅"  # SentencePiece skips a line that has it
BORDER = "\t"  # between words: SentencePiece makes no piece with it in any case
LONGEST = 16_384  # characters handed over at once, each of up to 4 bytes and perhaps followed by a BORDER
MB = 1_000_000
COMPARED = 3000  # pairs of lines that a user's own model is compared on with what we make of it


class VocabularyError(Fault):
    """A vocabulary that the text cannot fill, or that cannot hold its characters."""


class SampleError(Fault):
    """A sample without text, or one that SentencePiece did not take whole."""


# ---- the sample


def rank(corpus: str, document_id: int | str, seed: str) -> int:
    """Place of a document in the order in which documents are drawn, 64 bits.

    `corpus` is its name without a date, so that the next dump draws the same articles. It is hashed because ids repeat
    from corpus to corpus: article 5 of one wiki says nothing about whether article 5 of another is drawn.
    """
    digest = hashlib.blake2b(f"{seed}:{corpus}:{document_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


class Draw:
    """The first documents in the order of their ranks that fit into a limit, at least one, of all that are shown to it.

    It keeps these and at most one document more, in whatever order it sees them.
    """

    def __init__(self, limit: float) -> None:
        """Documents of `limit` bytes of text."""
        self.limit = limit
        self.bytes = 0
        self._kept: list[tuple[int, bytes, int, str]] = []  # a heap, the document of the highest rank first

    def show(self, corpus: str, rank: int, document: documents.Document) -> None:
        """Keep a document if it comes before what is too much."""
        if self.bytes > self.limit and rank > -self._kept[0][0]:
            return
        size = len(documents.text(document).encode())
        heapq.heappush(self._kept, (-rank, orjson.dumps(document), size, corpus))
        self.bytes += size
        while self.bytes - self._kept[0][2] > self.limit:
            self._drop()

    def close(self) -> list[tuple[int, bytes, int, str]]:
        """Minus the rank, the document as JSON, bytes of its text and corpus of each document drawn."""
        if self.bytes > self.limit and len(self._kept) > 1:
            self._drop()
        return self._kept

    def _drop(self) -> None:
        self.bytes -= heapq.heappop(self._kept)[2]


def sample(
    corpora: Mapping[str, list[Path]], config: TrainTokenizer
) -> tuple[Iterator[tuple[str, documents.Document]], dict[str, dict[str, int]]]:
    """Documents of the sample, each with its corpus, in the order of their ranks; and how many of how many were drawn."""
    total = config.sample_mb * MB
    if isinstance(config.corpora, Mapping):
        weights = sum(config.corpora.values())
        draws = {corpus: Draw(total * weight / weights) for corpus, weight in config.corpora.items()}
    else:
        draws = dict.fromkeys(config.corpora, Draw(total))
    paths = [(corpus, path) for corpus in draws for path in corpora[corpus]]
    there = Counter()
    for corpus, path in cli.progress(paths, unit=" parts", total=len(paths)):
        for document in documents.read(path):
            there[corpus] += 1
            draws[corpus].show(corpus, rank(corpus, document["id"], config.seed), document)
    drawn = sorted(entry for draw in dict.fromkeys(draws.values()) for entry in draw.close())
    taken, sizes = Counter(), Counter()
    for _, _, size, corpus in drawn:
        taken[corpus] += 1
        sizes[corpus] += size
    for draw in dict.fromkeys(draws.values()):
        names = [corpus for corpus in draws if draws[corpus] is draw]
        if all(taken[corpus] == there[corpus] for corpus in names):
            has = f"{' + '.join(names)}: {draw.bytes:,} bytes of text, where the sample has room for {draw.limit:,.0f}"
            cli.log.info("%s; all of it is in the sample, once", has)
    counts = {
        corpus: {"of_documents": there[corpus], "documents": taken[corpus], "bytes": sizes[corpus]} for corpus in draws
    }

    def unpacked() -> Iterator[tuple[str, documents.Document]]:
        while drawn:
            _, line, _, corpus = drawn.pop()
            yield corpus, orjson.loads(line)

    return unpacked(), counts


# ---- what SentencePiece is given


def sentences(
    document: documents.Document, normalize: Callable[[str], str], wakati: Callable[[str], str] | None = None
) -> Iterator[str]:
    """Normalised sentences of a document, cut at what SentencePiece reserves and where they are too long.

    Args:
        document: segmented; its `words` are those that `wakati` would find in its sentences.
        normalize: applied to the whole sentence, as at inference; ㌖ is one character before and six after.
        wakati: if given, there is a BORDER between the words of the normalised sentence: ﾊﾟﾝ is the word パン.
    """
    stored = document.get("words")
    for p, paragraph in enumerate(document["paragraphs"]):
        for s, sentence in enumerate(paragraph):
            for text in normalize(sentence).split(RESERVED):
                for begin in range(0, len(text), LONGEST):
                    line = text[begin : begin + LONGEST]
                    if wakati:
                        lengths = stored[p][s] if stored and line == sentence else words.lengths(line, wakati)
                        line = BORDER.join(line[a:b] for a, b in pairwise(accumulate(lengths, initial=0)))
                    if line.rstrip("\r\n"):  # SentencePiece takes them off, and skips what is empty
                        yield line


@contextlib.contextmanager
def stderr_kept() -> Iterator[Callable[[], str]]:
    """A function that tells what this process, its C++ libraries too, has written to stderr in the block; none is shown."""
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def told() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        try:
            yield told
        except BaseException:
            os.write(shown, told().encode())
            raise
        finally:
            os.dup2(shown, 2)
            os.close(shown)


def check_loaded(given: int, told: str) -> None:
    """Compare the lines that SentencePiece was given with those that its log says it loaded.

    Raises:
        SampleError: it left lines out.
    """
    loaded = re.search(r"Loaded all (\d+) sentences", told)
    if loaded is None or int(loaded[1]) != given:
        reasons = re.findall(r"(?:Reserved chars|Found too long|Skipped).*", told)[:3]
        raise SampleError(
            f"SentencePiece loaded {loaded[1] if loaded else 'an unknown number'} of {given} lines "
            f"({'; '.join(reasons)[:500] or 'it does not say why'}); lines are made so that it takes all: this version "
            "of sentencepiece has other rules, install the one of envs/requirements.txt"
        )


def train(lines: Iterable[str], config: TrainTokenizer) -> bytes:
    """A serialised SentencePiece model of normalised lines.

    Raises:
        VocabularyError: vocab_size is too large or too small for the text.
        SampleError: there is no line, or SentencePiece left lines out.
    """
    import sentencepiece

    from jalm.formats import tokenizer

    coverage = config.character_coverage
    if config.pretokenizer == "unidic":  # SentencePiece counts each BORDER as a character that is covered
        lines = list(lines)
        borders, total = sum(line.count(BORDER) for line in lines), sum(map(len, lines))
        coverage = 1 - (1 - coverage) * (total - borders) / total if total else coverage
    given = 0

    def counted() -> Iterator[str]:
        nonlocal given
        for line in lines:
            given += 1
            yield line

    model = io.BytesIO()
    with stderr_kept() as told:
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=counted(),
                model_writer=model,
                model_type=config.model_type,
                vocab_size=config.vocab_size,
                character_coverage=coverage,
                required_chars=tokenizer.SPELLING if config.byte_fallback else f"{tokenizer.SPELLING}\n",
                num_threads=config.num_threads,
                split_digits=config.split_digits,
                byte_fallback=config.byte_fallback,
                unk_surface=tokenizer.UNK,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                pretokenization_delimiter=BORDER if config.pretokenizer == "unidic" else "",
                max_sentence_length=5 * LONGEST,
                pad_id=tokenizer.IDS[tokenizer.PAD],
                unk_id=tokenizer.IDS[tokenizer.UNK],
                bos_id=tokenizer.IDS[tokenizer.BOS],
                eos_id=tokenizer.IDS[tokenizer.EOS],
                pad_piece=tokenizer.PAD,
                unk_piece=tokenizer.UNK,
                bos_piece=tokenizer.BOS,
                eos_piece=tokenizer.EOS,
                control_symbols=[tokenizer.CLS, tokenizer.SEP, tokenizer.MASK],
                minloglevel=0,  # what it left out is in its log only
            )
        except RuntimeError as error:
            if not given:
                raise SampleError("the sample has no sentence; look at the documents of tokenizers.*.corpora") from None
            raise _explained(error, config) from None
        check_loaded(given, told())
    return tokenizer.exact(model.getvalue())


def adopt(own: Path, lines: Iterator[str]) -> tuple[bytes, "Tokenizer", dict]:
    """A user's own SentencePiece model over our ids, as tokenizer.json, and how alike they are on pairs of lines of text.

    Raises:
        TokenizerError: the file is no such model, or one that cannot be exported.
    """
    from jalm.formats import normaliser, tokenizer

    given = tokenizer.read(own)
    try:
        model = tokenizer.adopt(given)
    except tokenizer.TokenizerError as fault:
        raise tokenizer.TokenizerError(f"{own}: {fault}") from None
    exported = tokenizer.build(model, normaliser.carried(given))
    compared = [f"{one}\n{two}" for one, two in islice(pairwise(filter(None, lines)), COMPARED)]  # line ends count too
    same = tokenizer.agreement(given, exported, compared)
    cli.log.info("train_tokenizer: %s of %s pairs of lines are cut as by %s", f"{same:,}", f"{len(compared):,}", own)
    return model, exported, {"own_model": own.name, "lines": len(compared), "same_lines": same}


def _explained(error: RuntimeError, config: TrainTokenizer) -> Exception:
    """What a user can do about an error of SentencePiece; the error itself if that is not known."""
    message = str(error)
    if found := re.search(r"Vocabulary size too high.*<= (\d+)", message, re.DOTALL):
        return VocabularyError(
            f"vocab_size {config.vocab_size} is too large for this corpus, which has {found[1]} pieces at most; "
            "lower vocab_size, or train on more text (tokenizers.*.corpora, sample_mb)"
        )
    if found := re.search(r"smaller than required_chars.*?(\d+) vs (\d+)", message, re.DOTALL):
        return VocabularyError(
            f"vocab_size {config.vocab_size} has no room for the {found[2]} characters, bytes and special tokens "
            "that must be pieces; raise vocab_size, or lower character_coverage"
        )
    return error


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, TrainTokenizer, "train_tokenizer")
    parser.add_argument(
        "--documents",
        nargs="+",
        action="append",
        required=True,
        metavar=("NAME", "FILE"),
        help="corpus, and its train side",
    )
    parser.add_argument("--dictionary", default="unidic", help="of segment, for pretokenizer unidic (default: unidic)")
    parser.add_argument("--own", type=Path, nargs="*", metavar="FILE", help="a model to use instead of training one")
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="the SentencePiece model (spm.model)")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="FILE", help="the same as tokenizer.json")
    parser.add_argument("--sample", type=Path, required=True, metavar="FILE", help="what it was trained on (.json)")
    args, config = cli.parse(parser, argv)

    from jalm.formats import normaliser, tokenizer

    corpora = {name: list(map(Path, files)) for name, *files in args.documents}
    if corpora.keys() != set(config.corpora):
        raise SampleError(f"--corpora has {', '.join(config.corpora)}, --documents was given for {', '.join(corpora)}")
    normalize = normaliser.build(config.normalization).normalize_str
    wakati = words.wakati(args.dictionary) if config.pretokenizer == "unidic" else None
    drawn, counts = sample(corpora, config)
    for sizes in counts.values():
        sizes |= {"lines": 0, "characters": 0}

    def lines() -> Iterator[str]:
        for corpus, document in drawn:
            sizes = counts[corpus]
            for line in sentences(document, normalize, wakati):
                sizes["lines"] += 1
                sizes["characters"] += len(line.replace(BORDER, "") if wakati else line)
                yield line

    if args.own:
        paragraphs = ("".join(paragraph) for _, document in drawn for paragraph in document["paragraphs"])
        model, made, own = adopt(args.own[0], paragraphs)
        record, taken = {"corpora": {}} | own, f"{own['lines']:,} lines to compare"
    else:
        model = train(lines(), config)
        made, record = tokenizer.build(model, normaliser.build(config.normalization)), {"corpora": counts}
        keys = ("documents", "lines", "characters")
        taken = ", ".join(f"{sum(sizes[key] for sizes in counts.values()):,} {key}" for key in keys)
    with cli.writing(args.model, args.tokenizer, args.sample) as (spm, exported, told):
        spm.write_bytes(model)
        exported.write_text(made.to_str(pretty=True), encoding="utf-8")  # of a full disk its own save tells otherwise
        told.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    cli.closing("train_tokenizer", taken, f"{made.get_vocab_size():,} pieces")
