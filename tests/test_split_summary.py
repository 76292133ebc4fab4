import json
import logging

import pytest

from jalm.stages.split_summary import EmptySide, main, total


def counts(train: int, valid: int, test: int) -> dict:
    sizes = {"train": train, "valid": valid, "test": test}
    return {
        name: {"documents": n, "sentences": 2 * n, "characters": 30 * n, "bytes": 90 * n} for name, n in sizes.items()
    }


def test_the_sums_are_those_of_all_parts():
    assert total([counts(5, 1, 0), counts(1000, 0, 2), counts(0, 0, 0)]) == counts(1005, 1, 2)


@pytest.mark.parametrize(
    ("parts", "empty"),
    [
        ([counts(5, 0, 1), counts(4, 0, 0)], "valid"),
        ([counts(5, 2, 0), counts(3, 0, 0)], "test"),
        ([counts(5, 0, 0), counts(5, 0, 0)], "valid and test"),
    ],
)
def test_an_empty_side_is_refused_with_the_knobs_that_fill_it(parts, empty):
    with pytest.raises(EmptySide, match=rf"^{empty} would be empty: 10 documents .*split\.valid_fraction") as refusal:
        total(parts)
    assert "split.test_fraction" in str(refusal.value)
    assert "split.salt" in str(refusal.value)


def test_the_summary_is_written_and_logged(tmp_path, caplog):
    paths = [tmp_path / "000.json", tmp_path / "001.json"]
    for path, part in zip(paths, [counts(1999, 1, 0), counts(0, 0, 1)], strict=True):
        path.write_text(json.dumps(part), encoding="utf-8")
    with caplog.at_level(logging.INFO):
        main(["--input", *map(str, paths), "--output", str(tmp_path / "summary.json")])
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")) == counts(1999, 1, 1)
    assert "2 parts in, train: 1,999 documents, 59,970 characters" in caplog.text


def test_nothing_is_written_when_a_side_is_empty(tmp_path):
    (tmp_path / "000.json").write_text(json.dumps(counts(9, 9, 0)), encoding="utf-8")
    with pytest.raises(EmptySide):
        main(["--input", str(tmp_path / "000.json"), "--output", str(tmp_path / "summary.json")])
    assert [path.name for path in tmp_path.iterdir()] == ["000.json"]
