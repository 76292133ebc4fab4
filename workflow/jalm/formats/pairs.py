"""Pairs of segments for BERT: rows of `[CLS] A [SEP] B [SEP]` out of a stream of tokens, full to their end.

Each document in a stretch of the stream becomes a pair, cut at one of its sentences; half of the pairs have, instead of what
follows A, text of another document. That begins with a sentence, as B always does, and ends as the text in whose place it
stands: with a sentence where a document ends, anywhere where the row does. Otherwise the end of B would tell where it is from.

Source: BERT (Devlin et al. 2019, section 3.1).
"""

from typing import NamedTuple

import numpy as np

from jalm.formats.ids import CLS, IDS, IGNORED, PAD, SEP
from jalm.formats.shards import Shards

DRAWS = 3  # places that are looked at for a long enough text of another document


class Row(NamedTuple):
    """A row of pairs; int64, each of shape (length,).

    Attributes:
        tokens: [CLS] A [SEP] B [SEP] [CLS] A …
        token_types: 1 for B and the [SEP] behind it, else 0.
        pairs: number of the pair that a token belongs to; padding has one of its own.
        next_sentence: at each [CLS] 0 if B follows A in the document, 1 if B is from another one; IGNORED where there is no B,
            no other document was found, and at all other tokens.
        word_starts: bool, not int64: the token begins a word; None unless asked for.
    """

    tokens: np.ndarray
    token_types: np.ndarray
    pairs: np.ndarray
    next_sentence: np.ndarray
    word_starts: np.ndarray | None = None


def row(shards: Shards, start: int, length: int, rng: np.random.Generator, word_starts: bool = False) -> Row:
    """Pairs out of the tokens of a stream from `start` on, a ring.

    Where a B from elsewhere is shorter than what it stands for, the row goes on with more of the stream. So padding is one or
    two tokens, too few for a pair, unless the stream has documents without text only. What such a B stands for may itself be one
    elsewhere: places are drawn from all tokens, so that an epoch shows each token about once.

    Args:
        shards: with documents and sentences.
        start: where in the stream.
        length: tokens of the row.
        rng: decides where documents are cut, and what is B.
        word_starts: also tell which tokens begin a word.

    Raises:
        ShardError: `word_starts` of shards that have none.
    """
    tokens = np.full(length, IDS[PAD], dtype=np.int64)
    token_types, pairs = np.zeros((2, length), dtype=np.int64)
    next_sentence = np.full(length, IGNORED, dtype=np.int64)
    words = np.ones(length, dtype=bool) if word_starts else None
    place = pair = empty = 0
    begin = start % shards.tokens
    document = shards.document_at(begin)
    while (room := length - place) > 2 and empty <= len(shards):
        text = _text(shards, document)
        text = range(max(begin, text.start), text.stop)
        if not text:  # empty, or begun at its end
            document, begin, empty = (document + 1) % len(shards), 0, empty + 1
            continue
        label, segments, begin = _pair(shards, document, text, room, rng)
        next_sentence[place] = label
        first, empty = place, 0
        tokens[place] = IDS[CLS]
        place += 1
        for kind, segment in enumerate(segments):
            end = place + len(segment)
            tokens[place:end] = shards.read(segment.start, len(segment))
            tokens[end] = IDS[SEP]
            token_types[place : end + 1] = kind
            if words is not None:
                words[place + 1 : end] = shards.word_starts(segment.start + 1, len(segment) - 1)
            place = end + 1
        pairs[first:] = pair
        pair += 1
        pairs[place:] = pair
    return Row(tokens, token_types, pairs, next_sentence, words)


def _text(shards: Shards, document: int) -> range:
    """Where a document lies in the stream, without its <s> and </s>."""
    span = shards.span(document)
    return range(span.start + 1, span.stop - 1)


def _pair(
    shards: Shards, document: int, text: range, room: int, rng: np.random.Generator
) -> tuple[int, list[range], int]:
    """The label of the pair that a text begins with, where its one or two segments lie, and where the text goes on."""
    end = min(text.stop, text.start + room - 3)  # [CLS] A [SEP] B [SEP]
    ends = shards.sentence_ends(document)
    inside = np.unique(ends[np.searchsorted(ends, text.start, "right") : np.searchsorted(ends, end)])
    if not len(inside):
        end = min(text.stop, text.start + room - 2)
        return IGNORED, [range(text.start, end)], end
    middle = int(inside[rng.integers(len(inside))])
    first, second = range(text.start, middle), range(middle, end)
    most = room - 3 - len(first)
    other = _elsewhere(shards, document, len(second), most, rng)
    label = int(rng.integers(2)) if other else IGNORED  # drawn for both, so that half of those with a label have each
    return label, [first, other if label == 1 else second], end


def _elsewhere(shards: Shards, document: int, want: int, most: int, rng: np.random.Generator) -> range:
    """Text of another document for a B of `want` tokens; empty if none is found.

    Args:
        shards: the stream.
        document: the one that it must not be of.
        want: tokens of the text in whose place it stands.
        most: tokens that there is room for; if `want` is as many, that text is cut there, and this one may be too.
        rng: decides.
    """
    longest = range(0)
    for _ in range(DRAWS):
        place = int(rng.integers(shards.tokens))
        other = shards.document_at(place)
        text = _text(shards, other)
        ends = np.minimum(shards.sentence_ends(other), text.stop)
        if other == document or not text or not len(ends):
            continue
        begins = np.append(text.start, ends[:-1])
        # the sentence that the place is in, or one so far before it that the text is long enough
        enough = int(np.searchsorted(begins, text.stop - want, "right")) - 1
        sentence = min(int(np.searchsorted(ends, place, "right")), max(enough, 0))
        begin = int(begins[sentence])
        end = begin + want
        if want < most:  # whole sentences, one at least
            whole = int(np.searchsorted(ends, end, "right"))
            end = min(int(ends[max(whole - 1, sentence)]), begin + most)
        found = range(begin, min(end, text.stop))
        longest = max(longest, found, key=len)
        if enough >= 0:
            break
    return longest
