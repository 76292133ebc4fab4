"""What a model is fed and what it has to predict; each batch depends on where its rows lie and on their seeds only.

Tensor names carry their axes: B sequences, T tokens, N predicted tokens, P pairs.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from jalm.formats import pairs
from jalm.formats.ids import BOS, EOS, IDS, IGNORED, MASK, PAD, SPECIAL, first_position
from jalm.formats.shards import Mixture, Shards

PAIRS = 8  # that a row has room for


@dataclass(frozen=True)
class Masking:
    """How masked tokens are chosen; names are those of transformers' DataCollatorForLanguageModeling.

    Attributes:
        mlm_probability: share of the tokens that are predicted; special tokens never are.
        mask_replace_prob: share of these that become [MASK].
        random_replace_prob: share that become another piece; the others stay.
        whole_word_mask: predict all tokens of a word or none.
    """

    mlm_probability: float = 0.15
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1
    whole_word_mask: bool = False


@dataclass(frozen=True)
class Row:
    """Where the tokens of a sequence lie, and what decides its mask.

    Attributes:
        shards: the stream.
        start: its first token.
        length: its tokens; a shorter row is padded.
        seed: numbers.
        context: of those that predict the next token, as many of the first are asked nothing.
    """

    shards: Shards
    start: int
    length: int
    seed: tuple[int, ...] = ()
    context: int = 0


@dataclass
class Batch:
    """What a model is fed.

    Attributes:
        tensors: arguments of `models.Objective`.
        counts: predicted tokens, and labelled pairs where there are any, as float64.
    """

    tensors: dict[str, torch.Tensor]
    counts: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        if device.type == "cuda":  # from pinned memory a copy runs beside what the device computes
            made = {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in self.tensors.items()}
        else:
            made = self.tensors
        return Batch(made, self.counts)


@dataclass(frozen=True)
class Feed:
    """Makes batches for one kind of model.

    Attributes:
        architecture: its name; decides the objective.
        block_size: tokens of a sequence, T.
        vocab_size: pieces to draw other pieces from.
        masking: None for models that predict the next token.
    """

    architecture: str
    block_size: int
    vocab_size: int
    masking: Masking | None

    def batch(self, rows: list[Row]) -> Batch:
        """The batch of some rows, B of them.

        Raises:
            ShardError: words are to be masked whole, and the shards do not know where they begin.
        """
        if self.masking is None:
            return self._next_tokens(rows)
        if self.architecture == "bert":
            return self._pairs(rows, self.masking)
        tokens_BT = self._tokens(rows, self.block_size)
        starts_BT = (tokens_BT == IDS[BOS]) | (tokens_BT == IDS[PAD])  # a <pad> is a document of its own
        documents_BT = np.cumsum(starts_BT, axis=1)
        words_BT = self._words(rows) if self.masking.whole_word_mask else None
        tensors, count = self._masked(rows, tokens_BT, documents_BT, words_BT, self.masking)
        return Batch(tensors, torch.tensor([count], dtype=torch.float64))

    def _tokens(self, rows: list[Row], length: int) -> np.ndarray:
        tokens = np.full((len(rows), length), IDS[PAD], dtype=np.int64)
        for place, row in zip(tokens, rows, strict=True):
            some = min(row.length, length)
            place[:some] = row.shards.read(row.start, some)
        return tokens

    def _words(self, rows: list[Row]) -> np.ndarray:
        """Whether each token begins a word, bool, shape (B, T)."""
        starts = np.ones((len(rows), self.block_size), dtype=bool)
        for place, row in zip(starts, rows, strict=True):
            some = min(row.length, self.block_size)
            place[:some] = row.shards.word_starts(row.start, some)
        return starts

    def _next_tokens(self, rows: list[Row]) -> Batch:
        """Predict each token from those before it; T + 1 tokens of a row are read."""
        tokens_BT = self._tokens(rows, self.block_size + 1)
        labels_BT = tokens_BT[:, 1:].copy()
        for number, row in enumerate(rows):
            labels_BT[number, : row.context] = labels_BT[number, max(0, row.length - 1) :] = IGNORED
            tokens_BT[number, row.length :] = IDS[EOS]  # seen by none; transformers warns of a <pad> there
        count = torch.tensor([np.count_nonzero(labels_BT != IGNORED)], dtype=torch.float64)
        return Batch(
            {"inputs": torch.from_numpy(tokens_BT[:, :-1]), "labels": torch.from_numpy(labels_BT.ravel())}, count
        )

    def _pairs(self, rows: list[Row], masking: Masking) -> Batch:
        """Predict masked tokens, and whether the second segment of each pair follows its first."""
        made = []
        for row in rows:
            some, rng = min(row.length, self.block_size), np.random.default_rng((*row.seed, 1))
            found = pairs.row(row.shards, row.start, some, rng, masking.whole_word_mask)
            fill = (IDS[PAD], 0, found.pairs[-1] + 1, IGNORED, True)
            made.append(
                [
                    np.pad(x, (0, self.block_size - some), constant_values=v)
                    for x, v in zip(found, fill, strict=True)
                    if x is not None
                ]
            )
        tokens_BT, types_BT, documents_BT, follows_BT, *words_BT = map(np.stack, zip(*made, strict=True))
        tensors, count = self._masked(rows, tokens_BT, documents_BT, words_BT[0] if words_BT else None, masking)
        labelled = np.flatnonzero(follows_BT.ravel() != IGNORED)
        # more room than most rows need, so that a compiled model sees one shape
        room = -(-max(1, len(labelled)) // (PAIRS * len(rows))) * PAIRS * len(rows)
        places_P, labels_P = np.zeros(room, dtype=np.int64), np.full(room, IGNORED)
        places_P[: len(labelled)], labels_P[: len(labelled)] = labelled, follows_BT.ravel()[labelled]
        tensors |= {"token_types": torch.from_numpy(types_BT)}
        tensors |= {"pair_places": torch.from_numpy(places_P), "pair_labels": torch.from_numpy(labels_P)}
        return Batch(tensors, torch.tensor([count, len(labelled)], dtype=torch.float64))

    def _masked(
        self,
        rows: list[Row],
        tokens_BT: np.ndarray,
        documents_BT: np.ndarray,
        words_BT: np.ndarray | None,
        masking: Masking,
    ) -> tuple[dict[str, torch.Tensor], int]:
        """Tokens with masks, and what was there; how many are predicted.

        In each row a share of the tokens is predicted, rounded. There is room for as many in every row, so that a
        compiled model sees one shape; where a row has fewer, the label is IGNORED.

        Source: BERT (Devlin et al. 2019, section 3.1).
        """
        B, T = tokens_BT.shape
        room = max(1, round(masking.mlm_probability * T))
        inputs_BT = tokens_BT.copy()
        places_BN, labels_BN = np.zeros((B, room), dtype=np.int64), np.full((B, room), IGNORED)
        total = 0
        for number, row in enumerate(rows):
            rng, tokens_T = np.random.default_rng(row.seed), tokens_BT[number]
            words_T = None if words_BT is None else words_BT[number]
            places = chosen(tokens_T >= len(SPECIAL), words_T, masking.mlm_probability, rng)
            fate = rng.random(len(places))
            inputs_BT[number, places[fate < masking.mask_replace_prob]] = IDS[MASK]
            kept = fate >= masking.mask_replace_prob + masking.random_replace_prob
            other = places[(fate >= masking.mask_replace_prob) & ~kept]
            inputs_BT[number, other] = rng.integers(len(SPECIAL), self.vocab_size, len(other))
            places_BN[number, : len(places)] = number * T + places
            labels_BN[number, : len(places)] = tokens_T[places]
            total += len(places)
        tensors = {"inputs": inputs_BT, "labels": labels_BN.ravel(), "places": places_BN.ravel()}
        tensors |= {"documents": documents_BT}
        if self.architecture != "modernbert":  # which knows the distance of two tokens only
            tensors["positions"] = _positions(documents_BT) + first_position(self.architecture)
        return {name: torch.from_numpy(array) for name, array in tensors.items()}, total


class Feeder:
    """The batches of a training's steps: those rows of each that one process works on.

    Attributes:
        mixture: the blocks that the training goes through.
        feed: makes batches of rows.
        share: rows of a step that this process works on.
    """

    def __init__(self, mixture: Mixture, feed: Feed, seed: int, global_batch_size: int, share: range) -> None:
        self.mixture, self.feed, self.share = mixture, feed, share
        self._seed, self._rows = seed, global_batch_size

    def position(self, step: int, row: int) -> int:
        """Number of the block of a row, in the endless sequence of epochs."""
        return step * self._rows + row

    def batch(self, step: int, rows: range) -> Batch:
        """The batch of some rows of a step."""
        length = self.feed.block_size + (self.feed.masking is None)  # of the first token nothing is predicted
        found = []
        for row in rows:
            stream, start = self.mixture.place(self.position(step, row))
            found.append(Row(self.mixture.streams[stream], start, length, (self._seed, step, row)))
        return self.feed.batch(found)

    def pieces(self, size: int) -> list[range]:
        """The rows of this process, `size` at a time."""
        return [self.share[first : first + size] for first in range(0, len(self.share), size)]

    def ahead(self, steps: range, size: int) -> Iterator[tuple[int, list[Batch]]]:
        """Steps with their batches of `size` rows; the next is made while one is used."""

        def made(step: int) -> list[Batch]:
            return [self.batch(step, rows) for rows in self.pieces(size)]

        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(made, steps.start)
            for step in steps:
                batches, coming = coming.result(), pool.submit(made, step + 1)
                yield step, batches


def chosen(candidates_T: np.ndarray, words_T: np.ndarray | None, share: float, rng: np.random.Generator) -> np.ndarray:
    """Places to predict in a row: of the candidates a share, rounded; or words of together no more tokens."""
    candidates = np.flatnonzero(candidates_T)
    if not len(candidates):
        return candidates
    wanted = max(1, round(share * len(candidates)))
    if words_T is None:
        return np.sort(rng.permutation(candidates)[:wanted])
    words = np.cumsum(words_T)[candidates]
    groups = np.split(candidates, np.flatnonzero(np.diff(words)) + 1)
    chosen, size = [], 0
    for number in rng.permutation(len(groups)):
        if size + len(groups[number]) <= wanted:
            chosen.append(groups[number])
            size += len(groups[number])
        if size == wanted:
            break
    return np.sort(np.concatenate(chosen)) if chosen else candidates[:0]


def _positions(documents_BT: np.ndarray) -> np.ndarray:
    """Place of each token in its document."""
    place_T = np.arange(documents_BT.shape[1])
    begins_BT = np.diff(documents_BT, axis=1, prepend=-1) != 0
    return place_T - np.maximum.accumulate(np.where(begins_BT, place_T, 0), axis=1)


def blocks_of(shards: Shards, block_size: int, limit: int | None = None) -> list[range]:
    """The stream as disjoint blocks of T + 1 tokens, the last token of one being the first of the next.

    The last block is shorter. `limit` is a number of blocks.
    """
    starts = range(0, shards.tokens - 1, block_size)[:limit]
    return [range(start, min(start + block_size + 1, shards.tokens)) for start in starts]
