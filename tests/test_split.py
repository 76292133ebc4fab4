import json
import logging
import random
from pathlib import Path

import pytest

from jalm.config import SIDES, Split
from jalm.formats import documents, sides
from jalm.stages.split import main


def write(path: Path, some) -> None:
    with documents.writing(path) as writer:
        for document in some:
            writer.write(document)


@pytest.fixture
def split(tmp_path):
    """Run the stage on documents; returns those of each side, and the counts."""

    def run(some, drop=(), config=()):
        write(tmp_path / "input.jsonl.zst", some)
        write(tmp_path / "drop.jsonl.zst", [{"id": name, "repeats": 0, "reason": "near another"} for name in drop])
        paths = {name: tmp_path / f"{name}.jsonl.zst" for name in ("input", "drop", *SIDES)}
        paths["counts"] = tmp_path / "counts.json"
        main([*config, *(word for name, path in paths.items() for word in (f"--{name}", str(path)))])
        made = {name: list(documents.read(paths[name])) for name in SIDES}
        return made, json.loads(paths["counts"].read_text(encoding="utf-8"))

    return run


def page(number: int) -> dict:
    return {"id": number, "title": f"第{number}条", "paragraphs": [[f"第{number}条。"]]}


def test_an_article_stays_on_its_side_when_the_dump_grows_and_changes_its_order(split):
    config = ["--valid-fraction", "0.2", "--test-fraction", "0.2"]
    before, _ = split(map(page, range(200)), config=config)
    after, _ = split(map(page, random.Random(1).sample(range(500), 500)), config=config)
    for name in SIDES:
        ids = {document["id"] for document in before[name]}
        assert ids == {document["id"] for document in after[name] if document["id"] < 200}
        assert ids


def test_every_document_is_on_one_side_unless_it_is_a_duplicate(split, caplog):
    some = [page(number) for number in range(100)]
    with caplog.at_level(logging.INFO):
        made, _ = split(some, drop=[7, 70, 1000], config=["--valid-fraction", "0.3", "--test-fraction", "0.3"])
    found = sorted((document for name in SIDES for document in made[name]), key=lambda document: document["id"])
    assert found == [document for document in some if document["id"] not in (7, 70)]
    assert "100 documents in" in caplog.text
    assert "dropped: 2 near another" in caplog.text


def test_a_document_that_came_with_a_side_stays_on_it(split):
    made, _ = split([page(number) | {"side": SIDES[number % 3]} for number in range(30)])
    assert {name: [document["id"] % 3 for document in made[name]] for name in SIDES} == {
        name: [place] * 10 for place, name in enumerate(SIDES)
    }


def test_the_counts_are_those_of_the_documents(split):
    text = [
        ["吾輩は猫である。", "名前はまだ無い"],
        ["ｶﾅ😀"],
    ]  # 3 sentences; 8 + 7 + 1 + 3 characters, the emoji has 4 bytes
    _, counts = split([{"id": number, "title": "猫", "paragraphs": text} for number in range(50)])
    each = {"documents": 1, "sentences": 3, "characters": 19, "bytes": 15 * 3 + 1 + 2 * 3 + 4}
    for name in SIDES:
        held = sum(sides.drawn(number, **dict(Split())) == name for number in range(50))
        assert counts["out"][name] == {key: held * value for key, value in each.items()}
    assert sum(counts["out"][name]["documents"] for name in SIDES) == 50
    assert counts["dropped"] == {}


def test_what_is_dropped_is_counted_by_its_reason(split):
    _, counts = split(map(page, range(100)), drop=[7, 70])
    assert counts["dropped"] == {
        "near another": {"documents": 2, "sentences": 2, "characters": 4 + 5, "bytes": 10 + 11},
    }


def test_a_document_that_came_with_a_side_keeps_it(split):
    own = [page(number) | {"side": SIDES[number % 3]} for number in range(30)]
    made, _ = split(own)
    for place, name in enumerate(SIDES):
        assert [document["id"] for document in made[name]] == list(range(place, 30, 3))
