import bz2
import random
import subprocess

import pytest

from jalm.formats import blocks

KANJI = "".join(map(chr, range(0x4E00, 0x9F00)))
TEXT = "".join(random.Random(0).choices(KANJI, k=120_000)).encode() + b"a" * 5000 + "終。😀\n".encode()


@pytest.fixture
def packed(tmp_path):
    """Writes bytes into a file."""

    def write(*streams: bytes):
        path = tmp_path / "鏡.bz2"
        path.write_bytes(b"".join(streams))
        return path

    return write


def texts(path):
    with open(path, "rb") as file:
        return [blocks.content(file, block) for block in blocks.find(path)]


@pytest.mark.parametrize("level", [1, 9])
def test_the_blocks_of_one_stream_together_are_its_text(packed, level):
    path = packed(bz2.compress(TEXT, level))
    parts = texts(path)
    assert b"".join(parts) == TEXT
    assert len(parts) == (4 if level == 1 else 1)  # 365 kB in blocks of 100 and 900
    assert all(block.file == path.name for block in blocks.find(path))


def test_a_stream_of_bzip2_itself_is_cut_too(packed):
    packed_by_it = subprocess.run(["bzip2", "-1"], input=TEXT, stdout=subprocess.PIPE, check=True).stdout
    assert b"".join(texts(packed(packed_by_it))) == TEXT


def test_streams_one_after_another_are_one_chain_empty_ones_too(packed):
    pieces = [TEXT[:700], b"", TEXT[700:150_000], TEXT[150_000:]]
    parts = texts(packed(*(bz2.compress(piece, 1) for piece in pieces)))
    assert b"".join(parts) == TEXT


@pytest.mark.parametrize("size", [0, 64, 1000, 65_537])
def test_a_block_is_found_wherever_the_scan_cuts_the_file(packed, monkeypatch, size):
    path = packed(*(bz2.compress(TEXT[n : n + 3000], 1) for n in range(0, 60_000, 3000)))
    whole = blocks.find(path)
    assert len(whole) == 20
    monkeypatch.setattr(blocks, "CHUNK", size or path.stat().st_size)
    assert blocks.find(path) == whole


@pytest.mark.parametrize("magic", [blocks.BLOCK, blocks.END])
def test_48_bits_that_look_like_a_mark_by_chance_are_none(packed, monkeypatch, magic):
    path = packed(bz2.compress(TEXT[:9000], 1), bz2.compress(TEXT, 1), bz2.compress(TEXT[:9], 1))
    real, marks = blocks.find(path), list(blocks._marks(path))
    for block in real:
        chance = (block.begin + 99, magic, 0x12345678)
        monkeypatch.setattr(blocks, "_marks", lambda _, chance=chance: sorted([*marks, chance]))
        assert blocks.find(path) == real
    assert len(real) == 6


def test_the_index_comes_back_as_written(packed, tmp_path):
    found = blocks.find(packed(bz2.compress(TEXT, 1)))
    blocks.write_index(tmp_path / "blocks.tsv", found)
    assert blocks.read_index(tmp_path / "blocks.tsv") == found


@pytest.mark.parametrize(
    "wrong", ["", "offset\tlength\n0\t9\n", "file\tbegin\tend\na\tb\tc\n", "file\tbegin\tend\na\t1\n"]
)
def test_an_index_that_is_none_is_refused(tmp_path, wrong):
    (tmp_path / "blocks.tsv").write_text(wrong, encoding="utf-8")
    with pytest.raises(blocks.BlockError, match="is no index of blocks"):
        blocks.read_index(tmp_path / "blocks.tsv")


STREAM = bz2.compress(TEXT, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no bz2 file"),
        ("『』".encode() * 99, "no bz2 file"),
        (bz2.compress(b""), "no bz2 file"),
        (STREAM[:-1], "do not add up"),
        (STREAM[: len(STREAM) // 2], "truncated"),
        (STREAM + b"\0", rf"at byte {len(STREAM):,}"),
        (STREAM + STREAM[1:], rf"at byte {len(STREAM):,}"),
        (STREAM[:10] + b"\0" + STREAM[11:], "do not add up"),  # the first block's checksum
    ],
)
def test_a_damaged_file_is_refused_with_the_place(packed, data, message):
    with pytest.raises(blocks.BlockError, match=message):
        blocks.find(packed(data))


def test_a_damaged_block_is_no_text(packed):
    path = packed(STREAM[:5000] + bytes([STREAM[5000] ^ 1]) + STREAM[5001:])
    with pytest.raises(OSError, match="Invalid data stream"):
        texts(path)
