import json
import math
import subprocess
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from jalm.formats import shards
from jalm.formats.shards import Mixture, ShardError, Shards, Shuffle


def edit(manifest, **changes):
    """Change what a manifest says."""
    record = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps(record | changes), encoding="utf-8")


# ---- the files


@pytest.mark.parametrize(
    ("vocab_size", "expected"),
    [(300, b"\x02\x01"), (65536, b"\x02\x01"), (65537, b"\x02\x01\x00\x00"), (1_000_000, b"\x02\x01\x00\x00")],
)
def test_ids_are_little_endian_in_two_bytes_or_four_above_65536_pieces(vocab_size, expected):
    assert np.array([258], dtype=shards.dtype(vocab_size)).tobytes() == expected


def test_the_largest_id_fits():
    for vocab_size in (65536, 65537):
        assert np.array([vocab_size - 1]).astype(shards.dtype(vocab_size))[0] == vocab_size - 1


def test_the_digest_is_that_of_sha256sum(tmp_path):
    path = tmp_path / "猫.bin"
    path.write_bytes(b"\x00\xff" * 1_000_001)
    printed = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout
    assert shards.digest(path) == printed.split()[0]


def test_a_truncated_shard_is_refused_with_both_sizes(stream):
    manifest = stream(range(10), range(5))
    path = manifest.parent / "001.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ShardError, match=r"001\.bin has 9 bytes, .*manifest\.json says 10; remove both"):
        Shards(manifest)


def test_a_shard_that_grew_is_refused(stream):
    manifest = stream(range(10))
    with open(manifest.parent / "000.bin", "ab") as file:
        file.write(b"\0\0")
    with pytest.raises(ShardError, match=r"has 22 bytes, .* says 20"):
        Shards(manifest)


def test_a_missing_shard_is_refused(stream):
    manifest = stream(range(10))
    (manifest.parent / "000.bin").unlink()
    with pytest.raises(ShardError, match=r"000\.bin is missing"):
        Shards(manifest)


def test_a_manifest_that_promises_more_than_its_files_is_refused(stream):
    manifest = stream(range(10), range(5))
    edit(manifest, tokens=16)
    with pytest.raises(ShardError, match=r"is no manifest .its files do not have 16 tokens together"):
        Shards(manifest)


# ---- the stream


def test_reading_crosses_parts_and_wraps_round(stream):
    opened = Shards(stream([0, 1, 2], [], [3], [4, 5, 6, 7], []))
    ring = np.tile(np.arange(8), 5)
    for start in range(20):
        for length in range(20):
            np.testing.assert_array_equal(opened.read(start, length), ring[start % 8 :][:length])


def test_ids_above_32767_are_read_as_positive_numbers(stream):
    assert Shards(stream([65535, 40000])).read(0, 2).tolist() == [65535, 40000]
    wide = stream([2**31, 65536], [2**32 - 1], dtype="<u4", vocab_size=2**20, name="wide")
    assert Shards(wide).read(0, 3).tolist() == [2**31, 65536, 2**32 - 1]


@pytest.fixture
def worded(stream):
    """Three parts, one without tokens, whose words begin where `BEGINS` says."""
    manifest = stream(range(11), [], range(11, 20))
    edit(manifest, word_starts=True)
    for name, some in (("000", BEGINS[:11]), ("001", []), ("002", BEGINS[11:])):
        packed = [sum(bit << place for place, bit in enumerate(some[i : i + 8])) for i in range(0, len(some), 8)]
        (manifest.parent / f"{name}.words").write_bytes(bytes(packed))
    return manifest


BEGINS = [int(bit) for bit in "11010001101000111001"]


def test_where_words_begin_is_read_across_parts_and_wraps_round(worded):
    opened = Shards(worded)
    ring = np.tile(np.array(BEGINS, dtype=bool), 5)
    for start in range(41):
        for length in range(45):
            found = opened.word_starts(start, length)
            assert found.dtype == bool
            np.testing.assert_array_equal(found, ring[start % 20 :][:length])


def test_shards_without_words_say_how_to_get_them(stream):
    with pytest.raises(ShardError, match=r"manifest\.json knows of no words; set segment\.words to true"):
        Shards(stream(range(10))).word_starts(0, 5)


