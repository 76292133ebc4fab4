import itertools
import logging
import lzma
import os
import re
import tracemalloc
from collections import Counter

import orjson
import pyarrow
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from jalm import Fault
from jalm.formats import documents
from jalm.stages import import_text
from jalm.stages.import_text import blocks, main, tidy

POEM = "古池や\n蛙飛びこむ\n水の音"


@pytest.fixture
def imported(tmp_path):
    """Documents that the stage makes of some paths, part by part."""

    def run(*paths, parts=1, config=()):
        output = tmp_path / "parts" / "000.jsonl.zst"
        made = []
        for part in range(parts):
            place = ["--part", str(part), "--parts", str(parts)]
            main([*config, "--input", *map(str, paths), *place, "--output", str(output)])
            made.append(list(documents.read(output)))
        return made

    return run


# ---- .txt files: documents between blank lines


def documents_of(text: bytes) -> list[tuple[int, bytes]]:
    """Offset and bytes of each run of lines that are not blank."""
    lines = re.findall(rb"[^\n]*\n|[^\n]+", text)
    offsets = [0, *itertools.accumulate(map(len, lines))]
    runs = itertools.groupby(zip(offsets, lines, strict=False), key=lambda line: bool(line[1].decode().strip()))
    found = [(kept, list(run)) for kept, run in runs]
    return [(run[0][0], b"".join(line for _, line in run)) for kept, run in found if kept]


LINE = st.sampled_from(
    [
        "",
        "",
        "\r",
        " \t",
        " " * 70,
        "「\r",
        "吾輩は猫である。",
        "\u3000",
        " \u3000\u3000\r",
        "\u3000" * 30,
        "\u3000終",
        "終" + " " * 200,
        "長" * 60,
    ]
)


@settings(deadline=None)
@given(st.lists(LINE, max_size=12), st.booleans(), st.integers(1, 40))
def test_every_document_is_in_exactly_one_part(tmp_path_factory, lines, ended, parts):
    path = tmp_path_factory.getbasetemp() / "本文.txt"
    path.write_bytes(("\n".join(lines) + "\n" * ended).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_text, "LOOK_BACK", 16)
        patch.setattr(import_text, "CHUNK", 50)
        made = [block for part in range(parts) for block in blocks(path, part, parts, 1000)]
    assert made == documents_of(path.read_bytes())


@settings(deadline=None, max_examples=30)
@given(st.lists(LINE, max_size=12), st.integers(1, 20), st.sampled_from([7, 100, 100_000]))
def test_a_compressed_file_has_the_same_documents_whatever_its_blocks(tmp_path_factory, lines, parts, block):
    text = "\n".join(lines).encode()
    path = tmp_path_factory.getbasetemp() / "本文.txt.xz"
    path.write_bytes(b"".join(lzma.compress(text[i : i + block]) for i in range(0, max(1, len(text)), block)))
    assert [found for part in range(parts) for found in blocks(path, part, parts, 1000)] == documents_of(text)


def test_a_part_holds_the_documents_that_begin_in_it(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"1234\n\n7890\n\n3456\n\n")  # 18 bytes, cut after 9
    assert list(blocks(tmp_path / "a.txt", 0, 2, 99)) == [(0, b"1234\n"), (6, b"7890\n")]
    assert list(blocks(tmp_path / "a.txt", 1, 2, 99)) == [(12, b"3456\n")]


def test_a_document_longer_than_a_part_leaves_parts_empty(tmp_path):
    (tmp_path / "a.txt").write_text("長い行\n" * 100 + "\n短い", encoding="utf-8")
    assert [len(list(blocks(tmp_path / "a.txt", part, 10, 99))) for part in range(10)] == [1, *[0] * 8, 1]


def test_documents_are_named_by_file_and_offset(imported, tmp_path):
    (tmp_path / "俳句.txt").write_text(f"\n\n{POEM}\n\n\n「ｶﾅ」😀", encoding="utf-8")
    second = 2 + len(POEM.encode()) + 3
    assert imported(tmp_path / "俳句.txt") == [
        [
            {"id": "俳句.txt:2", "title": "", "text": POEM},
            {"id": f"俳句.txt:{second}", "title": "", "text": "「ｶﾅ」😀"},
        ]
    ]


@pytest.mark.parametrize("text", ["", "\n", " \n\t\n\n", "\u3000\n \u3000"])
def test_a_file_of_nothing_has_no_documents(imported, tmp_path, text):
    (tmp_path / "無.txt").write_text(text, encoding="utf-8")
    assert imported(tmp_path / "無.txt", parts=3) == [[], [], []]


