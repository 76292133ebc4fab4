import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jalm.formats import pairs
from jalm.formats.shards import ShardError, Shards

PAD, CLS, SEP = 0, 4, 5


def made(stream, *texts: list[list[int]], words: bytes | None = None) -> Shards:
    """A stream of documents out of sentences, their <s> and </s> to be added; sentences may be empty."""
    marked = [[*sentences] for sentences in texts]
    for sentences in filter(None, marked):
        sentences[0] = [2, *sentences[0]]
        sentences[-1] = [*sentences[-1], 3]
    manifest = stream([i for sentences in marked for sentence in sentences or [[2, 3]] for i in sentence])
    sizes = [(sum(map(len, sentences)) or 2, len(sentences)) for sentences in marked]
    np.save(manifest.parent / "index.npy", np.cumsum(sizes, axis=0))
    np.save(manifest.parent / "sentences.npy", np.array([len(s) for x in marked for s in x], dtype="<u4"))
    if words is not None:
        (manifest.parent / "000.words").write_bytes(words)
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"word_starts": True}))
    return Shards(manifest)


def counted(documents: int, sentences: int, tokens: int) -> list[list[list[int]]]:
    """Texts of which each token is another, so that it says where it is from."""
    ids = iter(range(100, 65_536))
    return [[[next(ids) for _ in range(tokens)] for _ in range(sentences)] for _ in range(documents)]


def segments(row: pairs.Row) -> list[tuple[list[int], list[int] | None, int]]:
    """A, B and the label of each pair of a row; checks what stands around them."""
    found, tokens = [], row.tokens.tolist()
    for number in range(row.pairs.max() + 1):
        (places,) = np.nonzero(row.pairs == number)
        assert np.array_equal(places, np.arange(places[0], places[-1] + 1))
        here = [tokens[place] for place in places]
        if here[0] == PAD:
            assert number == row.pairs.max()
            assert set(here) == {PAD}
            assert set(row.next_sentence[places].tolist()) == {pairs.IGNORED}
            continue
        assert here[0] == CLS
        assert here[-1] == SEP
        assert not {PAD, 2, 3, CLS, SEP} & {i for i in here[1:-1] if i != SEP}
        assert row.next_sentence[places[1:]].tolist() == [pairs.IGNORED] * (len(here) - 1)
        first = here.index(SEP)
        kinds = row.token_types[places].tolist()
        assert kinds == [0] * (first + 1) + [1] * (len(here) - first - 1)
        found.append((here[1:first], here[first + 1 : -1] or None, int(row.next_sentence[places[0]])))
    return found


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_row_is_pairs_of_segments_up_to_its_end(stream):
    row = pairs.row(made(stream, *counted(6, 5, 4)), 0, 64, rng(1))
    assert [len(field) for field in row[:4]] == [64] * 4
    assert {field.dtype for field in row[:4]} == {np.dtype(np.int64)}
    assert row.word_starts is None
    assert len(segments(row)) >= 3
    assert row.tokens[-1] == SEP


def test_a_document_is_cut_at_each_of_its_sentences_as_often(stream):
    (text,) = counted(1, 4, 3)
    shards = made(stream, text, [[7, 7, 7]])
    lengths = [len(segments(pairs.row(shards, 0, 15, rng(2, turn)))[0][0]) for turn in range(600)]
    # 12 tokens, exactly a row; sentences end behind 3, 6 and 9 of them
    sizes, times = np.unique(lengths, return_counts=True)
    assert sizes.tolist() == [3, 6, 9]
    assert abs(times - 200).max() < 4 * np.sqrt(600 * 1 / 3 * 2 / 3)


def test_half_of_the_pairs_go_on_as_the_document_does_and_half_elsewhere(stream):
    texts = counted(30, 6, 5)
    shards = made(stream, *texts)
    home = {token: number for number, text in enumerate(texts) for sentence in text for token in sentence}
    begins = {sentence[0] for text in texts for sentence in text}
    labels = []
    for turn in range(300):
        for a, b, label in segments(pairs.row(shards, 7 * turn, 100, rng(3, turn))):
            if label == 0:
                assert b[0] == a[-1] + 1
            if label == 1:
                assert home[a[0]] != home[b[0]]
            if b:
                assert b[0] in begins
                assert b == list(range(b[0], b[0] + len(b)))  # of one document, nothing left out
                assert len({home[token] for token in b}) == 1
            labels.append(label)
    known = [label for label in labels if label != pairs.IGNORED]
    assert len(known) > 0.9 * len(labels)
    assert abs(sum(known) - len(known) / 2) < 4 * np.sqrt(len(known) / 4)


def test_the_end_of_a_segment_does_not_tell_where_it_is_from(stream):
    texts = counted(30, 6, 5)
    shards = made(stream, *texts)
    ends = {sentence[-1] for text in texts for sentence in text}
    inner = [pair for turn in range(200) for pair in segments(pairs.row(shards, 11 * turn, 100, rng(4, turn)))[:-1]]
    assert {label for _, _, label in inner} >= {0, 1}
    assert all(b[-1] in ends for _, b, _ in inner if b)


def test_what_a_segment_from_elsewhere_does_not_fill_the_stream_fills(stream):
    (long,) = counted(1, 20, 5)
    shards = made(stream, long, *[[[n, n + 1]] for n in range(60_000, 60_100, 2)])
    for turn in range(100):
        row = pairs.row(shards, 0, 64, rng(5, turn))
        assert (row.tokens == PAD).sum() <= 2
        (a, b, label), *rest = segments(row)
        if label == 1:
            assert len(b) == min(2, 61 - len(a))
            assert not rest or rest[0][0][0] == 161  # behind the 61 tokens that the row would have had