def test_words_that_are_cut_short_or_missing_are_refused_once_they_are_asked_for(worded):
    path = worded.parent / "002.words"
    path.write_bytes(b"\1")
    assert Shards(worded).read(18, 4).tolist() == [18, 19, 0, 1]
    with pytest.raises(ShardError, match=r"002\.words has 1 bytes, 2 are needed; remove it"):
        Shards(worded).word_starts(0, 5)
    path.unlink()
    with pytest.raises(ShardError, match=r"002\.words is missing"):
        Shards(worded).word_starts(0, 5)


# ---- mixtures of streams


@pytest.fixture
def counted(stream):
    """A stream of 103 tokens that are their own places, in two parts."""
    return Shards(stream(range(60), range(60, 103)))


def epoch(mixture, number):
    """Blocks of an epoch as rows."""
    return np.stack([mixture.block(number * mixture.blocks + place) for place in range(mixture.blocks)])


def test_a_block_is_consecutive_tokens_and_one_more(counted):
    for block in epoch(Mixture([(counted, 1.0)], block_size=10, seed=1), 0):
        np.testing.assert_array_equal(block, (block[0] + np.arange(11)) % 103)


@pytest.mark.parametrize("number", [0, 1, 7])
def test_weight_one_passes_over_each_block_once_an_epoch(counted, number):
    blocks = epoch(Mixture([(counted, 1.0)], block_size=10, seed=1), number)
    assert blocks.shape == (10, 11)
    assert len(set(blocks[:, :-1].flatten().tolist())) == 100  # no token twice


def test_weight_two_passes_over_each_block_twice_an_epoch(counted):
    blocks = epoch(Mixture([(counted, 2.0)], block_size=10, seed=1), 0)
    starts, times = np.unique(blocks[:, 0], return_counts=True)
    assert len(starts) == 10
    assert set(times.tolist()) == {2}


def test_weight_a_half_passes_over_half_of_the_blocks_an_epoch(counted):
    blocks = epoch(Mixture([(counted, 0.5)], block_size=10, seed=1), 0)
    assert len(set(blocks[:, 0].tolist())) == len(blocks) == 5


def test_the_half_of_the_blocks_is_drawn_from_all_over_the_stream(counted):
    mixture = Mixture([(counted, 0.5)], block_size=10, seed=1)
    gaps = [np.diff(np.sort(epoch(mixture, number)[:, 0])) for number in range(5)]
    # five neighbouring blocks would leave no gap, or, around the end of the stream, one over 50 tokens
    assert all(((gap > 10) & (gap <= 50)).any() for gap in gaps)


def test_a_weight_between_one_and_two_repeats_some_blocks(counted):
    blocks = epoch(Mixture([(counted, 1.3)], block_size=10, seed=1), 0)
    _, times = np.unique(blocks[:, 0], return_counts=True)
    assert sorted(times.tolist()) == [1] * 7 + [2] * 3


def test_streams_are_mixed_by_their_weights(counted, stream):
    other = Shards(stream(range(500, 550), name="other"))
    mixture = Mixture([(counted, 1.0), (other, 3.0)], block_size=10, seed=1)
    first = epoch(mixture, 0)[:, 0]
    assert mixture.blocks == 10 + 3 * 5
    assert (first < 500).sum() == 10
    assert 0 < (first[:12] < 500).sum() < 10  # not one stream after the other


def test_the_next_epoch_has_another_order_and_other_edges(counted):
    mixture = Mixture([(counted, 1.0)], block_size=10, seed=1)
    starts = [epoch(mixture, number)[:, 0].tolist() for number in range(3)]
    assert len({tuple(s) for s in starts}) == 3
    assert len({tuple(sorted(s)) for s in starts}) == 3
    assert starts[0] != sorted(starts[0])


def test_no_token_is_left_out_in_every_epoch(counted):
    mixture = Mixture([(counted, 1.0)], block_size=10, seed=1)
    seen = {token for number in range(20) for token in epoch(mixture, number)[:, :-1].flatten().tolist()}
    assert seen == set(range(103))


