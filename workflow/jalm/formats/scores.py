"""How well a model predicts a text: sums over what it predicts, so that several of them can be added up."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, field, replace
from itertools import islice

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from jalm.formats import processes
from jalm.formats.batches import Feed, Row, blocks_of
from jalm.formats.ids import IGNORED
from jalm.formats.models import CLASSES, Objective
from jalm.formats.shards import Shards

AT_ONCE = 1 << 14  # windows that are put in order by their lengths
CHUNK = 4096  # predictions whose logits are in full precision at once
BUCKETS = 8  # of the places in a block, whose losses are told apart


@dataclass
class Sums:
    """Sums over some predictions.

    Attributes:
        nats: negative log-likelihood.
        count: predictions.
        correct: those whose label is the likeliest of all.
    """

    nats: float = 0.0
    count: int = 0
    correct: int = 0

    @property
    def loss(self) -> float:
        """Nats a prediction; no number without any."""
        return self.nats / self.count if self.count else math.nan

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Count predictions with these logits, shape (N, V), of labels, shape (N,); nats of each, 0 where ignored."""
        nats = _nats(logits, labels)
        self.nats += nats.double().sum().item()
        self.count += int((labels != IGNORED).sum())
        self.correct += int((logits.argmax(dim=1) == labels).sum())
        return nats


