import itertools
import logging
import os
import re
from collections import Counter

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from jalm import Fault
from jalm.formats import documents
from jalm.stages.import_text import blocks, main, tidy

POEM = "古池や\n蛙飛びこむ\n水の音"


@pytest.fixture
def imported(tmp_path):
    """Documents that the stage makes of some paths, part by part."""

    def run(*paths, parts=1):
        output = tmp_path / "parts" / "000.jsonl.zst"
        made = []
        for part in range(parts):
            place = ["--part", str(part), "--parts", str(parts)]
            main(["--input", *map(str, paths), *place, "--output", str(output)])
            made.append(list(documents.read(output)))
        return made

    return run


# ---- .txt files: documents between blank lines


def documents_of(text: bytes) -> list[tuple[int, bytes]]:
    """Offset and bytes of each run of lines that are not blank."""
    lines = re.findall(rb"[^\n]*\n|[^\n]+", text)
    offsets = [0, *itertools.accumulate(map(len, lines))]
    runs = itertools.groupby(zip(offsets, lines, strict=False), key=lambda line: bool(line[1].strip(b" \t\r\n")))
    found = [(kept, list(run)) for kept, run in runs]
    return [(run[0][0], b"".join(line for _, line in run)) for kept, run in found if kept]


LINE = st.sampled_from(
    ["", "", "\r", " \t", " " * 70, "「\r", "吾輩は猫である。", "\u3000", "終" + " " * 200, "長" * 60]
)


@settings(deadline=None)
@given(st.lists(LINE, max_size=12), st.booleans(), st.integers(1, 40))
def test_every_document_is_in_exactly_one_part(tmp_path_factory, lines, ended, parts):
    path = tmp_path_factory.getbasetemp() / "本文.txt"
    path.write_bytes(("\n".join(lines) + "\n" * ended).encode())
    made = [block for part in range(parts) for block in blocks(path, part, parts)]
    assert made == documents_of(path.read_bytes())


def test_a_part_holds_the_documents_that_begin_in_it(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"1234\n\n7890\n\n3456\n\n")  # 18 bytes, cut after 9
    assert list(blocks(tmp_path / "a.txt", 0, 2)) == [(0, b"1234\n"), (6, b"7890\n")]
    assert list(blocks(tmp_path / "a.txt", 1, 2)) == [(12, b"3456\n")]


def test_a_document_longer_than_a_part_leaves_parts_empty(tmp_path):
    (tmp_path / "a.txt").write_text("長い行\n" * 100 + "\n短い", encoding="utf-8")
    assert [len(list(blocks(tmp_path / "a.txt", part, 10))) for part in range(10)] == [1, *[0] * 8, 1]


def test_documents_are_named_by_file_and_offset(imported, tmp_path):
    (tmp_path / "俳句.txt").write_text(f"\n\n{POEM}\n\n\n「ｶﾅ」😀", encoding="utf-8")
    second = 2 + len(POEM.encode()) + 3
    assert imported(tmp_path / "俳句.txt") == [
        [
            {"id": "俳句.txt:2", "title": "", "text": POEM},
            {"id": f"俳句.txt:{second}", "title": "", "text": "「ｶﾅ」😀"},
        ]
    ]


@pytest.mark.parametrize("text", ["", "\n", " \n\t\n\n"])
def test_a_file_of_nothing_has_no_documents(imported, tmp_path, text):
    (tmp_path / "無.txt").write_text(text, encoding="utf-8")
    assert imported(tmp_path / "無.txt", parts=3) == [[], [], []]


# ---- folders and JSON lines


def test_each_file_of_a_folder_is_a_document_blank_lines_or_not(imported, tmp_path):
    for name, text in {"歌/b.txt": f"\n{POEM}\n\n終わり\n", "歌/a.txt": "ｶﾅ", "歌/read.me": "no text"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert imported(tmp_path / "歌") == [
        [
            {"id": "歌/a.txt", "title": "a", "text": "ｶﾅ"},
            {"id": "歌/b.txt", "title": "b", "text": f"{POEM}\n終わり"},
        ]
    ]


def test_a_line_of_json_is_a_document_with_its_title(imported, tmp_path):
    lines = [{"title": "「俳句」", "text": POEM, "url": "x"}, {"text": "ｶﾅ"}, {"title": None, "text": "1,234人"}]
    (tmp_path / "a.jsonl").write_bytes(b"\n\n".join(map(orjson.dumps, lines)))
    assert imported(tmp_path / "a.jsonl") == [
        [
            {"id": "a.jsonl:1", "title": "「俳句」", "text": POEM},
            {"id": "a.jsonl:3", "title": "", "text": "ｶﾅ"},
            {"id": "a.jsonl:5", "title": "", "text": "1,234人"},
        ]
    ]


def test_compressed_json_gives_the_same_texts(imported, tmp_path):
    lines = b"\n".join(orjson.dumps({"text": text}) for text in (POEM, "ｶﾅ", "終"))
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.jsonl.zst").write_bytes(zstandard.compress(lines))
    (plain,), (compressed,) = imported(tmp_path / "a.jsonl"), imported(tmp_path / "b.jsonl.zst")
    assert (
        [document["text"] for document in compressed] == [document["text"] for document in plain] == [POEM, "ｶﾅ", "終"]
    )
    assert [document["id"] for document in compressed] == ["b.jsonl.zst:1", "b.jsonl.zst:2", "b.jsonl.zst:3"]


@pytest.mark.parametrize("parts", [2, 3, 8, 50])
def test_documents_and_their_ids_do_not_depend_on_the_number_of_parts(imported, tmp_path, parts):
    texts = [f"第{number}句\n{'長い' * number}" for number in range(20)]
    (tmp_path / "a.txt").write_text("\n\n".join(texts), encoding="utf-8")
    (tmp_path / "b.jsonl").write_bytes(b"\n".join(orjson.dumps({"text": text}) for text in texts))
    (tmp_path / "c").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "c" / f"{number}.txt").write_text(text, encoding="utf-8")
    paths = [tmp_path / name for name in ("a.txt", "b.jsonl", "c")]
    (whole,) = imported(*paths)
    assert len(whole) == 60
    cut = [document for part in imported(*paths, parts=parts) for document in part]
    assert sorted(cut, key=lambda document: document["id"]) == sorted(whole, key=lambda document: document["id"])