def test_a_block_depends_on_seed_and_position_only(counted):
    forwards, backwards = (Mixture([(counted, 0.7)], block_size=10, seed=5) for _ in range(2))
    there = [forwards.block(position).tolist() for position in range(40)]
    back = [backwards.block(position).tolist() for position in reversed(range(40))]
    assert there == back[::-1]
    other = Mixture([(counted, 0.7)], block_size=10, seed=6)
    assert there != [other.block(position).tolist() for position in range(40)]


def test_a_place_says_of_which_stream_a_block_is_and_where_it_begins(counted, stream):
    other = Shards(stream(range(500, 550), name="other"))
    mixture = Mixture([(counted, 1.0), (other, 1.3)], block_size=10, seed=1)
    for position in range(50):
        number, begin = mixture.place(position)
        first = mixture.block(position)[0]
        assert (number, begin) == ((1, first - 500) if first >= 500 else (0, first))


def test_a_stream_shorter_than_a_block_has_no_blocks(counted, stream):
    mixture = Mixture([(counted, 1.0), (Shards(stream([900, 901], name="short")), 1.0)], block_size=10, seed=1)
    assert mixture.blocks == 10
    assert epoch(mixture, 0).max() < 103


def test_an_order_has_each_number_once_whatever_its_size():
    for size in [*range(1, 60), 1000, 4097]:
        order = Shuffle(size, 1, 2)
        assert sorted(order[place] for place in range(size)) == list(range(size))


def test_every_order_of_five_numbers_is_as_likely():
    times = Counter(tuple(Shuffle(5, 7, seed)[place] for place in range(5)) for seed in range(12_000))
    assert len(times) == 120
    chi_squared = sum((count - 100) ** 2 / 100 for count in times.values())
    assert chi_squared < 119 + 4 * math.sqrt(2 * 119)  # mean and four deviations


def test_a_mixture_of_ten_billion_tokens_begins_at_once_and_takes_no_memory(stream):
    large = Shards(stream(range(10)))
    large.tokens = 10_000_000_000  # nothing is read before a block is asked for
    tracemalloc.start()
    mixture = Mixture([(large, 1.0), (large, 0.3)], block_size=1000, seed=1)
    mixture._begin_epoch(0)
    taken = {mixture._order[place] for place in range(1000)}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert mixture.blocks == 13_000_000
    assert len(taken) == 1000
    assert peak < 300_000  # bytes


# ---- documents and sentences


@pytest.fixture
def indexed(stream):
    """Two parts with documents of two, no and one sentence."""
    manifest = stream([2, 10, 11, 12, 3, 2, 3], [], [2, 20, 3])
    np.save(manifest.parent / "index.npy", np.array([[5, 2], [7, 2], [10, 3]]))
    np.save(manifest.parent / "sentences.npy", np.array([3, 2, 3], dtype="<u4"))
    return Shards(manifest)


def test_a_document_and_its_sentences_are_found_by_its_number(indexed):
    assert len(indexed) == 3
    assert [indexed.document(n).tolist() for n in range(3)] == [[2, 10, 11, 12, 3], [2, 3], [2, 20, 3]]
    found = [[sentence.tolist() for sentence in indexed.sentences(n)] for n in range(3)]
    assert found == [[[2, 10, 11], [12, 3]], [], [[2, 20, 3]]]


def test_a_token_tells_its_document_and_a_document_where_it_and_its_sentences_lie(indexed):
    assert [indexed.document_at(position) for position in range(10)] == [0] * 5 + [1] * 2 + [2] * 3
    assert [indexed.span(n) for n in range(3)] == [range(5), range(5, 7), range(7, 10)]
    assert [indexed.sentence_ends(n).tolist() for n in range(3)] == [[3, 5], [], [10]]


@pytest.mark.parametrize("number", [-1, 3])
def test_a_document_that_is_not_there_is_an_error(indexed, number):
    with pytest.raises(IndexError, match=f"has 3 documents, asked for is number {number}"):
        indexed.document(number)


def test_shards_without_an_index_say_so_when_documents_are_asked_for(stream):
    opened = Shards(stream(range(10)))
    with pytest.raises(ShardError, match=r"index\.npy cannot be read .*remove .*manifest\.json"):
        opened.document(0)


@pytest.mark.parametrize("content", ['{"tok', "{}", "[]", "null", '{"tokens": 1}'])
def test_a_manifest_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ShardError, match=r"manifest\.json is no manifest"):
        Shards(tmp_path / "manifest.json")