def test_an_epoch_shows_each_token_about_once(stream):
    texts = counted(100, 10, 6)
    shards, seen = made(stream, *texts), np.zeros(65_536)
    for turn in range(40):
        for number in range(shards.tokens // 128):
            tokens = pairs.row(shards, 31 * turn + 128 * number, 128, rng(6, turn, number)).tokens
            np.add.at(seen, tokens, 1 / 40)
    text = seen[100:6100]
    assert 0.9 < text.mean() < 1.0  # the rest are [CLS] and [SEP]
    thirds = text.reshape(100, 3, 20).mean(axis=(0, 2))
    assert thirds.max() < 1.25 * thirds.min()


def test_a_row_depends_on_where_it_begins_and_on_the_random_state_only(stream):
    shards = made(stream, *counted(20, 5, 4))
    one, other = (pairs.row(shards, start, 64, rng(7)) for start in (30, 30 + shards.tokens))
    assert all(np.array_equal(a, b) for a, b in zip(one[:4], other[:4], strict=True))
    assert not np.array_equal(one.tokens, pairs.row(shards, 30, 64, rng(8)).tokens)


# ---- streams that have not what pairs are made of


def test_one_document_alone_has_no_other_and_no_labels(stream):
    shards = made(stream, *counted(1, 8, 5), [], [])
    for turn in range(20):
        row = pairs.row(shards, 0, 32, rng(9, turn))
        assert set(row.next_sentence.tolist()) == {pairs.IGNORED}
        (a, b, _), *_ = segments(row)
        assert a + b == list(range(100, 129))


def test_a_window_inside_a_sentence_is_one_segment(stream):
    shards = made(stream, *counted(2, 2, 100))
    assert segments(pairs.row(shards, 11, 32, rng(1))) == [(list(range(110, 140)), None, pairs.IGNORED)]


def test_documents_without_text_are_passed_over(stream):
    shards = made(stream, [], [[7, 8]], [], [[]], [[9]], [])
    assert segments(pairs.row(shards, 0, 8, rng(1))) == [([7, 8], None, -100), ([9], None, -100)]
    assert segments(pairs.row(shards, 5, 8, rng(1))) == [([9], None, -100), ([7, 8], None, -100)]


def test_a_stream_without_text_is_padding(stream):
    row = pairs.row(made(stream, [], [], [[]]), 0, 8, rng(1))
    assert row.tokens.tolist() == [PAD] * 8
    assert len(set(row.pairs.tolist())) == 1


def test_a_rest_too_small_for_a_pair_is_padding_of_its_own(stream):
    shards = made(stream, [[7, 8, 9]], [[10]])
    assert segments(pairs.row(shards, 0, 7, rng(1))) == [([7, 8, 9], None, -100)]
    row = pairs.row(shards, 0, 7, rng(1))
    assert row.tokens.tolist() == [CLS, 7, 8, 9, SEP, PAD, PAD]
    assert row.pairs.tolist() == [0, 0, 0, 0, 0, 1, 1]


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=6),
    st.integers(0, 200),
    st.integers(1, 60),
    st.integers(0, 5),
)
def test_any_stream_makes_whole_rows(tmp_path_factory, documents, start, length, seed):
    ids = iter(range(100, 1000))
    texts = [[[next(ids) for _ in range(size)] for size in sizes] for sizes in documents]

    def stream(tokens):
        folder = tmp_path_factory.mktemp("any")
        np.array(tokens, dtype="<u2").tofile(folder / "000.bin")
        record = {"tokenizer": "a", "vocab_size": 1000, "dtype": "<u2", "tokens": len(tokens)}
        record["files"] = [{"name": "000.bin", "tokens": len(tokens)}]
        (folder / "manifest.json").write_text(json.dumps(record))
        return folder / "manifest.json"

    row = pairs.row(made(stream, *texts), start, length, rng(seed))
    segments(row)
    if any(map(any, documents)):
        assert (row.tokens == PAD).sum() <= 2


# ---- words, and a real text


def test_words_begin_where_the_stream_says_and_with_every_segment(stream):
    text = [[100 + n for n in range(8)], [200 + n for n in range(8)]]
    shards = made(
        stream, text, text, words=np.packbits([1, 1, 0, 0, 1, 1, 0, 1, 0, *[1] * 27], bitorder="little").tobytes()
    )
    row = pairs.row(shards, 3, 12, rng(1), word_starts=True)
    (a, _, _), *_ = segments(row)
    assert a == [102, 103, 104, 105, 106, 107]
    assert row.word_starts[:8].tolist() == [True, True, True, True, False, True, False, True]
    with pytest.raises(ShardError, match=r"manifest\.json knows of no words; set segment\.words to true"):
        pairs.row(made(lambda *parts: stream(*parts, name="none"), text), 0, 12, rng(1), word_starts=True)


def test_rows_of_text_are_less_than_a_five_hundredth_padding(tiny):
    shards = Shards(tiny.shards["train"])
    rows = [pairs.row(shards, 128 * number, 128, rng(number)) for number in range(2 * shards.tokens // 128)]
    assert len(rows) > 100
    assert sum(np.count_nonzero(row.tokens == PAD) for row in rows) < len(rows) * 128 / 500
    assert {pairs.IGNORED, 0, 1} == {int(label) for row in rows for label in row.next_sentence}
