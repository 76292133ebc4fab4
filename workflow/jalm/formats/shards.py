"""The token shard format: tokens of one side of a corpus as memory-mapped little-endian integers.

A folder `<side>/` has

- `<part>.bin`: token ids, uint16, or uint32 for more than 65,536 pieces. A document is `<s> text </s>`, its paragraphs joined
  by a line break; documents follow each other without padding.
- `index.npy`: int64, shape (documents, 2): where each document ends, in tokens and in sentences of all parts together.
- `sentences.npy`: uint32: tokens of each sentence. `<s>` belongs to the first of a document, `</s>` to its last, a line break to
  the one before it; a piece that reaches across the end of a sentence to that one, so that a sentence may have no token of its own.
- `<part>.words`: one bit for each token, the first in the lowest bit of the first byte: it begins a word. Special tokens, unknown ones
  and line breaks do; of other tokens those with whose first character a word begins. Empty where the documents carried no words.
- `manifest.json`: the tokenizer's digest, dtype, counts, whether there are `word_starts`, and SHA-256 of each of these files.
- `<part>.index` and `<part>.sentences`: what the two `.npy` were made of; uint32, tokens and sentences of each document, and
  tokens of each sentence.
"""

import bisect
import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from jalm import Fault
from jalm.formats.ids import BYTES, EOS, IDS, UNK

MANIFEST, INDEX, SENTENCES = "manifest.json", "index.npy", "sentences.npy"
LENGTH = np.dtype("<u4")  # of a document or sentence, in tokens
CHUNK = 1 << 20  # numbers read at once
ROWS = 1 << 14  # documents whose sentences are added up at once
MASK = 2**64 - 1


class ShardError(Fault):
    """Shards that are not what their manifest says, or that cannot be made."""


