"""Turn the text of one part into tokens, once; training memory-maps them.

Documents are encoded in pieces of some hundred characters, cut where no piece of the vocabulary could reach across, so
that nothing comes out otherwise, and a document of any length takes no more memory than others. Where documents carry
words, it is stored which tokens begin one: training can then mask whole words.

`--verify DIR` checks finished shards instead: what their manifests say, of one side or of all below a folder.
"""

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jalm import cli
from jalm.config import SIDES, NoKnobs
from jalm.formats import documents, normaliser, shards, tokenizer

BATCH = 400_000  # characters encoded at once, if no document is longer
AT_ONCE = 1000  # pieces that SentencePiece gets at once
WORDS = 1 << 16  # words normalised at once
PIECE = 800  # characters
LONGEST = 10_000  # characters after which a text that offers no place to cut is cut anyway


class Batch(NamedTuple):
    """Some documents as tokens.

    Attributes:
        ids: all tokens.
        documents: int64, shape (documents, 2): tokens and sentences of each.
        sentences: int64: tokens of each sentence.
        word_starts: bool: which tokens begin a word; None if nothing is known of words.
    """

    ids: np.ndarray
    documents: np.ndarray
    sentences: np.ndarray
    word_starts: np.ndarray | None = None


class Encoder:
    """A SentencePiece model with its normaliser, for documents with sentences.

    Attributes:
        vocab_size: pieces.
        forced: places where a text was cut although a piece might reach across them.
    """

    def __init__(self, model: Path, exported: Path, cpus: int = 1) -> None:
        """Load it.

        Args:
            model: the SentencePiece model, which is faster than its exported form.
            exported: its tokenizer.json, which has the normaliser.
            cpus: threads.

        Raises:
            TokenizerError: a file is not what it should be.
            ShardError: they do not belong together.
        """
        from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

        self._cpus, self.forced, serialized = cpus, 0, tokenizer.read(model)
        proto = sentencepiece_model_pb2.ModelProto.FromString(serialized)
        self._spm = SentencePieceProcessor(model_proto=serialized)
        self.vocab_size: int = self._spm.get_piece_size()
        self._exported = tokenizer.read_exported(exported)
        if self._exported.get_vocab_size() != self.vocab_size:
            raise shards.ShardError(
                f"{exported} has {self._exported.get_vocab_size():,} pieces, {model} {self.vocab_size:,}: they do not belong "
                "together; make both with train_tokenizer"
            )
        self._exported.encode_special_tokens = True  # text that spells a special token is text
        # one token of several unknown characters, or a text that is changed as a whole: the exported form has to say where
        self._local = (
            proto.trainer_spec.byte_fallback
            and not proto.normalizer_spec.add_dummy_prefix
            and normaliser.by_character(self._exported.normalizer)
        )
        self._normalize = normaliser.Fast(self._exported.normalizer) if self._local else list
        self._combining = self._normalize.combining if self._local else frozenset()
        self._joins = np.zeros(normaliser.DECOMPOSING + 1, dtype=bool)  # the last stands for all beyond
        self._joins[[ord(character) for character in self._combining]] = True
        self._width = np.array([_width(piece) for piece in proto.pieces], dtype=np.uint16)
        self._width[[tokenizer.IDS[tokenizer.BOS], tokenizer.IDS[tokenizer.EOS]]] = 1
        words = [piece.piece for piece in proto.pieces if piece.type not in (tokenizer.CONTROL, tokenizer.BYTE)]
        self._inside = {word[place : place + 2] for word in words for place in range(len(word) - 1)}

    def __call__(self, paragraphs: list[list[list[str]]], words: list[list[list[list[int]]]] | None = None) -> Batch:
        """Tokens of some documents, each between <s> and </s>.

        A line break belongs to the sentence before it, <s> to the first, </s> to the last. A piece that reaches across
        the end of a sentence belongs to that sentence. A token begins a word if its first character does; special tokens,
        unknown ones and line breaks do too.

        Args:
            paragraphs: of each document; lists of sentences.
            words: of each document, if known; for each sentence the lengths of its words, in characters.
        """
        units, counts = [], []  # sentences with their line breaks; a document without any has one, which is nothing
        for document in paragraphs:
            sentences = self._sentences(document)
            counts.append(len(sentences))
            units += sentences
        normal = self._normalize(units)
        last = np.cumsum(counts) - 1
        bounds = [0, *(last + 1).tolist()]
        texts = ["".join(normal[begin:end]) for begin, end in itertools.pairwise(bounds)]
        ids, width = self._tokens(texts)
        sizes = np.fromiter(map(len, normal), dtype=np.int64, count=len(normal))
        sizes[last] += 1  # </s>
        sizes[last - counts + 1] += 1  # <s>
        np.cumsum(width, out=width)
        ends = _places(width, np.cumsum(sizes, dtype=np.uint32))
        tokens = np.diff(ends[last], prepend=0)
        real = np.array([any(document) for document in paragraphs], dtype=bool)
        kept = np.repeat(real, counts)
        word_starts = None
        if words is not None:
            raw = ["".join(units[begin:end]) for begin, end in itertools.pairwise(bounds)]
            word_starts = self._word_starts(ids, width, self._word_places(raw, words))
        return Batch(ids, np.stack([tokens, counts * real], axis=1), np.diff(ends, prepend=0)[kept], word_starts)

    def _sentences(self, paragraphs: list[list[str]]) -> list[str]:
        """Sentences of a document, with line breaks; a character that combines with what stands before it goes there."""
        units, leading = [], ""
        for sentences in paragraphs:
            units += sentences
            if units:
                units[-1] += "\n"
            else:
                leading += "\n"
        if not units:
            return [leading[:-1]]
        units[-1] = units[-1][:-1]  # between paragraphs only
        units[0] = leading + units[0]
        if not self._combining.isdisjoint([unit[:1] for unit in units]):
            for number in range(len(units) - 1, 0, -1):
                if units[number - 1][-1:] != "\n":
                    marks = sum(1 for _ in itertools.takewhile(self._combining.__contains__, units[number]))
                    units[number - 1] += units[number][:marks]
                    units[number] = units[number][marks:]
        return units

    def _word_places(self, texts: list[str], words: list[list[list[list[int]]]]) -> np.ndarray:
        """Where words begin in texts that are normalised and stand between marks, in characters.

        A word that begins with what combines with the character before it begins behind that.
        """
        raw = "".join(f"\n{text}\n" for text in texts)  # a line break for a mark: nothing combines with it
        lengths = np.fromiter(_lengths(words), dtype=np.int64)
        begins = np.cumsum(lengths) - lengths
        codes = np.frombuffer(raw.encode("utf-32-le"), dtype="<u4")
        joins = self._joins.take(codes, mode="clip")
        joins[1:] &= codes[:-1] != ord("\n")
        moved = joins[begins]
        free = np.flatnonzero(~joins)
        begins[moved] = free[np.searchsorted(free, begins[moved])]
        ends, sizes = np.append(begins[1:], len(raw)), np.empty_like(begins)
        for block in range(0, len(begins), WORDS):  # so that a long document does not have all its words in memory
            here = slice(block, block + WORDS)
            pieces = [raw[begin:end] for begin, end in zip(begins[here].tolist(), ends[here].tolist(), strict=True)]
            sizes[here] = [len(piece) for piece in self._normalize(pieces)]
        return np.cumsum(sizes) - sizes

    @staticmethod
    def _word_starts(ids: np.ndarray, ends: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Which tokens begin a word; `ends` is where each ends, `places` where words begin, in characters."""
        begins = np.append(0, ends[:-1])
        word = np.zeros(int(ends[-1]) + 1, dtype=bool)
        word[places] = True
        # a byte that goes on with a character ends where that does
        starts = word[begins] & (ends > begins) | (ids < len(tokenizer.SPECIAL))
        starts[1:] |= ids[:-1] == tokenizer.IDS[tokenizer.BOS]  # the space of a model that puts one before a text
        return starts

    def _tokens(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of normalised texts, between their marks, and how many characters each stands for (a mark: 1)."""
        kind = shards.dtype(self.vocab_size)
        begin, end = (np.array([tokenizer.IDS[mark]], dtype=kind) for mark in (tokenizer.BOS, tokenizer.EOS))
        if not self._local:
            return self._tokens_with_offsets(texts, begin, end)
        pieces = [list(self._cut(text)) for text in texts]
        flat = itertools.chain.from_iterable(pieces)
        found = (ids for some in iter(lambda: list(itertools.islice(flat, AT_ONCE)), []) for ids in self._encode(some))
        parts = [x for text in pieces for x in (begin, *(next(found) for _ in text), end)]
        ids, width = np.concatenate(parts), np.concatenate([self._width[part] for part in parts], dtype=np.uint32)
        assert int(width.sum(dtype=np.int64)) == sum(map(len, texts)) + 2 * len(texts)
        return ids, width

    def _encode(self, pieces: list[str]) -> list[np.ndarray]:
        kind = shards.dtype(self.vocab_size)
        return [ids.astype(kind) for ids in self._spm.encode(pieces, return_type="numpy", num_threads=self._cpus)]

    def _tokens_with_offsets(
        self, texts: list[str], begin: np.ndarray, end: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same of texts that are not normalised, by the exported tokenizer."""
        ids, widths = [], []
        for text, made in zip(texts, self._exported.encode_batch(texts, add_special_tokens=False), strict=True):
            ends = np.maximum.accumulate(np.array([stop for _, stop in made.offsets], dtype=np.int64))
            ids += [begin, np.array(made.ids, dtype=begin.dtype), end]
            widths += [[1], np.diff(ends, prepend=0), [1 + len(text) - (ends[-1] if len(ends) else 0)]]
        return np.concatenate(ids), np.concatenate(widths, dtype=np.uint32, casting="unsafe")

    def _cut(self, text: str) -> Iterator[str]:
        """Pieces of a text that can be encoded one by one."""
        begin = 0
        while len(text) - begin > PIECE:
            stop = min(begin + LONGEST, len(text))
            place = begin + PIECE
            while place < stop and text[place - 1 : place + 1] in self._inside:
                place += 1
            self.forced += place == stop < len(text)
            yield text[begin:place]
            begin = place
        yield text[begin:]


def _width(piece: Any) -> int:
    """Characters that a piece of the model stands for; of a character in bytes the first byte stands for it."""
    if piece.type == tokenizer.BYTE:
        return not 0x80 <= int(piece.piece[3:5], 16) < 0xC0  # not one that goes on
    return len(piece.piece)


def _places(ends: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How many tokens there are up to some places in the text.

    Args:
        ends: where each token ends, in characters; a byte that goes on with a character ends where its first does.
        wanted: places, in characters; inside a token it counts to its end.
    """
    whole = np.searchsorted(ends, wanted, side="right")
    return whole + (ends[whole - 1] < wanted)


def _lengths(words: list[list[list[list[int]]]]) -> Iterator[int]:
    """Lengths of the words of documents between marks, which are words as line breaks are."""
    for document in words:
        yield 1
        for paragraph in document or [[]]:
            yield from itertools.chain.from_iterable(paragraph)
            yield 1


def batches(found: Iterable[documents.Document]) -> Iterator[list[documents.Document]]:
    """Documents, some at a time.

    Raises:
        ShardError: some have words and some have none, or words do not make up their sentence.
    """
    batch, size, words = [], 0, None
    for document in found:
        batch.append(document)
        words = "words" in document if words is None else words
        if words != ("words" in document):
            has, had = ("none", "some") if words else ("some", "none")
            raise shards.ShardError(
                f"of words the document {document['id']} has {has}, those before it have {had}; "
                "segment all documents with the same segment.words"
            )
        if words and [[*map(len, sentences)] for sentences in document["paragraphs"]] != [
            [*map(sum, sentences)] for sentences in document["words"]
        ]:
            raise shards.ShardError(
                f"the words of the document {document['id']} do not make up its sentences; "
                "a stage that changes `paragraphs` has to change `words` too"
            )
        size += sum(map(len, itertools.chain.from_iterable(document["paragraphs"])))
        if size >= BATCH or len(batch) >= BATCH // 100:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def write(encoder: Encoder, found: Iterable[documents.Document], paths: tuple[Path, ...]) -> tuple[int, int]:
    """Write the files of a part: tokens of documents, their number in each document and sentence, the words; documents and tokens."""
    kinds = (shards.dtype(encoder.vocab_size), shards.LENGTH, shards.LENGTH)
    taken = tokens = 0
    rest = np.empty(0, dtype=bool)  # bits that are no whole byte yet
    with ExitStack() as stack:
        *files, words = [stack.enter_context(open(path, "wb")) for path in paths]
        for some in batches(found):
            known = [document["words"] for document in some] if "words" in some[0] else None
            batch = encoder([document["paragraphs"] for document in some], known)
            for file, array, kind in zip(files, batch[:3], kinds, strict=True):
                file.write(array.astype(kind).tobytes())
            if batch.word_starts is not None:
                bits = np.append(rest, batch.word_starts)
                whole = len(bits) // 8 * 8
                words.write(np.packbits(bits[:whole], bitorder="little").tobytes())
                rest = bits[whole:]
            taken, tokens = taken + len(batch.documents), tokens + len(batch.ids)
        words.write(np.packbits(rest, bitorder="little").tobytes())
    return taken, tokens


def verify(folder: Path, model: Path | None) -> None:
    """Check the shards of one side, or of all sides below a folder, and print a line for each.

    Raises:
        ShardError: there are none, or some are not what their manifest says.
    """
    if not folder.is_dir():
        raise shards.ShardError(f"--verify is {folder}, which is no folder; give that of a side, or one above it")
    if model:
        tokenizer.read(model)
    manifests = sorted(folder.rglob(shards.MANIFEST))
    if not manifests:
        raise shards.ShardError(f"there is no {shards.MANIFEST} in {folder} or below it; give the folder of a side")
    for side in sorted({path.parent for path in folder.rglob("*.bin")}.difference(path.parent for path in manifests)):
        raise shards.ShardError(f"{side} has tokens but no {shards.MANIFEST}; run shard_manifest again")
    for manifest in manifests:
        record = shards.verify(manifest, model)
        print(
            f"{manifest.parent}: {record['documents']:,} documents, {record['sentences']:,} sentences, "
            f"{record['tokens']:,} tokens, as their manifest says"
        )


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, NoKnobs, "shard")
    for side in SIDES:
        parser.add_argument(f"--{side}", type=Path, metavar="FILE", help=f"documents of {side}")
        parser.add_argument(
            f"--{side}-tokens",
            type=Path,
            metavar="FILE",
            help=f"tokens of {side} (.bin); .index, .sentences and .words are written beside it",
        )
    parser.add_argument("--model", type=Path, metavar="FILE", help="the SentencePiece model (spm.model)")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="the same as tokenizer.json")
    parser.add_argument("--cpus", type=int, default=1, metavar="N", help="threads (default: 1)")
    parser.add_argument(
        "--verify", type=Path, metavar="DIR", help="check finished shards, do nothing else; with --model whose they are"
    )
    args, _ = cli.parse(parser, argv)
    if args.verify:
        verify(args.verify, args.model)
        return
    files = {side: (getattr(args, side), getattr(args, f"{side}_tokens")) for side in SIDES}
    if None in (args.model, args.tokenizer, *(path for pair in files.values() for path in pair)):
        parser.error("--model, --tokenizer, and documents and tokens of each side are needed (or --verify)")

    os.environ["RAYON_NUM_THREADS"] = str(args.cpus)  # of the exported tokenizer
    encoder = Encoder(args.model, args.tokenizer, args.cpus)
    taken, made = 0, []
    with cli.writing(*(path for _, tokens in files.values() for path in shards.of_part(tokens))) as paths:
        for number, (side, (path, _)) in enumerate(files.items()):
            found = cli.progress(documents.read(path), unit=" documents")
            count, tokens = write(encoder, found, paths[4 * number : 4 * number + 4])
            taken += count
            made.append(f"{tokens:,} {side}")
    if encoder.forced:
        cli.log.info(
            "%s places where a text was cut after %s characters though a piece might reach across",
            f"{encoder.forced:,}",
            f"{LONGEST:,}",
        )
    cli.closing("shard", f"{taken:,} documents", f"tokens: {' + '.join(made)}")
