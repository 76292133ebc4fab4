"""The blocks of bz2 files: pieces of at most 900 kB of text, each of which can be decompressed alone.

Whether a dump is one bz2 stream or a thousand, it is a chain of blocks, each beginning at some bit with the same 48 bits.
So a dump is cut without an index of its mirror's and without a second copy: a scan finds the blocks ten times as fast as
decompressing would. That nothing is missed or mistaken for a block, each stream's checksum of checksums proves.
"""

import bz2
from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import pairwise
from operator import xor
from pathlib import Path
from typing import BinaryIO, NamedTuple

from jalm import Fault

CHUNK = 1 << 24  # bytes scanned at once
BLOCK, END = 0x314159265359, 0x177245385090  # what a block and the end of a stream begin with
WINDOW = 11  # bytes that have both the 48 bits and the checksum of 32 behind them, at whatever bit they begin
HEADER = "file\tbegin\tend"


class BlockError(Fault):
    """A file that is no bz2 file, or a damaged one; or an index that is none."""


class Block(NamedTuple):
    """Where a block lies."""

    file: str  # name
    begin: int  # bits
    end: int


def find(path: Path) -> list[Block]:
    """The blocks of a bz2 file, in order.

    Raises:
        BlockError: the file is not one bz2 stream after another, to its last byte.
    """
    found, starts, expected, doubt = [], [], 32, None  # bits; a stream begins with 4 bytes of its own
    for bit, magic, checksum in _marks(path):
        if not starts and bit != expected:
            raise BlockError(f"{path} is no bz2 file, or damaged, at byte {expected // 8 - 4:,}")
        if magic == BLOCK:
            starts.append((bit, checksum))
        elif (begins := _real(starts, checksum)) is not None:
            found += [Block(path.name, begin, end) for begin, end in pairwise([*begins, bit])]
            starts, expected, doubt = [], -(-(bit + 80) // 8) * 8 + 32, None
        elif doubt is None:
            doubt = bit  # this may be no end
        else:
            break
    if doubt is not None:
        raise BlockError(f"{path} is damaged before byte {doubt // 8:,}: the checksums of a stream do not add up")
    if starts:
        raise BlockError(f"{path} ends in the middle of its last stream: it is truncated")
    if not found or path.stat().st_size != expected // 8 - 4:
        raise BlockError(f"{path} is no bz2 file, or damaged, at byte {expected // 8 - 4:,}")
    return found


def _real(starts: list[tuple[int, int]], combined: int) -> list[int] | None:
    """Where the blocks of a stream begin, None if their checksums do not make up `combined`.

    One mark of them may be none: in jawiki's 35 thousand million bits, 48 look like one by chance once in 8,000 dumps.
    """
    places = [bit for bit, _ in starts]
    parts = [_turned(checksum, len(starts) - 1 - place) for place, (_, checksum) in enumerate(starts)]
    total = reduce(xor, parts, 0)
    if total == combined:
        return places
    before = 0  # what comes before the mark that is none, and is turned once too often
    for place, part in enumerate(parts):
        if place and total ^ part ^ before ^ _turned(before, -1) == combined:
            return places[:place] + places[place + 1 :]
        before ^= part
    return None


def _turned(number: int, by: int) -> int:
    """A number of 32 bits, rotated to the left."""
    by %= 32
    return (number << by | number >> 32 - by) & 0xFFFFFFFF


def _marks(path: Path) -> Iterator[tuple[int, int, int]]:
    """Bit, magic and checksum of each beginning of a block and end of a stream."""
    # of 48 bits that begin anywhere in a byte, the 5 bytes after it are whole: they can be searched for
    needles = [(magic, shift, (magic << 8 - shift).to_bytes(7)[1:6]) for magic in (BLOCK, END) for shift in range(8)]
    with open(path, "rb") as file:
        data, before, chunk = b"", 0, b"\0"  # before: bytes of the file before those in data
        while chunk:
            chunk = file.read(CHUNK)
            data += chunk or b"\0"  # the last window may reach over the end
            marks = []
            for magic, shift, needle in needles:
                at = data.find(needle, 1)
                while 0 < at <= len(data) - WINDOW + 1:
                    window = int.from_bytes(data[at - 1 : at - 1 + WINDOW]) >> 8 - shift & (1 << 80) - 1
                    if window >> 32 == magic:
                        marks.append(((before + at - 1) * 8 + shift, magic, window & 0xFFFFFFFF))
                    at = data.find(needle, at + 1)
            yield from sorted(marks)
            before += len(data) - WINDOW + 1
            data = data[-WINDOW + 1 :]


def content(file: BinaryIO, block: Block) -> bytes:
    """Text of a block of an open file.

    Raises:
        OSError, ValueError: the block is damaged, or the file has none there.
    """
    length = block.end - block.begin
    first, last = block.begin // 8, -(-block.end // 8)
    file.seek(first)
    bits = int.from_bytes(file.read(last - first)) >> last * 8 - block.end & (1 << length) - 1
    checksum = bits >> length - 80 & 0xFFFFFFFF
    stream = bits << 80 | END << 32 | checksum  # a stream of this block only
    padding = -(length + 80) % 8
    return bz2.decompress(b"BZh9" + (stream << padding).to_bytes((length + 80 + padding) // 8))


def write_index(path: Path, blocks: Iterable[Block]) -> None:
    """Write down where blocks lie."""
    lines = "".join(f"{file}\t{begin}\t{end}\n" for file, begin, end in blocks)
    path.write_text(f"{HEADER}\n{lines}", encoding="utf-8")


def read_index(path: Path) -> list[Block]:
    """Blocks as `write_index` wrote them.

    Raises:
        BlockError: the file is no such index.
    """
    header, *lines = path.read_text(encoding="utf-8").split("\n")
    try:
        if header != HEADER:
            raise ValueError
        return [Block(file, int(begin), int(end)) for file, begin, end in (line.split("\t") for line in lines if line)]
    except ValueError:
        raise BlockError(f"{path} is no index of blocks; remove it, so that download makes it again") from None