def dtype(vocab_size: int) -> np.dtype:
    """The smallest type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 65536 else "<u4")


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_part(tokens: Path) -> tuple[Path, Path, Path, Path]:
    """The files of a part: its tokens, the lengths of its documents and of its sentences, and where words begin."""
    return tokens, tokens.with_suffix(".index"), tokens.with_suffix(".sentences"), tokens.with_suffix(".words")


def chunks(path: Path, kind: np.dtype, count: int = CHUNK) -> Iterator[np.ndarray]:
    """The numbers of a file of such, some at a time."""
    with open(path, "rb") as file:
        while len(numbers := np.fromfile(file, dtype=kind, count=count)):
            yield numbers


def _packed(tokens: int) -> int:
    """Bytes of a bit for each of some tokens."""
    return -(-tokens // 8)


def unpack(packed: np.ndarray, offset: int, length: int) -> np.ndarray:
    """Some of the bits of a `.words` file, from number `offset` on, as bool."""
    some = packed[offset // 8 : _packed(offset + length)]
    return np.unpackbits(some, bitorder="little")[offset % 8 :][:length].view(bool)


def examine(
    folder: Path,
    parts: list[Path],
    vocab_size: int,
    byte_fallback: bool,
    index: Path,
    sentences: Path,
    word_starts: bool,
) -> dict:
    """Read shards and the index they have, some at a time, and count.

    Args:
        folder: of which side; for messages.
        parts: files of tokens.
        vocab_size: each token is smaller.
        byte_fallback: some tokens stand for bytes.
        index: where documents end.
        sentences: tokens of each.
        word_starts: beside each part lies where words begin.

    Returns:
        documents, sentences, tokens, unknown_tokens, byte_tokens of all parts together.

    Raises:
        ShardError: they do not fit together.
    """
    tokens = documents = unknown = in_bytes = 0
    kind, in_byte = dtype(vocab_size), BYTES if byte_fallback else range(0)
    for path in parts:
        words = of_part(path)[3]
        have, want = (words.stat().st_size if words.is_file() else 0), _packed(path.stat().st_size // kind.itemsize)
        if have != want * word_starts:
            raise ShardError(
                f"{words} has {have:,} bytes, where words of all parts are known {want:,}, else none; remove it and {path.name}, "
                "so that both are made again of documents from one and the same segment.words"
            )
        packed = chunks(words, np.dtype("u1"), CHUNK // 8)
        for ids in chunks(path, kind):
            if word_starts and not unpack(next(packed), 0, len(ids))[ids < BYTES.start].all():
                raise ShardError(
                    f"{words} has special tokens of {path.name} inside words; remove both, so that they are made again"
                )
            if ids.max() >= vocab_size:
                raise ShardError(f"{path} has a token {ids.max()}, its tokenizer {vocab_size:,} pieces; make it again")
            ends = np.flatnonzero(ids == IDS[EOS]) + 1 + tokens
            # opened each time, so that what was read does not stay in memory
            if not np.array_equal(np.load(index, mmap_mode="r")[documents : documents + len(ends), 0], ends):
                raise ShardError(
                    f"{folder}: {INDEX} does not say where the documents of {path.name} end: this part or one before it is "
                    "damaged; remove the .bin files there, so that they are made again"
                )
            tokens, documents = tokens + len(ids), documents + len(ends)
            unknown += int(np.count_nonzero(ids == IDS[UNK]))
            in_bytes += int(np.count_nonzero((ids >= in_byte.start) & (ids < in_byte.stop)))
    rows, total = len(np.load(index, mmap_mode="r")), len(np.load(sentences, mmap_mode="r"))
    if rows != documents:
        raise ShardError(f"{folder}: {INDEX} has {rows:,} documents, the tokens have {documents:,}")
    before = np.zeros((1, 2), dtype=np.int64)
    for begin in range(0, rows, ROWS):
        ends = np.concatenate([before, np.load(index, mmap_mode="r")[begin : begin + ROWS]])
        lengths = np.load(sentences, mmap_mode="r")[ends[0, 1] : ends[-1, 1]]
        sums = np.append(0, np.cumsum(lengths, dtype=np.int64))
        places = (ends[:, 1] - ends[0, 1]).clip(0, len(lengths))
        with_sentences = np.diff(ends[:, 1]) > 0
        if (np.diff(ends[:, 1]) < 0).any() or (np.diff(sums[places]) != np.diff(ends[:, 0]))[with_sentences].any():
            raise ShardError(f"{folder}: the sentences of {SENTENCES} do not make up the documents of {INDEX}")
        before = ends[-1:]
    if before[0, 1] != total:
        raise ShardError(f"{folder}: {SENTENCES} has {total:,} sentences, {INDEX} {before[0, 1]:,}")
    counts = {"documents": documents, "sentences": total, "tokens": tokens}
    return counts | {"unknown_tokens": unknown, "byte_tokens": in_bytes}


def verify(manifest: Path, model: Path | None = None) -> dict:
    """What a manifest says, once its shards have been found to be as it says.

    Args:
        manifest: of one side.
        model: the SentencePiece model that the shards should be of.

    Raises:
        ShardError: a file is missing, changed or cut short, does not fit the others, or is of another tokenizer.
    """
    opened = Shards(manifest)
    record, folder = opened.manifest, manifest.parent
    if lacking := {"indexes", "byte_fallback", "word_starts"} - record.keys():
        raise ShardError(
            f"{manifest} is of an earlier version, without {', '.join(sorted(lacking))}; remove it, so that it is made again"
        )
    if model and (found := digest(model)) != record["tokenizer"]:
        raise ShardError(
            f"{manifest} is of the tokenizer with the SHA-256 {record['tokenizer']}, {model} has {found}; "
            "give its own --model, or run shard and shard_manifest with this one"
        )
    for entry in [*record["files"], *record["indexes"]]:
        path = folder / entry["name"]
        if not path.is_file():
            raise ShardError(f"{path} is missing; remove {manifest}, so that both are made again")
        if (found := digest(path)) != entry["sha256"]:
            raise ShardError(
                f"{path} has the SHA-256 {found}, {manifest} says {entry['sha256']}; "
                "remove both, so that they are made again"
            )
    parts = [folder / entry["name"] for entry in record["files"]]
    kinds = record["vocab_size"], record["byte_fallback"]
    counts = examine(folder, parts, *kinds, folder / INDEX, folder / SENTENCES, record["word_starts"])
    for name, count in counts.items():
        if record[name] != count:
            raise ShardError(f"{manifest} says {record[name]:,} {name}, the files have {count:,}; make them again")
    return record


class Shards:
    """One side of a corpus as a stream of tokens.

    Attributes:
        manifest: what the shard stage recorded.
        tokens: length of the stream.
    """

    def __init__(self, manifest: Path) -> None:
        self.path = manifest
        self.manifest = _record(manifest)
        self.tokens: int = self.manifest["tokens"]
        kind = np.dtype(self.manifest["dtype"])
        self._parts, self._ends, total = [], [], 0
        for entry in self.manifest["files"]:
            path = manifest.parent / entry["name"]
            size = path.stat().st_size if path.is_file() else None
            if size != entry["tokens"] * kind.itemsize:
                have = "is missing" if size is None else f"has {size:,} bytes"
                want = entry["tokens"] * kind.itemsize
                raise ShardError(f"{path} {have}, {manifest} says {want:,}; remove both, so that they are made again")
            total += entry["tokens"]
            if size:
                self._parts.append(np.memmap(path, dtype=kind, mode="r"))
                self._ends.append(total)

    def read(self, start: int, length: int) -> np.ndarray:
        """Tokens from `start` on, int64, shape (length,); the stream is a ring, so its start follows its end."""
        out = np.empty(length, dtype=np.int64)
        filled = 0
        for part, offset, count in self._pieces(start, length):
            out[filled : filled + count] = self._parts[part][offset : offset + count]
            filled += count
        return out

    def word_starts(self, start: int, length: int) -> np.ndarray:
        """Which of the tokens from `start` on begin a word, bool, shape (length,); a ring as for `read`.

        Raises:
            ShardError: nothing is known of words, or a file of theirs is not what it should be.
        """
        found = (unpack(self._words[part], offset, count) for part, offset, count in self._pieces(start, length))
        return np.concatenate([np.empty(0, dtype=bool), *found])

    def _pieces(self, start: int, length: int) -> Iterator[tuple[int, int, int]]:
        """The part, the place in it and the number of tokens of each piece of a stretch of the stream."""
        position = start % self.tokens
        part = bisect.bisect_right(self._ends, position)
        while length:
            size = len(self._parts[part])
            offset = position - (self._ends[part] - size)
            count = min(size - offset, length)
            yield part, offset, count
            length -= count
            position = (position + count) % self.tokens
            part = (part + 1) % len(self._parts)

    @cached_property
    def _words(self) -> list[np.ndarray]:
        if not self.manifest.get("word_starts"):
            raise ShardError(f"{self.path} knows of no words; set segment.words to true, so that they are stored")
        maps = []
        for entry in filter(lambda entry: entry["tokens"], self.manifest["files"]):
            path, want = of_part(self.path.parent / entry["name"])[3], _packed(entry["tokens"])
            size = path.stat().st_size if path.is_file() else None
            if size != want:
                have = "is missing" if size is None else f"has {size:,} bytes"
                raise ShardError(
                    f"{path} {have}, {want:,} are needed; remove it and {self.path}, so that both are made again"
                )
            maps.append(np.memmap(path, dtype="u1", mode="r"))
        return maps

    @cached_property
    def _index(self) -> np.ndarray:
        return self._mapped(INDEX)

    @cached_property
    def _sentences(self) -> np.ndarray:
        return self._mapped(SENTENCES)

    def _mapped(self, name: str) -> np.ndarray:
        path = self.path.parent / name
        try:
            return np.asarray(np.load(path, mmap_mode="r"))  # a plain view is sliced several times as fast
        except (OSError, ValueError) as error:
            raise ShardError(
                f"{path} cannot be read ({error}); remove {self.path}, so that both are made again"
            ) from None

    def __len__(self) -> int:
        """Number of documents."""
        return len(self._index)

    def document(self, number: int) -> np.ndarray:
        """Tokens of a document, int64, with <s> and </s>."""
        span = self.span(number)
        return self.read(span.start, len(span))

    def sentences(self, number: int) -> list[np.ndarray]:
        """Tokens of each sentence of a document, in order; together they are the document. Without sentences: none."""
        ends = self.sentence_ends(number) - self.span(number).start
        return np.split(self.document(number), ends[:-1]) if len(ends) else []

    def document_at(self, position: int) -> int:
        """Number of the document that a token belongs to."""
        return bisect.bisect_right(range(len(self)), position, key=lambda number: self._index.item(number, 0))

    def span(self, number: int) -> range:
        """Where the tokens of a document lie in the stream, with <s> and </s>."""
        (begin, _), (end, _) = self._bounds(number)
        return range(begin, end)

    def sentence_ends(self, number: int) -> np.ndarray:
        """Where each sentence of a document ends in the stream, int64; without sentences: of shape (0,)."""
        (begin, first), (_, last) = self._bounds(number)
        return begin + np.cumsum(self._sentences[first:last], dtype=np.int64)

    def _bounds(self, number: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Where a document begins and where it ends, each in tokens and in sentences."""
        if not 0 <= number < len(self):
            raise IndexError(f"{self.path} has {len(self):,} documents, asked for is number {number:,}")
        index = self._index
        begin = (index.item(number - 1, 0), index.item(number - 1, 1)) if number else (0, 0)
        return begin, (index.item(number, 0), index.item(number, 1))


