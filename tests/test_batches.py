import numpy as np
import pytest
import torch

from jalm.formats import pairs
from jalm.formats.batches import Batch, Feed, Masking, Row, blocks_of
from jalm.formats.ids import IGNORED
from jalm.formats.shards import ShardError, Shards

PIECES = 400
PAD, BOS, EOS, CLS, SEP, MASK = 0, 2, 3, 4, 5, 6


class Text:
    """Tokens as shards give them, from memory."""

    def __init__(self, tokens, words=None) -> None:
        self._tokens, self._words = np.asarray(tokens), words

    def read(self, start: int, length: int) -> np.ndarray:
        return np.take(self._tokens, range(start, start + length), mode="wrap")

    def word_starts(self, start: int, length: int) -> np.ndarray:
        if self._words is None:
            raise ShardError("nothing is known of words")
        return np.take(self._words, range(start, start + length), mode="wrap")


def ordinary(*shape: int, seed: int = 0) -> np.ndarray:
    """Tokens that are not special."""
    return np.random.default_rng(seed).integers(7, PIECES, shape)


def masked(rows, masking: Masking, architecture: str = "roberta", seeds=None, words=None) -> Batch:
    """The batch of rows of equal length."""
    rows = np.asarray(rows)
    seeds = seeds or [(0, number) for number in range(len(rows))]
    text, T = Text(rows.ravel(), words), rows.shape[1]  # noqa: N806
    return Feed(architecture, T, PIECES, masking).batch([Row(text, T * n, T, seed) for n, seed in enumerate(seeds)])


def predicted(batch: Batch, rows: int) -> np.ndarray:
    """What each token of the batch is to be told as, IGNORED where it is not predicted; shape (rows, T)."""
    inputs, places, labels = (batch.tensors[name].numpy() for name in ("inputs", "places", "labels"))
    told = np.full(inputs.size, IGNORED)
    told[places[labels != IGNORED]] = labels[labels != IGNORED]
    assert (told != IGNORED).sum() == (labels != IGNORED).sum() == batch.counts[0]  # no place twice
    return told.reshape(rows, -1)


# ---- next tokens


def test_each_token_is_predicted_from_those_before_it():
    batch = Feed("gpt2", 8, PIECES, None).batch([Row(Text(range(7, 40)), start, 9) for start in (0, 20)])
    assert batch.tensors["inputs"].tolist() == [[*range(7, 15)], [*range(27, 35)]]
    assert batch.tensors["labels"].view(2, 8).tolist() == [[*range(8, 16)], [*range(28, 36)]]
    assert batch.counts.tolist() == [16]


def test_what_a_short_row_lacks_is_not_predicted():
    batch = Feed("gpt2", 8, PIECES, None).batch([Row(Text(range(7, 40)), 0, 4)])
    assert batch.tensors["labels"].tolist() == [8, 9, 10] + [IGNORED] * 5
    assert batch.tensors["inputs"].tolist() == [[7, 8, 9, 10, EOS, EOS, EOS, EOS]]
    assert batch.counts.tolist() == [3]


def test_the_blocks_of_a_stream_predict_each_token_once_but_the_first(stream):
    for length in (2, 9, 10, 11, 27):
        blocks = blocks_of(Shards(stream(range(10, 10 + length), name=str(length))), 8)
        assert [place for block in blocks for place in block[1:]] == list(range(1, length))
        assert all(block[0] == 8 * n for n, block in enumerate(blocks))


def test_a_limit_takes_the_first_blocks(stream):
    assert blocks_of(Shards(stream(range(10, 60))), 8, limit=2) == [range(9), range(8, 17)]


# ---- masked tokens


