import logging
import subprocess

import pytest

from jalm.config import Filter
from jalm.formats import documents
from jalm.stages import filter


def test_the_bounds_belong_to_what_is_kept():
    config = Filter(min_characters=3, max_characters=5)
    faults = [filter.fault("字" * length, config) for length in range(2, 7)]
    assert faults == ["shorter than min_characters", None, None, None, "longer than max_characters"]


def test_length_is_counted_in_characters_not_bytes():
    assert filter.fault("ｶﾞ😀", Filter(min_characters=3, max_characters=3)) is None


def test_nothing_at_all_can_be_kept():
    assert filter.fault("", Filter(min_characters=0)) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ｶﾞｷﾞｸﾞ、123", "ガギグ、１２３"),
        ("一行目。\n二行目", "一行目。　二行目\t "),
        ("㍿㌔①", "株式会社キロ1"),
        ("\u304b\u3099", "が"),
    ],
)
def test_texts_that_differ_in_width_form_or_white_space_share_a_signature(one, other):
    assert filter.signature(one) == filter.signature(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("江戸時代。", "江戸時代"),
        ("「はい」", "『はい』"),
        ("あ", "ア"),
        ("ハハ", "パパ"),
        ("JALM", "jalm"),
        ("1,234人", "1234人"),
        ("終わり😀", "終わり"),
    ],
)
def test_texts_that_differ_in_anything_else_do_not(one, other):
    assert filter.signature(one) != filter.signature(other)


def test_a_signature_is_a_digest_of_128_bits_that_any_program_can_repeat():
    told = subprocess.run(["b2sum", "-l", "128"], input="「ガ」株式会社".encode(), capture_output=True, check=True)
    assert filter.signature("「ｶﾞ」 ㍿\n") == told.stdout.split()[0].decode()


def test_each_document_is_kept_and_signed_or_dropped_with_its_reason(tmp_path, caplog):
    some = [
        {"id": 1, "title": "猫", "paragraphs": [["吾輩は猫である。", "名前はまだ無い。"]], "source": "試験"},
        {"id": 2, "title": "短い", "paragraphs": [["終"]]},
        {"id": 3, "title": "長い", "paragraphs": [["長" * 50], ["い" * 50]]},
        {"id": 4, "title": "複写", "paragraphs": [["吾輩は猫である｡"], ["名前はまだ無い｡"]]},
    ]
    taken, kept, dropped, signatures = (tmp_path / f"{name}.jsonl.zst" for name in "abcd")
    with documents.writing(taken) as writer:
        for document in some:
            writer.write(document)
    with caplog.at_level(logging.INFO):
        files = ["--output", str(kept), "--dropped", str(dropped), "--signatures", str(signatures)]
        filter.main(["--min-characters", "2", "--max-characters", "100", "--input", str(taken), *files])
    assert list(documents.read(kept)) == [some[0], some[3]]
    assert list(documents.read(dropped)) == [
        {"id": 2, "title": "短い", "reason": "shorter than min_characters", "characters": 1},
        {"id": 3, "title": "長い", "reason": "longer than max_characters", "characters": 101},
    ]
    first, fourth = documents.read(signatures)
    assert [first["id"], fourth["id"]] == [1, 4]
    assert first["signature"] == fourth["signature"]
    assert "4 documents in, 2 documents out" in caplog.text
    assert "1 shorter than min_characters, 1 longer than max_characters" in caplog.text
