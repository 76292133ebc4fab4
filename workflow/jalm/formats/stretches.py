"""Stretches of documents, wrapped as a tokenizer wraps a text, of which a masked model predicts some tokens.

It is how others use a model, and all that models of other people, whose marks are their own, can be asked alike.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from jalm import Fault
from jalm.formats import attention
from jalm.formats.batches import Masking, chosen
from jalm.formats.ids import IDS, IGNORED, MASK, PAD
from jalm.formats.scores import AT_ONCE, Sums
from jalm.formats.shards import Shards
from jalm.formats.tokenizer import WRAPPING

PROBE = "日本"


class MaskError(Fault):
    """A tokenizer that has no mask."""


@dataclass(frozen=True)
class Wrapping:
    """What a model of masked tokens is fed around a text.

    Attributes:
        before: token ids in front of it.
        behind: token ids behind it.
        mask: the id of the mask.
        pad: the id that fills shorter rows; it is not attended to.
        special: ids that are never masked.
    """

    before: list[int]
    behind: list[int]
    mask: int
    pad: int
    special: frozenset[int]


def ours(architecture: str) -> Wrapping:
    """The wrapping of our tokenizers."""
    before, behind = ([IDS[piece]] for piece in WRAPPING[architecture])
    return Wrapping(before, behind, IDS[MASK], IDS[PAD], frozenset(IDS.values()))


def of(tokenizer: PreTrainedTokenizerBase) -> Wrapping:
    """The wrapping of a tokenizer.

    Raises:
        MaskError: it has none.
    """
    if tokenizer.mask_token_id is None:
        raise MaskError(
            f"the tokenizer {tokenizer.name_or_path} has no mask token, which a masked model is judged with"
        )
    body = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    ids = tokenizer(PROBE)["input_ids"]
    place = next(n for n in range(len(ids)) if ids[n : n + len(body)] == body)
    pad = tokenizer.mask_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    special = frozenset(tokenizer.all_special_ids)
    return Wrapping(ids[:place], ids[place + len(body) :], tokenizer.mask_token_id, pad, special)


@dataclass(frozen=True)
class Stretch:
    """Tokens of a document, shape (T,), with what stands in their place, and what is to be predicted where."""

    tokens: np.ndarray
    inputs: np.ndarray
    places: np.ndarray


def masked(
    shards: Shards, marks: tuple[int, int], room: int, wrapping: Wrapping, masking: Masking, vocab_size: int
) -> Iterator[Stretch]:
    """All of the text, a share of each stretch masked; the same each time.

    Args:
        shards: the documents.
        marks: tokens before the text of each, and behind it.
        room: tokens of the longest stretch.
        wrapping: says which tokens are never masked.
        masking: how.
        vocab_size: pieces that masked tokens may become.
    """
    special, number = list(wrapping.special), 0
    for document in range(len(shards)):
        span = shards.span(document)
        for start in range(span.start + marks[0], stop := span.stop - marks[1], room):
            tokens = shards.read(start, min(room, stop - start))
            rng = np.random.default_rng((0, number))
            places = chosen(~np.isin(tokens, special), None, masking.mlm_probability, rng)
            fate, inputs = rng.random(len(places)), tokens.copy()
            inputs[places[fate < masking.mask_replace_prob]] = wrapping.mask
            other = places[
                (fate >= masking.mask_replace_prob) & (fate < masking.mask_replace_prob + masking.random_replace_prob)
            ]
            inputs[other] = rng.integers(vocab_size, size=len(other))
            number += 1
            yield Stretch(tokens, inputs, places)


def alone(shards: Shards, marks: tuple[int, int], room: int, wrapping: Wrapping, most: int) -> Iterator[Stretch]:
    """Tokens at even distances in the text, at most so many, each masked alone in its stretch; arguments as of `masked`."""
    for number in range(count := min(most, shards.tokens)):
        position = (2 * number + 1) * shards.tokens // (2 * count)
        span = shards.span(shards.document_at(position))
        place, stop = position - span.start - marks[0], span.stop - marks[1]
        if place < 0 or position >= stop:
            continue
        start = position - place % room
        tokens = shards.read(start, min(room, stop - start))
        inputs = tokens.copy()
        inputs[position - start] = wrapping.mask
        yield Stretch(tokens, inputs, np.array([position - start]))


@torch.no_grad()
def score(
    model: PreTrainedModel,
    wrapping: Wrapping,
    stretches: Iterable[Stretch],
    most: int,
    process: int = 0,
    processes: int = 1,
) -> Sums:
    """Sums over what is predicted in some stretches.

    Args:
        model: predicts masked tokens.
        wrapping: of its tokenizer.
        stretches: of text.
        most: tokens that are fed at once.
        process: which of the processes this is.
        processes: how many share the work; each has the sums of its own.
    """
    device, total, stretches = next(model.parameters()).device, Sums(), iter(stretches)
    if model.config._attn_implementation == attention.NAME:  # which knows of no padding
        model.set_attn_implementation("sdpa")
    around = len(wrapping.before) + len(wrapping.behind)
    while some := sorted(islice(stretches, AT_ONCE), key=lambda stretch: -len(stretch.tokens)):
        turn = 0
        while some:
            length = len(some[0].tokens) + around
            rows, some = some[: max(1, most // length)], some[max(1, most // length) :]
            if turn % processes == process:
                _add(total, model, wrapping, rows, length, device)
            turn += 1
    return total


def _add(
    total: Sums, model: PreTrainedModel, wrapping: Wrapping, rows: list[Stretch], length: int, device: torch.device
) -> None:
    inputs = np.full((len(rows), length), wrapping.pad)
    labels, attended = np.full((len(rows), length), IGNORED), np.zeros((len(rows), length), dtype=np.int64)
    for number, row in enumerate(rows):
        wrapped = [*wrapping.before, *row.inputs, *wrapping.behind]
        inputs[number, : len(wrapped)], attended[number, : len(wrapped)] = wrapped, 1
        labels[number, len(wrapping.before) + row.places] = row.tokens[row.places]
    fed = {"input_ids": torch.from_numpy(inputs).to(device), "attention_mask": torch.from_numpy(attended).to(device)}
    places = torch.from_numpy(np.flatnonzero(labels != IGNORED)).to(device)
    told = torch.from_numpy(labels).to(device).flatten()[places]
    if len(told):
        total.add(model(**fed)[0].flatten(0, 1)[places], told)
