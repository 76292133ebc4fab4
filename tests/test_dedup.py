import logging

import pytest

from jalm.formats import documents
from jalm.stages import dedup


@pytest.fixture
def drops(tmp_path):
    """What dedup drops from files of (id, text) pairs, given those of earlier corpora."""

    def signed(files, corpus):
        for number, pairs in enumerate(files):
            path = tmp_path / f"{corpus}{number}.jsonl.zst"
            with documents.writing(path) as writer:
                for name, text in pairs:
                    writer.write({"id": name, "signature": text.encode().hex()})
            yield str(path)

    def run(*own, earlier=(), exact=True):
        output = tmp_path / "drop.jsonl.zst"
        files = ["--input", *signed(own, "own"), "--earlier", *signed(earlier, "earlier"), "--output", str(output)]
        dedup.main(["--exact", str(exact).lower(), *files])
        return {entry["id"]: entry["repeats"] for entry in documents.read(output)}

    return run


def test_of_equal_documents_the_first_stays(drops):
    assert drops([(1, "猫"), (2, "犬"), (3, "猫"), (4, "猫")]) == {3: 1, 4: 1}


def test_the_parts_of_a_corpus_are_one_corpus(drops):
    assert drops([(1, "猫"), (2, "犬")], [(3, "鳥"), (4, "犬")], [(5, "鳥")]) == {4: 2, 5: 3}


def test_a_document_of_an_earlier_corpus_wins(drops):
    earlier = [[("歌.txt:0", "猫")], [("歌.txt:9", "犬"), ("歌.txt:18", "猫")]]
    assert drops([(1, "鳥"), (2, "猫"), (3, "犬")], earlier=earlier) == {2: "歌.txt:0", 3: "歌.txt:9"}


def test_what_only_earlier_corpora_repeat_is_not_dropped_here(drops):
    assert drops([(1, "鳥")], earlier=[[(2, "猫"), (3, "猫")]]) == {}


def test_nothing_is_dropped_when_the_search_is_off(drops):
    assert drops([(1, "猫"), (2, "猫")], earlier=[[(3, "猫")]], exact=False) == {}


def test_the_closing_line_counts_the_repeated(drops, caplog):
    with caplog.at_level(logging.INFO):
        drops([(1, "猫"), (2, "猫"), (3, "犬")])
    assert "3 documents in, 2 documents out; dropped: 1 repeated" in caplog.text
