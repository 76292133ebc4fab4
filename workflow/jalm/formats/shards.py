"""The token shard format: tokens of one side of a corpus as memory-mapped little-endian integers.

A folder `<side>/` has `<part>.bin` (uint16, or uint32 for more than 65,536 pieces), `index.npy` (int64: where each
document ends in the concatenation of the parts) and `manifest.json`. A document is `<s> text </s>`, its paragraphs
joined by a line break; documents follow each other without padding.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from jalm import Fault


class ShardError(Fault):
    """Shards that are not what their manifest says."""


def dtype(vocab_size: int) -> np.dtype:
    """The smallest type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 65536 else "<u4")


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Shards:
    """One side of a corpus as a stream of tokens.

    Attributes:
        manifest: what the shard stage recorded.
        tokens: length of the stream.
    """

    def __init__(self, manifest: Path) -> None:
        self.path = manifest
        self.manifest = json.loads(manifest.read_text(encoding="utf-8"))
        self.tokens: int = self.manifest["tokens"]
        kind = np.dtype(self.manifest["dtype"])
        self._parts, self._ends, total = [], [], 0
        for entry in self.manifest["files"]:
            path = manifest.parent / entry["name"]
            size = path.stat().st_size if path.is_file() else None
            if size != entry["tokens"] * kind.itemsize:
                have = "is missing" if size is None else f"has {size:,} bytes"
                want = entry["tokens"] * kind.itemsize
                raise ShardError(
                    f"{path} {have}, {manifest} says {want:,}; remove the manifest, so that both are made again"
                )
            total += entry["tokens"]
            if size:
                self._parts.append(np.memmap(path, dtype=kind, mode="r"))
                self._ends.append(total)
        if total != self.tokens:
            raise ShardError(f"{manifest} promises {self.tokens:,} tokens, its files hold {total:,}")

    def read(self, start: int, length: int) -> np.ndarray:
        """Tokens from `start` on, int64, shape (length,); the stream is a ring, so its start follows its end."""
        out = np.empty(length, dtype=np.int64)
        filled, position = 0, start % self.tokens
        part = int(np.searchsorted(self._ends, position, side="right"))
        while filled < length:
            offset = position - (self._ends[part] - len(self._parts[part]))
            piece = self._parts[part][offset : offset + length - filled]
            out[filled : filled + len(piece)] = piece
            filled += len(piece)
            position = (position + len(piece)) % self.tokens
            part = (part + 1) % len(self._parts)
        return out


class Mixture:
    """Blocks of several streams, each passed over as often as its weight says, in an order that a seed decides.

    An epoch has `round(weight * (tokens // block_size))` blocks of each stream. Where blocks begin moves from epoch to
    epoch, so that no token stands at the edge of a block, or is left out at the end of the stream, each time.
    """

    def __init__(self, streams: list[tuple[Shards, float]], block_size: int, seed: int) -> None:
        self.streams = [shards for shards, _ in streams]
        self.block_size = block_size
        self.seed = seed
        self._have = [shards.tokens // block_size for shards in self.streams]
        self._take = [round(weight * have) for (_, weight), have in zip(streams, self._have, strict=True)]
        self.blocks = sum(self._take)
        self._epoch = -1

    def block(self, position: int) -> np.ndarray:
        """Block number `position` of the endless sequence of epochs.

        Returns:
            int64, shape (block_size + 1,): a language model's inputs are all but the last, its targets all but the first.
        """
        epoch, place = divmod(position, self.blocks)
        if epoch != self._epoch:
            self._shuffle(epoch)
        stream, number = self._order[place]
        return self.streams[stream].read(self._begin[stream] + number * self.block_size, self.block_size + 1)

    def _shuffle(self, epoch: int) -> None:
        rng = np.random.default_rng((self.seed, epoch))
        self._begin = [int(rng.integers(shards.tokens)) for shards in self.streams]
        order = []
        for stream, (have, take) in enumerate(zip(self._have, self._take, strict=True)):
            whole, rest = divmod(take, max(have, 1))
            numbers = np.concatenate([np.tile(np.arange(have), whole), rng.permutation(have)[:rest]])
            order.append(np.stack([np.full(len(numbers), stream), numbers], axis=1))
        self._order = rng.permutation(np.concatenate(order)).astype(np.int64)
        self._epoch = epoch
