import json
import logging

import pytest

from jalm.stages.split_summary import EmptySide, checked, main


def sizes(n: int) -> dict:
    return {"documents": n, "sentences": 2 * n, "characters": 30 * n, "bytes": 90 * n}


def sides(train: int, valid: int, test: int) -> dict:
    return {"train": sizes(train), "valid": sizes(valid), "test": sizes(test)}


@pytest.fixture
def summarise(tmp_path):
    """Run the stage on the counts of two parts; returns what it made, by file name."""

    def write(name, content):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
        return str(tmp_path / name)

    def run(*parts):
        intake = [
            {"in": 1500, "out": 1401, "dropped": {"redirects": 99}},
            {"in": 812, "out": 802, "dropped": {"redirects": 3, "empty articles": 7, "failed articles": 0}},
        ]
        short, tabular = {"shorter than min_characters": sizes(150)}, {"fewer letters than min_letters": sizes(50)}
        filtered = [
            {"in": sizes(1401), "out": sizes(1251), "dropped": short},
            {"in": sizes(802), "out": sizes(752), "dropped": tabular},
        ]
        dedup = {"contamination": {"before": {"train": 2, "valid": 1}, "after": {"train": 0, "valid": 0}}}
        split = [{"out": out, "dropped": {"near another": sizes(1)}} for out in parts]
        counts = {"intake": intake, "filter": filtered, "dedup": [dedup], "split": split}
        files = []
        for stage, contents in counts.items():
            files += [f"--{stage}", *(write(f"{stage}{n}.json", content) for n, content in enumerate(contents))]
        made = {name: tmp_path / "made" / name for name in ("summary.json", "account.json", "account.md")}
        options = zip(("--output", "--account", "--table"), made.values(), strict=True)
        main(["--name", "jawiki-20261101", *files, *(str(word) for pair in options for word in pair)])
        return {name: path.read_text(encoding="utf-8") for name, path in made.items()}

    return run


@pytest.mark.parametrize(
    ("made", "empty"), [(sides(9, 0, 1), "valid"), (sides(8, 2, 0), "test"), (sides(10, 0, 0), "valid and test")]
)
def test_an_empty_side_is_refused_with_the_knobs_that_fill_it(made, empty):
    with pytest.raises(EmptySide, match=rf"^{empty} would be empty: 10 documents .*split\.valid_fraction") as refusal:
        checked({"split": {"out": made}})
    assert "split.test_fraction" in str(refusal.value)
    assert "split.salt" in str(refusal.value)


def test_a_corpus_of_which_nothing_is_left_is_refused_with_where_it_went(summarise):
    with pytest.raises(
        EmptySide, match="no document is left: 2,312 came in, and were dropped: 150 shorter than"
    ) as refusal:
        summarise(sides(0, 0, 0))
    assert "; 102 redirects; 50 fewer letters than min_letters; 7 empty articles; 1 near another;" in str(refusal.value)
    with pytest.raises(EmptySide, match="no document is left: 0 came in; look at the corpus itself"):
        nothing = {"in": 0, "dropped": {}}
        checked({"intake": nothing, "filter": nothing, "split": {"out": sides(0, 0, 0), "dropped": {}}})


def test_the_summary_adds_up_all_parts_and_is_logged(summarise, caplog):
    with caplog.at_level(logging.INFO):
        made = summarise(sides(1249, 1, 0), sides(750, 0, 1))
    assert json.loads(made["summary.json"]) == sides(1999, 1, 1)
    assert "2 parts in, train: 1,999 documents, 59,970 characters" in caplog.text


def test_the_account_follows_the_documents_through_every_stage(summarise):
    account = json.loads(summarise(sides(1249, 1, 0), sides(750, 0, 1))["account.json"])
    assert account["intake"] == {
        "in": 2312,
        "out": 2203,
        "dropped": {"redirects": 102, "empty articles": 7, "failed articles": 0},
    }
    assert account["filter"]["in"] == sizes(2203)
    assert account["filter"]["out"] == sizes(2003)
    assert account["filter"]["dropped"]["shorter than min_characters"] == sizes(150)
    assert account["dedup"]["contamination"]["before"] == {"train": 2, "valid": 1}
    assert account["split"]["out"] == sides(1999, 1, 1)
    assert account["split"]["dropped"] == {"near another": sizes(2)}


def test_the_table_says_the_same_for_reading(summarise):
    lines = summarise(sides(1249, 1, 0), sides(750, 0, 1))["account.md"].splitlines()
    assert lines[0] == "# jawiki-20261101"
    for row in (
        "| – redirects | 102 | – | – |",
        "| cut into sentences | 2,203 | 4,406 | 66,090 |",
        "| – fewer letters than min_letters | 50 | 100 | 1,500 |",
        "| – near another | 2 | 4 | 60 |",
        "| train | 1,999 | 3,998 | 59,970 |",
        "| train | 2 | 0 |",
    ):
        assert row in lines
    assert not any("failed articles" in line for line in lines)


def test_nothing_is_written_when_a_side_is_empty(summarise, tmp_path):
    with pytest.raises(EmptySide):
        summarise(sides(9, 9, 0), sides(1, 0, 0))
    assert not (tmp_path / "made").exists()