def test_an_xz_file_gives_the_documents_and_ids_of_the_file_in_it(imported, tmp_path):
    (tmp_path / "ja.txt").write_text(f"{POEM}\n\n「ｶﾅ」😀\n\n1,234人", encoding="utf-8")
    for name in ("ja.txt.xz", "ja.xz"):
        (tmp_path / name).write_bytes(lzma.compress((tmp_path / "ja.txt").read_bytes()))
    assert imported(tmp_path / "ja.txt.xz", parts=2) == imported(tmp_path / "ja.txt", parts=2)
    assert [document["id"] for document in imported(tmp_path / "ja.xz")[0]] == ["ja:0", "ja:37", "ja:55"]


def test_a_gigantic_line_is_left_out_without_being_held(imported, tmp_path, caplog):
    giant = "「長い」" * 2_000_000  # 24 MB
    (tmp_path / "a.txt").write_text(f"前の行\n{giant}\n後の行\n\n{giant}\n\n終", encoding="utf-8")
    tracemalloc.start()
    with caplog.at_level(logging.INFO):
        made = imported(tmp_path / "a.txt", parts=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [document["text"] for part in made for document in part] == ["前の行\n後の行", "終"]
    assert peak < 12_000_000
    assert "lines longer than max_line_bytes replaced or removed: 1, the first in a.txt:0" in caplog.text


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["", "短い", "長" * 40, " " * 150, "\u3000" * 20, "\u3000" * 60, " " * 90 + "長" * 40 + " " * 90]
        ),
        max_size=9,
    )
)
def test_which_lines_are_too_long_does_not_depend_on_how_the_file_is_read(tmp_path_factory, lines):
    path = tmp_path_factory.getbasetemp() / "長い行.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    made = set()
    for chunk, parts in itertools.product((3, 64, 1000), (1, 4)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(import_text, "CHUNK", chunk)
            found = [block for part in range(parts) for block in blocks(path, part, parts, 100)]
        made.add(tuple((offset, tidy(block, Counter(), 100)) for offset, block in found))
    assert len(made) == 1


def test_a_file_without_blank_lines_is_refused_before_it_fills_the_memory(imported, tmp_path, monkeypatch):
    monkeypatch.setattr(import_text, "LARGEST", 300)
    (tmp_path / "a.txt").write_text(f"{POEM}\n\n" + "一行に一文。\n" * 20, encoding="utf-8")
    with pytest.raises(Fault, match=r"a\.txt has no blank line in the 300 bytes after byte 37; put one between"):
        imported(tmp_path / "a.txt")


# ---- folders, JSON lines and parquet


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


def test_files_below_train_valid_and_test_have_that_side(imported, tmp_path):
    for name in ("train/a.txt", "valid/深い/b.txt", "test/c.txt", "その他/train/d.txt", "train.txt"):
        (tmp_path / "歌" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "歌" / name).write_text(POEM, encoding="utf-8")
    sides = {document["id"]: document.get("side") for document in imported(tmp_path / "歌")[0]}
    assert sides == {
        "歌/train/a.txt": "train",
        "歌/valid/深い/b.txt": "valid",
        "歌/test/c.txt": "test",
        "歌/その他/train/d.txt": None,
        "歌/train.txt": None,
    }


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
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(lines))
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(lines))
    (plain,) = imported(tmp_path / "a.jsonl")
    assert [document["text"] for document in plain] == [POEM, "ｶﾅ", "終"]
    assert imported(tmp_path / "a.jsonl.zst") == imported(tmp_path / "a.jsonl.xz") == [plain]


@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()])
def test_a_row_of_a_parquet_file_is_a_document(imported, tmp_path, kind):
    texts = pyarrow.array([POEM, None, "「ｶﾅ」😀", "終"], kind)
    parquet.write_table(pyarrow.table({"title": ["俳句", "無", None, "終"], "本文": texts}), tmp_path / "a.parquet")
    assert imported(tmp_path / "a.parquet", config=["--text-column=本文"]) == [
        [
            {"id": "a.parquet:0", "title": "俳句", "text": POEM},
            {"id": "a.parquet:2", "title": "", "text": "「ｶﾅ」😀"},
            {"id": "a.parquet:3", "title": "終", "text": "終"},
        ]
    ]


def test_strings_of_a_parquet_file_that_are_no_utf8_are_mended(imported, tmp_path):
    raw = pyarrow.array([b"\xff" + POEM.encode()])
    parquet.write_table(pyarrow.table({"text": raw.view(pyarrow.string())}), tmp_path / "a.parquet")
    assert imported(tmp_path / "a.parquet")[0][0]["text"] == "\ufffd" + POEM


