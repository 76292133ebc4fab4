import itertools
import os

import pytest
import zstandard

from jalm.formats import documents

DOCUMENTS = [
    {
        "id": 5,
        "revision": 7,
        "sha1": "phoiac9h4m842xq45sp7s6u21eteeq1",
        "title": "「『江戸』」",
        "text": "彼は「『江戸』へ行く。」と\n1,234,567人",
    },
    {"id": "ｶﾅ.txt:0", "title": "", "text": ""},
    {"id": 6, "title": "😀", "paragraphs": [["ｶﾞｷﾞｸﾞ。", "句点のない終わり"], []]},
    {"id": 7, "title": "長い行", "text": "".join(chr(0x4E00 + 7919 * i % 20000) for i in range(5000))},
]


def write(path, some):
    with documents.writing(path) as writer:
        for document in some:
            writer.write(document)
    return writer


def test_what_is_written_is_read_again_and_counted(tmp_path):
    path = tmp_path / "文書.jsonl.zst"
    writer = write(path, DOCUMENTS)
    assert list(documents.read(path)) == DOCUMENTS
    assert writer.count == 4


def test_equal_documents_give_equal_bytes(tmp_path):
    write(tmp_path / "a.jsonl.zst", DOCUMENTS)
    write(tmp_path / "b.jsonl.zst", DOCUMENTS)
    assert (tmp_path / "a.jsonl.zst").read_bytes() == (tmp_path / "b.jsonl.zst").read_bytes()


def test_a_file_of_no_documents_is_whole(tmp_path):
    write(tmp_path / "none.jsonl.zst", [])
    assert list(documents.read(tmp_path / "none.jsonl.zst")) == []


def test_files_put_after_one_another_are_one_file(tmp_path):
    write(tmp_path / "a.jsonl.zst", DOCUMENTS)
    (tmp_path / "b.jsonl.zst").write_bytes(2 * (tmp_path / "a.jsonl.zst").read_bytes())
    assert list(documents.read(tmp_path / "b.jsonl.zst")) == DOCUMENTS + DOCUMENTS


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_where_the_reads_are_cut_does_not_matter(tmp_path, monkeypatch, size):
    write(tmp_path / "a.jsonl.zst", DOCUMENTS)
    (tmp_path / "b.jsonl.zst").write_bytes(2 * (tmp_path / "a.jsonl.zst").read_bytes())
    monkeypatch.setattr(documents, "CHUNK", size)
    assert list(documents.read(tmp_path / "b.jsonl.zst")) == DOCUMENTS + DOCUMENTS


def test_a_last_line_without_an_end_is_read(tmp_path):
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress('{"id":1}\n{"id":"二"}'.encode()))
    assert [document["id"] for document in documents.read(tmp_path / "a.jsonl.zst")] == [1, "二"]


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    write(path, DOCUMENTS[:3])
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(documents.DocumentError, match=r"a\.jsonl\.zst .*remove it"):
            list(documents.read(path))


def test_a_second_frame_that_is_cut_off_is_missed(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    write(path, DOCUMENTS)
    path.write_bytes((2 * path.read_bytes())[:-1])
    with pytest.raises(documents.DocumentError, match="ends in the middle"):
        list(documents.read(path))


def test_a_flipped_bit_never_passes_for_another_document(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    write(path, DOCUMENTS[:3])
    whole = path.read_bytes()
    refused = 0
    with open(path, "r+b", buffering=0) as file:
        for place, bit in itertools.product(range(len(whole)), range(8)):
            os.pwrite(file.fileno(), bytes([whole[place] ^ 1 << bit]), place)
            try:
                assert list(documents.read(path)) == DOCUMENTS[:3]
            except documents.DocumentError:
                refused += 1
            os.pwrite(file.fileno(), whole[place : place + 1], place)
    assert refused > 0.95 * 8 * len(whole)  # a few bits say nothing about the content


def test_a_line_that_is_no_json_is_named_with_its_file(tmp_path):
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress('{"id":1}\n{"id":"「'.encode()))
    with pytest.raises(documents.DocumentError, match=r"a\.jsonl\.zst: line 2 is no JSON"):
        list(documents.read(tmp_path / "a.jsonl.zst"))


def test_the_text_of_a_segmented_document_is_its_sentences_joined():
    segmented = {"paragraphs": [["彼は「はい。」と言った。", "　終わり"], [], ["1,234人"]]}
    assert documents.text(segmented) == "彼は「はい。」と言った。　終わり\n\n1,234人"
    assert documents.text({"text": "終わり\n\n"}) == "終わり\n\n"
