import copy
import json

import pytest

from jalm.formats import changelog

OLD = {
    "model": "gpt2-20261001",
    "made": "2026-10-05T07:21:57+00:00",
    "revision": "a" * 40,
    "corpora": [
        {"name": "jawiki-20261001", "account": {"split": {"out": {"train": {"documents": 1400}}}}},
        {"name": "essays", "account": None},
    ],
    "tokenizer": {"sha256": "00"},
    "training": {"tokens": 1_000_000},
    "config": {"learning_rate": 0.001, "seed": 1},
}
NEW = copy.deepcopy(OLD) | {
    "model": "gpt2-20261101",
    "made": "2026-11-05T07:21:57+00:00",
    "training": {"tokens": 2_000_000},
}
NEW["corpora"][0] |= {"name": "jawiki-20261101", "account": {"split": {"out": {"train": {"documents": 1420}}}}}
NEW["config"] = {"learning_rate": 0.002, "seed": 1, "optim": "muon"}
BEFORE = [{"test_set": "jawiki-20261001", "perplexity": 30.0, "bits_per_character": 1.5}]
AFTER = [
    {"test_set": "jawiki-20261101", "perplexity": 29.0, "bits_per_character": 1.25},
    {"test_set": "novels", "perplexity": 60.0},
]


@pytest.fixture
def earlier(tmp_path):
    """Makes the folder of an earlier model."""

    def make(provenance=OLD, evaluations=BEFORE):
        folder = tmp_path / "gpt2-20261001"
        folder.mkdir()
        for name, content in (("provenance", provenance), ("evaluation", evaluations)):
            if content is not None:
                (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        return folder

    return make


def test_an_entry_says_what_is_new_and_nothing_else(earlier):
    text = changelog.write(earlier(), NEW, AFTER)
    assert text.startswith("# Changelog\n\n## gpt2-20261101\n\n2026-11-05. Takes the place of gpt2-20261001.\n")
    assert [line for line in text.splitlines() if line.startswith("- ")] == [
        "- jawiki-20261001 → jawiki-20261101: articles in train 1,400 → 1,420",
        "- the same tokenizer",
        "- tokens seen: 1,000,000 → 2,000,000",
        "- `learning_rate`: 0.001 → 0.002",
        '- `optim`: null → "muon"',
    ]
    assert "| jawiki-20261001 → jawiki-20261101 | bits per character | 1.500 | 1.250 |" in text
    assert "not the same articles" in text
    assert "novels" not in text


def test_figures_on_the_same_articles_go_before_those_of_another_date(earlier):
    both = [*BEFORE, {"test_set": "jawiki-20261101", "perplexity": 31.0}]
    text = changelog.write(earlier(evaluations=both), NEW, AFTER)
    assert "| jawiki-20261101 | perplexity | 31.00 | 29.00 |" in text
    assert "not the same articles" not in text


def test_what_the_older_folder_does_not_tell_is_said_to_be_so(earlier):
    text = changelog.write(earlier(provenance=None, evaluations=None), NEW, AFTER)
    assert "gpt2-20261001 has no provenance.json: what it was made from is not known." in text
    assert "No figure of both can be compared." in text


def test_corpora_that_come_and_go_and_another_tokenizer_are_told(earlier):
    new = copy.deepcopy(NEW) | {"tokenizer": {"sha256": "11"}, "revision": ""}
    new["corpora"][1]["name"] = "novels"
    old = copy.deepcopy(OLD) | {"training": {}, "config": {}}
    text = changelog.write(earlier(provenance=old), new, AFTER)
    for line in ("- novels: new", "- essays: no longer", "- tokens seen: not recorded → 2,000,000"):
        assert line in text.splitlines()
    assert "another tokenizer: ids, and perplexities, cannot be compared" in text
    assert f"- code: {'a' * 12} → not recorded" in text
    dirty = changelog.changes(OLD, {**OLD, "revision": f"{'a' * 40}-dirty"})
    assert dirty[-1] == "code: aaaaaaaaaaaa → aaaaaaaaaaaa-dirty"
    assert "learning_rate" not in text


def test_the_log_grows(earlier):
    folder = earlier()
    (folder / "CHANGELOG.md").write_text("# Changelog\n\n## gpt2-20261001\n\n最初の改訂\n", encoding="utf-8")
    text = changelog.write(folder, NEW, AFTER)
    assert text.count("# Changelog\n") == 1
    assert text.endswith("\n\n## gpt2-20261001\n\n最初の改訂\n")