def test_another_key_of_json_can_have_the_text(imported, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(orjson.dumps({"text": "別", "content": POEM}))
    assert imported(tmp_path / "a.jsonl", config=["--text-column=content"])[0][0]["text"] == POEM


@pytest.mark.parametrize("parts", [2, 3, 8, 50])
def test_documents_and_their_ids_do_not_depend_on_the_number_of_parts(imported, tmp_path, parts):
    texts = [f"第{number}句\n{'長い' * number}" for number in range(20)]
    (tmp_path / "a.txt").write_text("\n\n".join(texts), encoding="utf-8")
    (tmp_path / "b.jsonl").write_bytes(b"\n".join(orjson.dumps({"text": text}) for text in texts))
    (tmp_path / "c").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "c" / f"{number}.txt").write_text(text, encoding="utf-8")
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "d.parquet", row_group_size=7)
    (tmp_path / "e.txt.xz").write_bytes(lzma.compress((tmp_path / "a.txt").read_bytes()))
    paths = [tmp_path / name for name in ("a.txt", "b.jsonl", "c", "d.parquet", "e.txt.xz")]
    (whole,) = imported(*paths)
    assert len(whole) == 100
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
    assert tidy(raw if isinstance(raw, bytes) else raw.encode(), Counter(), 1000) == text


def test_a_text_that_is_tidy_stays_as_it_is():
    text = f"{POEM}\n「ｶﾅ」が1,234、😀"
    assert tidy(text.encode(), Counter(), 1000) == text


def test_bytes_that_are_no_utf8_are_replaced_and_counted_but_not_those_that_were_before():
    counts = Counter()
    assert tidy("文字\ufffd化け".encode() + b"\xff\xfe", counts, 1000) == "文字\ufffd化け\ufffd\ufffd"
    assert +counts == {"bytes that are no UTF-8": 2}


def test_control_characters_are_counted():
    counts = Counter()
    tidy("\0ベル\a\r\n\x7f".encode(), counts, 1000)
    assert +counts == {"control characters": 3}


def test_half_a_surrogate_pair_in_json_is_no_text_and_is_mended(imported, tmp_path):
    whole, half = r"\ud83d\ude00", r"\ud83d"
    (tmp_path / "a.jsonl").write_text(f'{{"text": "{"句" * 30}{half}"}}\n{{"text": "{whole}"}}\n', encoding="utf-8")
    (made,) = imported(tmp_path / "a.jsonl")
    assert [document["text"] for document in made] == ["句" * 30 + "\ufffd", "😀"]


def test_json_with_bytes_that_are_no_utf8_is_mended(imported, tmp_path, caplog):
    (tmp_path / "a.jsonl").write_bytes(b'{"title": "\xff", "text": "\xff' + POEM.replace("\n", "").encode() + b'"}\n')
    with caplog.at_level(logging.INFO):
        assert imported(tmp_path / "a.jsonl") == [
            [{"id": "a.jsonl:1", "title": "?", "text": "\ufffd" + POEM.replace("\n", "")}]
        ]
    assert "bytes that are no UTF-8 replaced or removed: 1, the first in a.jsonl:1" in caplog.text


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b"\xff", "1 bytes that are no UTF-8"),
        (b"\0\a", "2 control characters"),
        ("長".encode() * 400, "1 lines longer than max_line_bytes"),
    ],
)
def test_what_would_be_mended_is_fatal_when_asked(imported, tmp_path, raw, fault):
    (tmp_path / "a.txt").write_bytes(f"{POEM}\n\n{POEM}".encode() + raw)
    with pytest.raises(Fault, match=f"a.txt:37 has {fault}; mend it, or set strict: false"):
        imported(tmp_path / "a.txt", config=["--strict=true", "--max-line-bytes=1000"])


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
    assert "bytes that are no UTF-8 replaced or removed: 1, the first in a.txt:8" in caplog.text
    assert "control characters replaced or removed: 2, the first in a.txt:5" in caplog.text
    assert "3 documents in, 1 documents out; dropped: 2 empty" in caplog.text


# ---- what is refused


def test_a_folder_without_text_is_refused(imported, tmp_path):
    (tmp_path / "空").mkdir()
    with pytest.raises(Fault, match=r"空 has no \.txt files$"):
        imported(tmp_path / "空")
    (tmp_path / "空" / "a.jsonl").touch()
    with pytest.raises(
        Fault, match=r"空 has no \.txt files, but 1 of other kinds \('.*空/a\.jsonl'\); list these themselves"
    ):
        imported(tmp_path / "空")