def _nats(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Nats of each prediction, 0 where ignored."""
    pairs = zip(logits.split(CHUNK), labels.split(CHUNK), strict=True)
    nats = (
        functional.cross_entropy(some.float(), told, ignore_index=IGNORED, reduction="none") for some, told in pairs
    )
    return torch.cat(list(nats))


@dataclass
class Score:
    """Sums over a text.

    Attributes:
        tokens: over its predicted tokens.
        pairs: over pairs of segments, of models that learn whether one follows the other.
        nats_at: nats by place in the block, shape (T,), of models that predict the next token.
        count_at: predicted tokens by place in the block, shape (T,).
    """

    tokens: Sums = field(default_factory=Sums)
    pairs: Sums = field(default_factory=Sums)
    nats_at: np.ndarray | None = None
    count_at: np.ndarray | None = None

    @property
    def sums(self) -> np.ndarray:
        """All of it as one array, float64, so that scores can be added up; places in buckets."""
        places = [
            part.sum()
            for sums in (self.nats_at, self.count_at)
            for part in np.array_split(sums, min(BUCKETS, len(sums)))
        ]
        return np.array([self.tokens.nats, self.tokens.count, self.pairs.nats, self.pairs.count, *places])

    @property
    def by_position(self) -> list[float | None]:
        """Mean nats by the place in the block, in buckets; None where nothing is predicted."""
        return _means(*self.sums[4:].reshape(2, -1))

    def of_all(self) -> "Score":
        """The score of all processes together."""
        numbers = [*astuple(self.tokens), *astuple(self.pairs), *self.nats_at, *self.count_at]
        *sums, places = np.split(processes.summed(numbers), (3, 6))
        tokens, pairs = (Sums(nats, int(count), int(correct)) for nats, count, correct in map(np.ndarray.tolist, sums))
        return Score(tokens, pairs, *np.split(places, 2))


def _means(nats: np.ndarray, counts: np.ndarray) -> list[float | None]:
    return [float(some / count) if count else None for some, count in zip(nats, counts, strict=True)]


def figures(sums: np.ndarray) -> dict[str, float | list[float | None]]:
    """Mean losses out of added `Score.sums`: of tokens, of pairs if there are any, and by the place in the block."""
    token_nats, tokens, pair_nats, pairs = sums[:4]
    nats_at, count_at = sums[4:].reshape(2, -1)
    made = {"valid_loss": float(token_nats / max(1, tokens))}
    if pairs:
        losses = {"valid_mlm_loss": made["valid_loss"], "valid_nsp_loss": float(pair_nats / pairs)}
        made = {"valid_loss": sum(losses.values()), **losses}
    if count_at.any():
        made["valid_loss_by_position"] = _means(nats_at, count_at)
    return made


@torch.no_grad()
def score(
    model: PreTrainedModel,
    feed: Feed,
    shards: Shards,
    batch_size: int,
    limit: int | None = None,
    process: int = 0,
    processes: int = 1,
) -> Score:
    """Score of a model on a stream of tokens, in disjoint blocks; the masks are the same each time.

    Several processes share the batches, and each has the sums of its own.

    Args:
        model: the model.
        feed: how its batches are made.
        shards: the stream.
        batch_size: blocks at once.
        limit: blocks of the stream.
        process: which of the processes this is.
        processes: how many share the work.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    objective, total = Objective(model), Score()
    total.nats_at, total.count_at = np.zeros((2, feed.block_size))
    blocks = blocks_of(shards, feed.block_size, limit)
    for first in range(process * batch_size, len(blocks), processes * batch_size):
        some = blocks[first : first + batch_size]
        rows = [Row(shards, block.start, len(block), (0, first + number)) for number, block in enumerate(some)]
        tensors = feed.batch(rows).to(device).tensors
        labels, pair_labels = tensors.pop("labels"), tensors.pop("pair_labels", None)
        logits = objective.predict(**tensors)
        nats = total.tokens.add(logits[0], labels)
        if len(logits) > 1:
            total.pairs.add(logits[1], pair_labels)
        if feed.masking is None:
            total.nats_at += nats.view(len(some), -1).double().sum(dim=0).cpu().numpy()
            total.count_at += (labels != IGNORED).view(len(some), -1).sum(dim=0).cpu().numpy()
    model.train(was_training)
    return total


def between(shards: Shards, block_size: int) -> Iterator[Row]:
    """What a window that slides by half its size sees beside the disjoint blocks, whose second halves it has too.

    The windows that begin inside a block, which are asked their second half, and the beginning of the stream.
    """
    half = block_size // 2
    yield Row(shards, 0, min(half + 1, shards.tokens))
    asked = block_size - half  # the first of its predictions that a block was asked with less before it
    for start in range(half, shards.tokens - 1 - asked, block_size):
        yield Row(shards, start, min(asked + half + 1, shards.tokens - start), context=asked)


def rolling(shards: Shards, span: range, block_size: int) -> Iterator[Row]:
    """Windows over a part of a stream, whose first token is told and each other asked once.

    They are disjoint; the last is filled up with what is before it.

    Source: loglikelihood_rolling of lm-evaluation-harness, with its context of one token.
    """
    last = span.stop - 1
    for first in range(span.start, last, block_size):
        end = min(first + block_size, last)
        start = max(span.start, end - block_size)
        yield Row(shards, start, end - start + 1, context=first - start)


@torch.no_grad()
def nats_of(
    model: PreTrainedModel,
    feed: Feed,
    rows: Iterable[Row],
    batch_size: int,
    process: int = 0,
    processes: int = 1,
) -> Iterator[np.ndarray]:
    """Nats and number of the predictions of each of some windows, in their order; float64, of shape (some, 2).

    Windows of like lengths are fed together, as many as make up `batch_size` blocks. What another of the processes
    has is 0. The arguments are those of `score`.
    """
    objective, device, rows = Objective(model), next(model.parameters()).device, iter(rows)
    while some := list(islice(rows, AT_ONCE)):
        made = np.zeros((len(some), 2))
        order = sorted(range(len(some)), key=lambda number: -some[number].length)
        turn = 0
        while order:
            length = some[order[0]].length
            count = max(1, batch_size * (feed.block_size + 1) // length)
            numbers, order = order[:count], order[count:]
            if turn % processes == process:
                batch = replace(feed, block_size=max(1, length - 1)).batch([some[number] for number in numbers])
                tensors = batch.to(device).tensors
                labels = tensors.pop("labels")
                nats, asked = torch.zeros(labels.shape, device=device), labels != IGNORED
                if (
                    feed.architecture in CLASSES
                ):  # the last layer, with its row for each piece, is spared where nothing is asked
                    logits = objective.predict(**tensors, places=asked.nonzero().flatten())[0]
                else:
                    logits = objective.predict(**tensors)[0][asked]
                nats[asked] = _nats(logits, labels[asked])
                made[numbers, 0] = nats.double().view(len(numbers), -1).sum(dim=1).cpu().numpy()
                made[numbers, 1] = asked.view(len(numbers), -1).sum(dim=1).cpu().numpy()
            turn += 1
        yield made


def by_document(
    model: PreTrainedModel,
    feed: Feed,
    shards: Shards,
    batch_size: int,
    closing: int = 1,
    process: int = 0,
    processes: int = 1,
) -> np.ndarray:
    """Nats and number of the predictions in each document, alone after its first token; float64, shape (documents, 2).

    Args:
        model: predicts the next token.
        feed: as of `score`.
        shards: has the documents.
        batch_size: blocks at once.
        closing: tokens at the end of a document that are not asked.
        process: as of `score`.
        processes: likewise.
    """
    owners: list[int] = []

    def rows() -> Iterator[Row]:
        for number in range(len(shards)):
            span = shards.span(number)
            for row in rolling(shards, range(span.start, span.stop - closing), feed.block_size):
                owners.append(number)
                yield row

    total = np.zeros((len(shards), 2))
    for made in nats_of(model, feed, rows(), batch_size, process, processes):
        np.add.at(total, owners[: len(made)], made)
        del owners[: len(made)]
    return total


def interval(numerators: np.ndarray, denominators: np.ndarray, resamples: int = 1000) -> tuple[float, float]:
    """95 % interval of the quotient of two sums over documents, by a bootstrap that draws documents; the same each time.

    Source: Efron and Tibshirani 1993, chapter 13 (the percentile interval).
    """
    rng, drawn = np.random.default_rng(0), np.empty(resamples)
    for number in range(resamples):
        some = rng.integers(len(numerators), size=len(numerators))
        drawn[number] = numerators[some].sum() / denominators[some].sum()
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist()
    return low, high
