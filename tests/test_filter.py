import json
import logging
from typing import get_args

import pytest
import yaml

from jalm.config import Filter, HojiChar
from jalm.configfile import PRESETS
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


PROSE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"


@pytest.mark.parametrize(
    ("text", "knob", "value", "reason"),
    [
        ("一。\n二。\n一。\n一。", "dup_line_frac", 0.49, "more repeated lines than dup_line_frac"),
        (
            "ああああ\n短\nああああ",
            "char_duplicates_ratio",
            0.36,
            "more text in repeated lines than char_duplicates_ratio",
        ),
        (
            "買い物\n「はい。」😀\n本当！？",
            "line_punct_thr",
            0.67,
            "fewer lines that end as sentences than line_punct_thr",
        ),
        ("一\n二\n三", "new_line_ratio", 0.39, "more line ends than new_line_ratio"),
        ("電話03-1234", "min_letters", 0.23, "fewer letters than min_letters"),
        ("子曰、ガッコー也", "min_kana", 0.51, "less kana than min_kana"),
        ("草" * 1000, "min_compression_ratio", 0.1, "more repetitive than min_compression_ratio"),
        ("猫", "max_compression_ratio", 3, "less compressible than max_compression_ratio"),
    ],
)
def test_each_rule_names_the_knob_that_a_text_breaks_and_only_when_it_is_set(text, knob, value, reason):
    off = Filter(min_characters=0)
    assert filter.fault(text, off) is None
    assert filter.fault(text, off.model_copy(update={knob: value})) == reason


@pytest.mark.parametrize(
    ("text", "knob", "value"),
    [
        ("一。\n二。\n一。\n一。", "dup_line_frac", 0.5),
        ("ああああ\n短\nああああ", "char_duplicates_ratio", 0.37),
        ("買い物\n「はい。」😀\n本当！？", "line_punct_thr", 0.66),
        ("一\n二\n三", "new_line_ratio", 0.4),
        ("電話03-1234", "min_letters", 0.22),
        ("子曰、ガッコー也", "min_kana", 0.5),
    ],
)
def test_a_text_at_the_bound_of_a_rule_passes(text, knob, value):
    assert filter.fault(text, Filter(min_characters=0, **{knob: value})) is None


def test_an_empty_line_is_no_repeated_line():
    assert filter.fault("一。\n\n\n\n二。", Filter(min_characters=0, dup_line_frac=0.0)) is None


def test_hojichar_judges_by_the_filters_that_are_asked_for():
    judges = filter.hojichar(["AcceptJapanese", "DiscardRareKuten"])
    config = Filter(min_characters=0)
    assert filter.fault("This is English. " * 5, config, judges) == "HojiChar's AcceptJapanese"
    assert filter.fault("あ" * 101, config, judges) == "HojiChar's DiscardRareKuten"
    assert filter.fault(PROSE, config, judges) is None


@pytest.mark.parametrize("name", get_args(HojiChar))
def test_every_filter_of_hojichar_that_can_be_named_exists_and_takes_japanese_prose(name):
    assert filter.fault(PROSE, Filter(min_characters=0), filter.hojichar([name])) is None


def test_the_presets_keep_articles_and_prose_and_drop_what_is_none(shared):
    presets = {
        name: Filter(**yaml.safe_load((PRESETS / "filter" / f"{name}.yaml").read_text(encoding="utf-8")))
        for name in ("wikipedia", "web")
    }

    def kept(corpus: str, preset: str) -> float:
        texts = [d["text"] for d in documents.read(shared / f"data/text/{corpus}.jsonl.zst")][:400]
        texts = [text for text in texts if len(text) >= 100]
        return sum(filter.fault(text, presets[preset]) is None for text in texts) / len(texts)

    assert kept("jawiki_jaquad", "wikipedia") > 0.99
    assert kept("aozora", "web") > 0.9
    menu = "\n".join(f"商品{number} ¥{number * 137}（税込）" for number in range(100))
    assert filter.fault(menu, presets["web"])
    assert filter.fault("あああああ" * 100, presets["web"])


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
        files += ["--counts", str(tmp_path / "counts.json")]
        filter.main(["--min-characters", "2", "--max-characters", "100", "--input", str(taken), *files])
    assert list(documents.read(kept)) == [some[0], some[3]]
    assert list(documents.read(dropped)) == [
        {"id": 2, "title": "短い", "reason": "shorter than min_characters", "characters": 1, "text": "終"},
        {
            "id": 3,
            "title": "長い",
            "reason": "longer than max_characters",
            "characters": 101,
            "text": "長" * 50 + "\n" + "い" * 50,
        },
    ]
    first, fourth = documents.read(signatures)
    assert [first["id"], fourth["id"]] == [1, 4]
    assert first["digest"] == fourth["digest"]
    assert first["minhash"] == fourth["minhash"]
    counts = json.loads((tmp_path / "counts.json").read_text(encoding="utf-8"))
    assert counts["in"] == {"documents": 4, "sentences": 7, "characters": 16 + 1 + 101 + 17, "bytes": 48 + 3 + 301 + 49}
    assert counts["out"] == {"documents": 2, "sentences": 4, "characters": 16 + 17, "bytes": 48 + 49}
    assert counts["dropped"] == {
        "shorter than min_characters": {"documents": 1, "sentences": 1, "characters": 1, "bytes": 3},
        "longer than max_characters": {"documents": 1, "sentences": 2, "characters": 101, "bytes": 301},
    }
    assert "4 documents in, 2 documents out" in caplog.text
    assert "1 shorter than min_characters, 1 longer than max_characters" in caplog.text


def test_of_each_reason_the_first_are_kept_for_reading_and_not_whole(tmp_path):
    paths = {name: tmp_path / f"{name}.jsonl.zst" for name in ("input", "output", "dropped", "signatures")}
    with documents.writing(paths["input"]) as writer:
        for number in range(30):
            writer.write({"id": number, "title": "", "paragraphs": [["長" * 3000]]})
            writer.write({"id": 100 + number, "title": "", "paragraphs": [["短"]]})
    files = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    filter.main(["--max-characters", "2999", *files, "--counts", str(tmp_path / "counts.json")])
    dropped = list(documents.read(paths["dropped"]))
    assert len(dropped) == 60
    texts = [entry["text"] for entry in dropped if "text" in entry]
    assert texts == ["長" * 2000, "短"] * 20


def test_a_million_dots_take_no_longer_than_reading_them():
    """A pattern that looks for the end from each dot would take hours."""
    config = Filter(min_characters=0, max_characters=10_000_000, line_punct_thr=0.5)
    assert filter.fault("…" * 1_000_000 + "終", config) is not None