def test_files_that_a_folder_has_beside_text_are_named_once(imported, tmp_path, caplog):
    (tmp_path / "歌" / "下").mkdir(parents=True)
    for name in ("a.txt", "b.jsonl", "下/c.txt.xz"):
        (tmp_path / "歌" / name).write_text(POEM, encoding="utf-8")
    with caplog.at_level(logging.INFO):
        imported(tmp_path / "歌", parts=3)
    (line,) = [line for line in caplog.messages if "passed over" in line]
    assert "歌: 2 files are passed over" in line and "b.jsonl', " in line and line.endswith("下/c.txt.xz'")


def test_two_paths_with_one_name_are_refused(imported, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "本文.txt").write_text(POEM, encoding="utf-8")
    with pytest.raises(Fault, match=r"/a/本文\.txt and /.*/b/本文\.txt are both called 本文\.txt in ids"):
        imported(tmp_path / "a" / "本文.txt", tmp_path / "b" / "本文.txt")
    with pytest.raises(Fault, match=r"本文\.txt is listed twice in paths; remove one"):
        imported(*[tmp_path / "a" / "本文.txt"] * 2)


@pytest.mark.parametrize("name", ["ja.txt.gz", "ja.tar.xz", "ja.parquet.zst"])
def test_a_file_of_another_kind_is_refused(imported, tmp_path, name):
    (tmp_path / name).write_bytes(b"?")
    with pytest.raises(Fault, match=f"{name} is no folder, .txt, .xz, .jsonl, .jsonl.zst or .parquet file"):
        imported(tmp_path / name)


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "nothing"])
def test_a_damaged_xz_file_is_refused(imported, tmp_path, damage):
    whole = bytearray(lzma.compress(POEM.encode() * 100))
    flipped = whole[:40] + bytes([whole[40] ^ 8]) + whole[41:]
    damaged = {"cut": whole[:-4], "flipped": flipped, "other": POEM.encode(), "nothing": b""}[damage]
    (tmp_path / "ja.txt.xz").write_bytes(damaged)
    with pytest.raises(Fault, match=r"ja\.txt\.xz is no whole \.xz file .* fetch it again"):
        imported(tmp_path / "ja.txt.xz")


def test_a_parquet_file_without_such_a_column_is_refused_with_those_it_has(imported, tmp_path):
    parquet.write_table(pyarrow.table({"url": ["a"], "本文": [POEM]}), tmp_path / "a.parquet")
    with pytest.raises(Fault, match=r"a\.parquet has no column 'text'; set text_column to one of: url, 本文"):
        imported(tmp_path / "a.parquet")


@pytest.mark.parametrize("content", [b"", b"PAR1", None])
def test_what_is_no_parquet_of_text_is_refused(imported, tmp_path, content):
    parquet.write_table(pyarrow.table({"text": [[1], [2]]}), tmp_path / "a.parquet")
    if content is not None:
        (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(Fault, match=r"a\.parquet cannot be read as parquet with a column 'text' of text"):
        imported(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"text": "「', "no JSON"),
        ('["古池や"]', r"no JSON object \({…}\) with a key 'text'"),
    ],
)
def test_a_line_without_a_text_is_named(imported, tmp_path, line, fault):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "{"句"}"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(Fault, match=rf"a\.jsonl: line 2 is {fault}"):
        imported(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"txt": "古池や", "題": ""}', "has no key 'text'; set text_column to one of: txt, 題"),
        ('{"text": 1234}', r"has no text under 'text' \(text_column\), but 1234"),
    ],
)
def test_a_line_with_its_text_elsewhere_is_met_with_its_keys(imported, tmp_path, line, fault):
    (tmp_path / "a.jsonl").write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(Fault, match=rf"a\.jsonl: line 1 {fault}$"):
        imported(tmp_path / "a.jsonl")


def test_another_encoding_is_refused_behind_a_large_file_too(imported, tmp_path):
    (tmp_path / "a.txt").write_text("吾輩は猫である。\n" * 1000, encoding="utf-8")
    (tmp_path / "sjis.txt").write_bytes("吾輩は猫である。名前はまだ無い。\n".encode("cp932") * 3)
    with pytest.raises(Fault, match=r"sjis\.txt is no UTF-8"):
        imported(tmp_path / "a.txt", tmp_path / "sjis.txt")


def test_a_truncated_file_is_refused(imported, tmp_path):
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(b'{"text": "1,234"}\n')[:-1])
    with pytest.raises(Fault, match=r"a\.jsonl\.zst ends in the middle; fetch or make it anew"):
        imported(tmp_path / "a.jsonl.zst")


def test_a_file_name_that_is_no_utf8_is_refused(imported, tmp_path):
    (tmp_path / "歌").mkdir()
    (tmp_path / "歌" / os.fsdecode("俳句.txt".encode("cp932"))).write_text(POEM, encoding="utf-8")
    with pytest.raises(Fault, match=r"name of .* is no UTF-8 .*rename it"):
        imported(tmp_path / "歌")