# ---- what is mended


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("古池や\r\n\r\n蛙\r終わり\r\n".encode(), "古池や\n蛙\n終わり"),
        (b"\xef\xbb\xbf" + "古池や".encode(), "古池や"),
        ("　一字下げ。　\n \n\t\n終わり", "一字下げ。\n終わり"),
        ("改\f頁\n\0\nベル\a 終", "改頁\nベル 終"),
        ("\x1b\n\0", ""),
        ("列\t区切り", "列\t区切り"),
    ],
)
def test_a_text_has_lines_and_nothing_else(raw, text):
    assert tidy(raw, Counter()) == text


def test_a_text_that_is_tidy_stays_as_it_is():
    assert tidy(f"{POEM}\n「ｶﾅ」が1,234、😀", Counter()) == f"{POEM}\n「ｶﾅ」が1,234、😀"


def test_bytes_that_are_no_utf8_are_replaced_and_counted_but_not_those_that_were_before():
    counts = Counter()
    assert tidy("文字\ufffd化け".encode() + b"\xff\xfe", counts) == "文字\ufffd化け\ufffd\ufffd"
    assert +counts == {"bytes that are no UTF-8": 2}


def test_control_characters_are_counted():
    counts = Counter()
    tidy("\0ベル\a\r\n\x7f", counts)
    assert +counts == {"control characters": 3}


def test_text_in_another_encoding_is_refused_with_what_to_do(imported, tmp_path):
    (tmp_path / "sjis.txt").write_bytes("吾輩は猫である。名前はまだ無い。\n".encode("cp932") * 3)
    with pytest.raises(Fault, match=r"sjis\.txt is no UTF-8; convert it, for example with: iconv -f CP932"):
        imported(tmp_path / "sjis.txt")


def test_what_was_mended_and_what_was_empty_is_logged(imported, tmp_path, caplog):
    (tmp_path / "a.txt").write_bytes(
        b"\xef\xbb\xbf\n\n\0\n\n" + "よい句である\ufffd".encode() + b"\xff\a\n" + "次の行\n".encode() * 9
    )
    with caplog.at_level(logging.INFO):
        assert [document["text"] for document in imported(tmp_path / "a.txt")[0]] == [
            "\n".join(["よい句である\ufffd\ufffd", *["次の行"] * 9])
        ]
    assert "bytes that are no UTF-8 replaced or removed: 1" in caplog.text
    assert "control characters replaced or removed: 2" in caplog.text
    assert "3 documents in, 1 documents out; dropped: 2 empty" in caplog.text


# ---- what is refused


def test_a_folder_without_text_is_refused(imported, tmp_path):
    (tmp_path / "空").mkdir()
    with pytest.raises(Fault, match=r"空 has no \.txt files"):
        imported(tmp_path / "空")


def test_two_paths_with_one_name_are_refused(imported, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "本文.txt").write_text(POEM, encoding="utf-8")
    with pytest.raises(Fault, match=r"two paths are called 本文\.txt"):
        imported(tmp_path / "a" / "本文.txt", tmp_path / "b" / "本文.txt")


def test_a_file_of_another_kind_is_refused(imported, tmp_path):
    (tmp_path / "ja.txt.xz").write_bytes(b"\xfd7zXZ\0")
    with pytest.raises(Fault, match=r"ja\.txt\.xz is no folder, \.txt, \.jsonl or \.jsonl\.zst file"):
        imported(tmp_path / "ja.txt.xz")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"text": "「', "no JSON"),
        ('["古池や"]', "no object with a text"),
        ('{"txt": "古池や"}', "no object with a text"),
        ('{"text": 1234}', "no object with a text"),
        (r'{"text": "\ud800"}', "no JSON"),
    ],
)
def test_a_line_without_a_text_is_named(imported, tmp_path, line, fault):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "{"句"}"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(Fault, match=rf"a\.jsonl: line 2 is {fault}"):
        imported(tmp_path / "a.jsonl")


def test_a_truncated_file_is_refused(imported, tmp_path):
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(b'{"text": "1,234"}\n')[:-1])
    with pytest.raises(Fault, match=r"a\.jsonl\.zst ends in the middle"):
        imported(tmp_path / "a.jsonl.zst")


def test_a_file_name_that_is_no_utf8_is_refused(imported, tmp_path):
    (tmp_path / "歌").mkdir()
    (tmp_path / "歌" / os.fsdecode("俳句.txt".encode("cp932"))).write_text(POEM, encoding="utf-8")
    with pytest.raises(Fault, match=r"name of .* is no UTF-8 .*rename it"):
        imported(tmp_path / "歌")