@pytest.mark.parametrize("shares", [(0.8, 0.1), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
@pytest.mark.parametrize("mlm_probability", [0.15, 0.3])
def test_shares_of_masked_replaced_and_kept_tokens_are_those_asked_for(mlm_probability, shares):
    rows = ordinary(200, 1000)
    batch = masked(rows, Masking(mlm_probability, *shares))
    told, inputs = predicted(batch, 200), batch.tensors["inputs"].numpy()
    chosen = told != IGNORED
    assert (chosen.sum(axis=1) == round(1000 * mlm_probability)).all()
    assert (told[chosen] == rows[chosen]).all()
    assert (inputs[~chosen] == rows[~chosen]).all()
    # of 30,000 tokens; 4 standard deviations are 0.01, and one replacement in 393 is the token itself
    assert (inputs[chosen] == MASK).mean() == pytest.approx(shares[0], abs=0.01)
    assert (inputs[chosen] == rows[chosen]).mean() == pytest.approx(1 - sum(shares), abs=0.01)


def test_every_place_is_as_likely_to_be_predicted():
    told = predicted(masked(ordinary(4000, 20), Masking(0.3)), 4000)
    assert (told != IGNORED).mean(axis=0) == pytest.approx(np.full(20, 0.3), abs=0.03)  # 4 standard deviations


def test_replacements_are_drawn_from_all_pieces_that_are_not_special():
    inputs = masked(np.full((100, 1000), 300), Masking(0.5, 0.5, 0.5)).tensors["inputs"]
    assert set(inputs.unique().tolist()) == {MASK, *range(7, PIECES)}


def test_special_tokens_are_never_predicted_and_do_not_count():
    rows = ordinary(50, 100)
    rows[:, ::3] = np.random.default_rng(1).integers(0, 7, (50, 34))
    batch = masked(rows, Masking(0.99))
    told = predicted(batch, 50)
    assert (told[rows < 7] == IGNORED).all()
    assert (batch.tensors["inputs"].numpy()[rows < 7] == rows[rows < 7]).all()
    assert ((told != IGNORED).sum(axis=1) == round(0.99 * 66)).all()


@pytest.mark.parametrize("tokens", range(1, 12))
def test_of_few_tokens_the_rounded_share_is_predicted_but_at_least_one(tokens):
    batch = masked([[BOS, *ordinary(tokens), *[EOS] * (20 - tokens)]], Masking(0.15))
    assert batch.counts.tolist() == [max(1, round(0.15 * tokens))]


def test_a_mask_depends_on_the_seed_of_its_row_only():
    rows, seeds = ordinary(4, 100), [(42, 7, row) for row in range(4)]
    together = masked(rows, Masking(0.3), seeds=seeds)
    for row in range(4):
        alone = masked(rows[row : row + 1], Masking(0.3), seeds=seeds[row : row + 1])
        assert torch.equal(alone.tensors["inputs"][0], together.tensors["inputs"][row])
        assert (predicted(alone, 1)[0] == predicted(together, 4)[row]).all()
    others = masked(np.tile(rows[:1], (4, 1)), Masking(0.3), seeds=[(42, 7, 0), (42, 7, 1), (42, 8, 0), (43, 7, 0)])
    assert len({tuple(row) for row in others.tensors["inputs"].tolist()}) == 4


def test_documents_are_told_apart_and_counted_from_where_they_begin():
    row = [9, 9, EOS, BOS, 9, 9, 9, EOS, BOS, EOS]
    documents = [0, 0, 0, 1, 1, 1, 1, 1, 2, 2]
    positions = [0, 1, 2, 0, 1, 2, 3, 4, 0, 1]
    roberta, modernbert = (masked([row], Masking(), kind).tensors for kind in ("roberta", "modernbert"))
    for tensors in (roberta, modernbert):
        assert tensors["documents"].tolist() == [documents]
    assert roberta["positions"].tolist() == [[place + 1 for place in positions]]  # after <pad>'s
    assert "positions" not in modernbert


@pytest.mark.parametrize("architecture", ["roberta", "modernbert"])
def test_nothing_of_the_padding_of_a_short_row_is_predicted_or_attended_to(architecture):
    text = Text([BOS, *ordinary(30)])
    batch = Feed(architecture, 16, PIECES, Masking(0.9)).batch([Row(text, 0, 16, (0,)), Row(text, 16, 7, (1,))])
    told = predicted(batch, 2)
    assert batch.tensors["inputs"][1, 7:].tolist() == [PAD] * 9
    assert (told[1, 7:] == IGNORED).all()
    assert ((told != IGNORED).sum(axis=1) == [round(0.9 * 15), round(0.9 * 7)]).all()
    documents = batch.tensors["documents"][1].tolist()
    assert len(set(documents[:7])) == 1
    assert len(set(documents[6:])) == 10  # each a document of its own


def test_batches_of_rows_of_any_kind_have_one_shape():
    rows = [[BOS] * 100, ordinary(100), [*ordinary(50), *[EOS] * 50]]
    shapes = {
        tuple((name, tuple(tensor.shape)) for name, tensor in masked([row], Masking(0.3)).tensors.items())
        for row in rows
    }
    assert len(shapes) == 1
    assert all(tensor.dtype == torch.int64 for tensor in masked(rows, Masking(0.3)).tensors.values())


# ---- whole words


def words_of(rows: int, length: int) -> np.ndarray:
    """Where words of one to six tokens begin."""
    rng = np.random.default_rng(3)
    starts = np.zeros((rows, length), dtype=bool)
    starts[:, 0] = True
    for row in starts:
        ends = np.cumsum(rng.integers(1, 7, length))
        row[ends[ends < length]] = True
    return starts


@pytest.mark.parametrize("mlm_probability", [0.15, 0.3])
def test_a_word_is_predicted_whole_or_not_at_all(mlm_probability):
    rows, starts = ordinary(100, 200), words_of(100, 200)
    told = predicted(masked(rows, Masking(mlm_probability, whole_word_mask=True), words=starts.ravel()), 100)
    chosen = told != IGNORED
    assert (chosen[:, 1:] == chosen[:, :-1])[~starts[:, 1:]].all()
    wanted = round(mlm_probability * 200)
    assert chosen.sum(axis=1).max() <= wanted
    assert chosen.sum(axis=1).mean() > wanted - 0.5
    assert {int(n) for n in np.diff(np.flatnonzero(starts[0]))} == {1, 2, 3, 4, 5, 6}


def test_a_word_goes_on_behind_the_end_of_a_row_and_special_tokens_belong_to_none():
    # three words, of which the first began before the row; <s> and </s> begin words too
    row = [9, 9, EOS, BOS, 9, 9, 9, 9, 9, 9]
    starts = [False, False, True, True, True, False, False, True, False, False]
    found = set()
    for seed in range(60):
        told = predicted(masked([row], Masking(0.6, whole_word_mask=True), seeds=[(seed,)], words=np.array(starts)), 1)
        found.add(tuple(np.flatnonzero(told[0] != IGNORED).tolist()))
    assert found == {(0, 1, 4, 5, 6), (0, 1, 7, 8, 9)}  # round(0.6 x 8) are 5 tokens


def test_a_word_of_more_tokens_than_are_wanted_is_left_out():
    starts = np.zeros(100, dtype=bool)
    starts[[0, 90]] = True
    for seed in range(5):
        batch = masked([ordinary(100)], Masking(0.15, whole_word_mask=True), seeds=[(seed,)], words=starts)
        assert np.flatnonzero(predicted(batch, 1)[0] != IGNORED).tolist() == list(range(90, 100))


def test_shards_that_know_of_no_words_cannot_be_masked_by_words():
    with pytest.raises(ShardError):
        masked([ordinary(100)], Masking(whole_word_mask=True))


# ---- pairs


@pytest.fixture
def bert(monkeypatch):
    """Feeds of a BERT whose rows are pairs `[CLS] 9 [SEP] 9 [SEP]`, of which every second has a label."""

    def row(shards, start, length, rng, word_starts):
        number = np.arange(length) // 5
        tokens = np.tile([CLS, 9, SEP, 9, SEP], length)[:length]
        labels = np.where((tokens == CLS) & (number % 2 == 0), number // 2 % 2, IGNORED)
        return pairs.Row(tokens, np.tile([0, 0, 0, 1, 1], length)[:length], number, labels)

    monkeypatch.setattr(pairs, "row", row)
    return lambda *lengths: Feed("bert", 30, PIECES, Masking(0.5)).batch(
        [Row(Text([9]), 0, length, (n,)) for n, length in enumerate(lengths)]
    )


def test_pairs_are_labelled_where_they_begin(bert):
    tensors = (batch := bert(30, 20)).tensors
    places, labels = tensors["pair_places"].tolist(), tensors["pair_labels"].tolist()
    assert (places[:5], labels[:5]) == ([0, 10, 20, 30, 40], [0, 1, 0, 0, 1])
    assert labels[5:] == [IGNORED] * 11  # room for eight in each row
    assert batch.counts.tolist() == [round(0.5 * 12) + round(0.5 * 8), 5]


def test_there_is_room_for_all_pairs_of_a_batch():
    many = Feed("bert", 8, PIECES, Masking(0.5))
    labels = np.zeros(8, dtype=np.int64)
    with pytest.MonkeyPatch.context() as patch:
        row = pairs.Row(np.full(8, CLS), labels, np.arange(8), labels)
        patch.setattr(pairs, "row", lambda *_: row)
        for rows, room in ((1, 8), (3, 24)):
            tensors = many.batch([Row(Text([9]), 0, 8, (0,))] * rows).tensors
            assert tensors["pair_places"].tolist() == list(range(room))
            assert tensors["pair_labels"].tolist() == [0] * room


def test_the_padding_of_a_short_row_of_pairs_is_no_part_of_any(bert):
    batch = bert(30, 20)
    tensors, told = batch.tensors, predicted(batch, 2)
    assert tensors["inputs"][1, 20:].tolist() == [PAD] * 10
    assert tensors["token_types"][1].tolist() == [0, 0, 0, 1, 1] * 4 + [0] * 10
    assert tensors["documents"][1].tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5 + [4] * 10
    assert tensors["positions"][1].tolist() == [0, 1, 2, 3, 4] * 4 + list(range(10))
    assert (told[1, 20:] == IGNORED).all()


def test_a_block_that_overlaps_the_next_by_a_token_makes_a_row_of_pairs_without_it(bert):
    assert torch.equal(bert(31).tensors["inputs"], bert(30).tensors["inputs"])
