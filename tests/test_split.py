import json
import logging
import random
import subprocess
from pathlib import Path

import pytest

from jalm.config import SIDES, Split
from jalm.formats import documents
from jalm.stages.split import main, side


def write(path: Path, some) -> None:
    with documents.writing(path) as writer:
        for document in some:
            writer.write(document)


@pytest.fixture
def split(tmp_path):
    """Run the stage on documents; returns those of each side, and the counts."""

    def run(some, drop=(), config=()):
        write(tmp_path / "input.jsonl.zst", some)
        write(tmp_path / "drop.jsonl.zst", [{"id": name, "repeats": 0} for name in drop])
        paths = {name: tmp_path / f"{name}.jsonl.zst" for name in ("input", "drop", *SIDES)}
        paths["counts"] = tmp_path / "counts.json"
        main([*config, *(word for name, path in paths.items() for word in (f"--{name}", str(path)))])
        made = {name: list(documents.read(paths[name])) for name in SIDES}
        return made, json.loads(paths["counts"].read_text(encoding="utf-8"))

    return run


def blake2b(text: str) -> int:
    """BLAKE2b of a text, 64 bits, by coreutils."""
    told = subprocess.run(["b2sum", "-l", "64"], input=text.encode(), capture_output=True, check=True)
    return int(told.stdout.split()[0], 16)


@pytest.mark.parametrize("name", [1003, 2012, "歌 1.txt:18", "「ｶﾅ」/😀.txt"])
def test_the_side_is_decided_by_a_digest_that_any_program_can_repeat(name):
    share = blake2b(f"俳句:{name}") / 2**64
    want = "valid" if share < 0.25 else "test" if share < 0.25 + 0.375 else "train"
    assert side(name, Split(valid_fraction=0.25, test_fraction=0.375, salt="俳句")) == want


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


def test_the_sides_have_the_shares_that_are_configured():
    count, shares = 20_000, {"valid": 0.1, "test": 0.25, "train": 0.65}
    sides = [side(number, Split(valid_fraction=0.1, test_fraction=0.25)) for number in range(count)]
    for name, share in shares.items():
        deviation = (count * share * (1 - share)) ** 0.5
        assert abs(sides.count(name) - count * share) < 4 * deviation


def test_another_salt_draws_other_articles():
    one, other = (Split(valid_fraction=0.2, salt=salt) for salt in ("俳句", "短歌"))
    both = sum(side(number, one) == side(number, other) == "valid" for number in range(10_000))
    assert abs(both - 10_000 * 0.2**2) < 4 * (10_000 * 0.04 * 0.96) ** 0.5  # as many as chance gives


def test_a_larger_share_takes_in_what_the_smaller_one_had():
    smaller, larger = (Split(valid_fraction=share, test_fraction=0.1) for share in (0.1, 0.2))
    held = {number for number in range(2000) if side(number, smaller) == "valid"}
    assert held < {number for number in range(2000) if side(number, larger) == "valid"}


def test_every_document_is_on_one_side_unless_it_is_a_duplicate(split, caplog):
    some = [page(number) for number in range(100)]
    with caplog.at_level(logging.INFO):
        made, _ = split(some, drop=[7, 70, 1000], config=["--valid-fraction", "0.3", "--test-fraction", "0.3"])
    found = sorted((document for name in SIDES for document in made[name]), key=lambda document: document["id"])
    assert found == [document for document in some if document["id"] not in (7, 70)]
    assert "100 documents in" in caplog.text
    assert "dropped: 2 duplicates" in caplog.text


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
        held = sum(side(number, Split()) == name for number in range(50))
        assert counts[name] == {key: held * value for key, value in each.items()}
    assert sum(counts[name]["documents"] for name in SIDES) == 50