def _record(manifest: Path) -> dict:
    try:
        record = json.loads(manifest.read_text(encoding="utf-8"))
        if lacking := [key for key in ("tokenizer", "vocab_size", "dtype", "tokens", "files") if key not in record]:
            raise ValueError(f"it has no {', '.join(lacking)}")
        if np.dtype(record["dtype"]) != dtype(record["vocab_size"]):
            raise ValueError(f"{record['vocab_size']} pieces do not go with the dtype {record['dtype']!r}")
        if sum(int(entry["tokens"]) for entry in record["files"]) != record["tokens"]:
            raise ValueError(f"its files do not have {record['tokens']} tokens together")
    except (ValueError, TypeError, KeyError) as error:
        raise ShardError(f"{manifest} is no manifest ({error}); remove it, so that it is made again") from None
    return record


class Shuffle:
    """An order of the numbers below `size` that is computed where it is asked for, and takes no memory.

    A Feistel network over pairs of numbers (x, y), of which there are a few more than `size`: each round adds to one of them
    a hash of the other. What falls outside goes through once more (cycle-walking; Black and Rogaway 2002).
    """

    ROUNDS = 12  # as even as chance for any size; with 6, the orders of 5 numbers were not

    def __init__(self, size: int, *seed: int) -> None:
        self._size = size
        self._width = math.isqrt(max(size - 1, 0)) + 1
        self._height = -(-size // self._width)
        self._keys = np.random.SeedSequence(seed).generate_state(self.ROUNDS, np.uint64).tolist()

    def __getitem__(self, place: int) -> int:
        """The number at a place."""
        while True:
            x, y = divmod(place, self._height)
            for turn in range(0, self.ROUNDS, 2):
                x = (x + _hash(y ^ self._keys[turn])) % self._width
                y = (y + _hash(x ^ self._keys[turn + 1])) % self._height
            place = x * self._height + y
            if place < self._size:
                return place


def _hash(number: int) -> int:
    """The mixing step of splitmix64 (Steele, Lea and Flood 2014)."""
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & MASK
    return number ^ number >> 31


class Mixture:
    """Blocks of several streams, each passed over as often as its weight says, in an order that a seed decides.

    An epoch has `round(weight * (tokens // block_size))` blocks of each stream. Where blocks begin moves from epoch to
    epoch, so that no token stands at the edge of a block, or is left out at the end of the stream, each time. Nothing is
    kept of the order: it takes no memory, whatever the number of blocks.
    """

    def __init__(self, streams: list[tuple[Shards, float]], block_size: int, seed: int) -> None:
        self.streams = [shards for shards, _ in streams]
        self.block_size = block_size
        self.seed = seed
        self._have = [shards.tokens // block_size for shards in self.streams]
        self.taken = [
            round(weight * have) for (_, weight), have in zip(streams, self._have, strict=True)
        ]  # in an epoch
        self._until = list(itertools.accumulate(self.taken))
        self.blocks = sum(self.taken)
        self._epoch = -1

    def block(self, position: int) -> np.ndarray:
        """Block number `position` of the endless sequence of epochs.

        Returns:
            int64, shape (block_size + 1,): a language model's inputs are all but the last, its targets all but the first.
        """
        stream, begin = self.place(position)
        return self.streams[stream].read(begin, self.block_size + 1)

    def place(self, position: int) -> tuple[int, int]:
        """Number of the stream that a block is of, and where the block begins in it."""
        epoch, place = divmod(position, self.blocks)
        if epoch != self._epoch:
            self._begin_epoch(epoch)
        turn = self._order[place]
        stream = bisect.bisect_right(self._until, turn)
        number, have = turn - (self._until[stream] - self.taken[stream]), self._have[stream]
        # whole passes, then as many of its blocks as are left, from all over the stream
        number = number % have if number < self.taken[stream] // have * have else self._some[stream][number % have]
        return stream, (self._begin[stream] + number * self.block_size) % self.streams[stream].tokens

    def _begin_epoch(self, epoch: int) -> None:
        rng = np.random.default_rng((self.seed, epoch))
        self._begin = [int(rng.integers(shards.tokens)) for shards in self.streams]
        self._order = Shuffle(self.blocks, self.seed, epoch)
        self._some = [Shuffle(have, self.seed, epoch, stream) for stream, have in enumerate(self._have, 1)]
        self._epoch = epoch
