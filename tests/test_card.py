import copy
import json

import pytest
import yaml
from huggingface_hub import ModelCard

from jalm.formats import card, graph, harness, outsider

ACCOUNT = {
    "intake": {"in": 1100, "out": 1000, "dropped": {"redirects": 60, "disambiguation pages": 40}},
    "filter": {"in": {}, "out": {}, "dropped": {"too short": {"documents": 30, "sentences": 40, "characters": 500}}},
    "dedup": {},
    "split": {
        "out": {
            side: {"documents": n, "sentences": 9 * n, "characters": 1234 * n}
            for side, n in (("train", 940), ("valid", 10), ("test", 12))
        },
        "dropped": {"equal": {"documents": 5, "characters": 70}, "near": {"documents": 3, "characters": 90}},
    },
}
DUMP = {
    "files": {
        "jawiki.xml.bz2": {"url": "https://example.org/jawiki.xml.bz2", "size": 4567, "sums": {"sha1": "ab" * 20}}
    }
}
WIKI = {
    "name": "jawiki-20261101",
    "license": "CC-BY-SA-4.0",
    "attribution": "Wikipedia contributors, https://ja.wikipedia.org",
    "dataset": "",
    "dump": DUMP,
    "account": ACCOUNT,
}
PROVENANCE = {
    "model": "gpt2-20261101",
    "made": "2026-11-28T07:21:57+00:00",
    "jalm": "0.1.0",
    "revision": "0123abc-dirty",
    "versions": {"transformers": "5.23.0"},
    "corpora": [WIKI],
    "tokenizer": {
        "vocab_size": 32000,
        "sample": {"corpora": {"jawiki": {"of_documents": 940, "documents": 700, "bytes": 2_300_000}}},
    },
    "training": {
        "steps": 1000,
        "tokens": 2_000_000,
        "parameters": 500_000,
        "device": "NVIDIA H100",
        "processes": 4,
        "last_run": {"steps": 400, "seconds": 7200},
        "revision": "9876fed",
    },
    "config": {"learning_rate": 0.0006, "corpora": {"jawiki": 1.0}, "config": {"n_layer": 12, "n_inner": None}},
    "proof": {"checks": ["weights", "logits"], "texts": 210},
}
JUDGED = {
    "test_set": "jawiki-20261101",
    "perplexity": 1029.126,
    "loss": 6.9364,
    "bits_per_character": 1.23456,
    "accuracy": 0.5,
    "predicted_tokens": 1_234_567,
    "documents": 12,
    "characters": 14808,
    "unknown_share": 0.00012,
    "byte_share": None,
    "sliding": {"perplexity": 25.5, "stride": 512},
    "by_document": {"bits_per_character": 1.5, "bits_per_character_interval": [1.41, 1.62]},
}
SAMPLES = [{"prompt": "日本の首都は", "text": "日本の首都は東京。\n- *a* <b> | ```\n"}]
FILLED = [{"prompt": "夜の[MASK]", "candidates": [{"token": "空", "probability": 0.25, "text": "夜の空"}]}]


def facts(architecture: str = "gpt2", **changed) -> card.Facts:
    task = "text-generation" if architecture == "gpt2" else "fill-mask"
    values = {"provenance": PROVENANCE, "architecture": architecture, "task": task, "length": 1024, "license": ""}
    values |= {"evaluations": [JUDGED], "samples": SAMPLES if architecture == "gpt2" else FILLED}
    return card.Facts(**{**values, "files": {"configuration.yaml"}, **changed})


def parsed(text: str) -> ModelCard:
    return ModelCard(text)


def halves(text: str) -> list[str]:
    """English and Japanese."""
    return text.partition("## English\n")[2].split("## 日本語\n")


# ---- what the Hub reads


def test_the_hub_reads_every_figure():
    data = parsed(card.write(facts())).data
    assert (data.language, data.license, data.pipeline_tag) == (["ja"], "cc-by-sa-4.0", "text-generation")
    assert (data.library_name, data.model_name) == ("transformers", "gpt2-20261101")
    assert {result.dataset_name for result in data.eval_results} == {"jawiki-20261101 (test)"}
    told = {result.metric_name: (result.metric_type, result.metric_value) for result in data.eval_results}
    assert told["perplexity"] == ("perplexity", 1029.126)
    assert told["perplexity, sliding window"] == ("perplexity", 25.5)
    assert told["bits per character, each document alone"] == ("by_document_bits_per_character", 1.5)
    assert told["unknown tokens"] == ("unknown_share", 0.00012)
    assert len(told) == len(data.eval_results) == 7


@pytest.mark.parametrize("architecture", ["gpt2", "roberta"])
def test_widgets_have_prompts_with_what_was_answered(architecture):
    (example,) = parsed(card.write(facts(architecture))).data.widget
    if architecture == "gpt2":
        assert example == {"text": "日本の首都は", "output": {"text": SAMPLES[0]["text"]}}
    else:
        assert example == {"text": "夜の[MASK]", "output": [{"label": "空", "score": 0.25}]}


@pytest.mark.parametrize(
    ("chosen", "corpora", "told"),
    [
        ("", ["CC-BY-SA-4.0"], {"license": "cc-by-sa-4.0"}),
        ("MIT", ["CC-BY-SA-4.0"], {"license": "mit"}),
        ("CC-BY-ND-4.0", [], {"license": "cc-by-nd-4.0"}),
        (
            "CC-BY-ND-3.0",
            [],
            {"license": "other", "license_name": "cc-by-nd-3.0", "license_link": "LICENSE"},
        ),  # not listed
        ("", ["MIT", "MIT"], {"license": "mit"}),
        ("", ["CC0-1.0", "MIT"], {"license": "other", "license_name": "cc0-1.0-and-mit", "license_link": "LICENSE"}),
        (
            "",
            ["Common Crawl terms of use"],
            {"license": "other", "license_name": "common-crawl-terms-of-use", "license_link": "LICENSE"},
        ),
        ("利用規約", [], {"license": "other", "license_name": "unknown", "license_link": "LICENSE"}),
    ],
)
def test_the_licence_is_said_in_the_words_of_the_hub(chosen, corpora, told):
    assert card.licence(facts(license=chosen), [{"license": name} for name in corpora]) == told


def test_data_sets_and_first_models_are_named_only_where_the_hub_has_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/first").mkdir(parents=True)
    for first, dataset, told in (
        (
            "rinna/japanese-gpt2-small",
            "statmt/cc100",
            {"base_model": "rinna/japanese-gpt2-small", "datasets": ["statmt/cc100"]},
        ),
        ("rinna/japanese-gpt2-small@0a1b", "", {"base_model": "rinna/japanese-gpt2-small"}),
        ("results/export/gpt2-20261001", "", {}),
        ("models/first", "", {}),
    ):
        corpora = [{**WIKI, "dataset": dataset}]
        made = {**PROVENANCE, "training": {**PROVENANCE["training"], "init_model": first}}
        data = card.metadata(facts(provenance=made), corpora)
        assert {key: data[key] for key in ("base_model", "datasets") if key in data} == told
        text = card.write(facts(provenance=made))
        assert f"from `{first}`" in text
        assert f"It learnt from jawiki-20261101 and what `{first}` had learnt from only" in text


# ---- what a reader reads


def test_both_languages_have_the_same_figures():
    english, japanese = halves(card.write(facts()))
    for text in (english, japanese):
        for figure in (
            "1,029.13",
            "6.9364",
            "1.235",
            "25.50",
            "1.500 (1.410–1.620)",
            "0.012%",
            "1,234,567",
            "| 4 x NVIDIA H100 |",
        ):
            assert figure in text
        for figure in ("500,000", "2,000,000", "| 4.0 |", "`learning_rate` 0.0006", "`n_layer` 12", "4,567", "ab" * 20):
            assert figure in text
        assert "n_inner" not in text
        assert text.count("### ") == english.count("### ") == 8
    assert "2.0 hours (the last 400 steps)" in english
    assert "2.0 時間（最後の 400 回）" in japanese


def test_where_the_articles_went_is_told():
    english, _ = halves(card.write(facts()))
    assert "32,000 pieces, trained on 700 of 940 documents of the training text (2.3 MB)." in english
    rows = dict(line.strip("| ").split(" | ", 1) for line in english.splitlines() if line.startswith("| "))
    assert rows["taken in"] == "1,100 | – | –"
    assert rows["redirects, other pages, empty ones"] == "−100 | – | –"
    assert rows["filtered out"] == "−30 | −40 | −500"
    assert rows["duplicates"] == "−8 | 0 | −160"
    assert rows["train"] == "940 | 8,460 | 1,159,960"


def test_an_evaluation_of_an_older_version_has_the_figures_that_it_has():
    older = {"test_set": "wiki", "perplexity": 9.5, "loss": 2.25, "accuracy": 0.3, "predicted_tokens": 99}
    text = card.write(facts(evaluations=[older, JUDGED]))
    assert "| perplexity | 9.50 | 1,029.13 |" in text
    assert "| bits per character | – | 1.235 |" in text
    assert len(parsed(text).data.eval_results) == 3 + 7
    assert "There is none." in card.write(facts(evaluations=[]))


@pytest.mark.parametrize("key", PROVENANCE["training"])
def test_a_training_of_an_older_version_may_lack_any_record(key):
    made = copy.deepcopy(PROVENANCE)
    del made["training"][key]
    assert len(halves(card.write(facts(provenance=made)))) == 2


def test_what_was_not_recorded_is_said_to_be_so():
    empty = {**PROVENANCE, "training": {}, "config": {}, "corpora": [{**WIKI, "dump": None, "account": None}]}
    english, japanese = halves(card.write(facts(provenance=empty, files=set())))
    for said in (
        "an unrecorded number of parameters",
        "| tokens seen | not recorded |",
        "| hardware | not recorded |",
        "Its knobs were not recorded.",
        "The configuration was not recorded.",
        "What became of it in each stage was not recorded.",
        "trained at not recorded (no git clone)",
    ):
        assert said in english
    for said in (
        "パラメータ数 記録なし",
        "| 学習したトークン | 記録なし |",
        "設定は記録されていません。",
        "学習時 記録なし",
    ):
        assert said in japanese
    assert "configuration.yaml" not in english + japanese


def test_what_a_model_says_cannot_break_the_page():
    said = SAMPLES[0]["prompt"] + "# a\n\n---\n| b | [c](d) <script>\x00\x1b[0m```"
    text = card.write(facts(samples=[{"prompt": SAMPLES[0]["prompt"], "text": said}]))
    (line,) = {line for line in text.splitlines() if line.startswith("> ")}
    assert line == "> **日本の首都は**\\# a<br>---<br>&#124; b &#124; \\[c\\](d) \\<script\\>\\[0m\\`\\`\\`"
    assert parsed(text).data.widget[0]["output"]["text"] == said
    odd = [{"prompt": "夜の[MASK]", "candidates": [{"token": "|", "probability": 0.1, "text": "夜の|"}]}]
    (row,) = {line for line in card.write(facts("roberta", samples=odd)).splitlines() if "10.0%" in line}
    assert row == "| 夜の\\[MASK\\] | &#124; 10.0% |"


def test_each_file_that_there_may_be_is_explained_if_it_is_there():
    for name, told in (
        (graph.NAME, "InferenceSession"),
        (outsider.HEAD, "load_file"),
        ("CHANGELOG.md", "`CHANGELOG.md`"),
    ):
        assert card.write(facts(files={name})).count(told) >= 2
        assert told not in card.write(facts())


def test_changes_that_were_not_committed_are_told():
    english, japanese = halves(card.write(facts()))
    assert "trained at `9876fed`, exported at `0123abc` (with changes that were not committed)" in english
    assert "学習時 `9876fed`、エクスポート時 `0123abc`（未コミットの変更あり）" in japanese


def test_the_command_to_make_it_again_is_for_a_shell():
    name = "gpt2-20261101"
    command = f"$ cp {name}/configuration.yaml config.yaml\n$ snakemake --cores 8 results/export/{name}\n"
    assert f"```console\n{command}" in card.write(facts())  # which no checkout would give
    clean = card.write(facts(provenance={**PROVENANCE, "revision": "0123abc"}))
    assert f"```console\n$ git checkout 0123abc\n{command}" in clean


@pytest.mark.parametrize(
    ("block_size", "seen", "least", "option"), [(256, 256, 128, ",max_length=256"), (None, 1024, 896, "")]
)
def test_the_card_says_how_much_was_seen_at_once(block_size, seen, least, option):
    judged = {**JUDGED, "sliding": {"perplexity": 25.5, "stride": 128}} | (
        {"block_size": block_size} if block_size else {}
    )
    english, japanese = halves(card.write(facts(evaluations=[judged], files={harness.PATH})))
    assert f"disjoint blocks of {seen:,} tokens" in english
    assert f"at least {least} before them" in english
    assert f"{seen:,} トークンずつ重ならない" in japanese
    assert f"少なくとも {least} トークン" in japanese
    for text in (english, japanese):
        assert f"--model_args pretrained=gpt2-20261101,add_bos_token=False{option} --include_path" in text


def test_a_share_of_masks_is_named():
    text = card.write(facts("roberta", evaluations=[{**JUDGED, "mlm_probability": 0.15}]))
    assert "On 15% of the tokens, masked" in text
    assert yaml.safe_load(text.split("---\n")[1])["tags"] == ["japanese", "jalm", "roberta"]


# ---- licences


def test_the_note_credits_wikipedia_as_its_terms_ask():
    note = card.note("gpt2-20261101", "", [WIKI])
    for said in (
        "CC-BY-SA-4.0 (https://creativecommons.org/licenses/by-sa/4.0/)",
        "Credit: Wikipedia contributors, https://ja.wikipedia.org",
        "From: https://example.org/jawiki.xml.bz2",
        "history (?action=history) names them all",
        "GNU Free",
        "No licence was chosen for the weights.",
        "under the same licence",
        "Changes: ",
    ):
        assert said in note


def test_a_licence_that_was_chosen_is_that_of_the_weights_only():
    note = card.note("m", "Apache-2.0", [{**WIKI, "license": "CC0-1.0", "attribution": "", "dump": None}])
    assert "The weights are given out under Apache-2.0 (https://spdx.org/licenses/Apache-2.0.html)." in note
    assert "CC0-1.0 (https://creativecommons.org/publicdomain/zero/1.0/)" in note
    for not_said in ("Credit", "Wiki", "settled", "adaptation", "Changes"):
        assert not_said not in note
    assert "chosen by who made them" in card.write(facts(license="Apache-2.0"))


@pytest.mark.parametrize("name", ["Common Crawl terms of use", "CC-BY-4", ""])
def test_a_licence_that_is_not_known_has_no_link(name):
    assert card.link(name) == ""
    assert json.dumps(card.note("m", "", [{**WIKI, "license": name}]))


def test_the_code_names_the_repository_that_the_model_goes_to():
    assert 'pipeline("text-generation", model="you/neko")' in card.write(facts(repo_id="you/neko"))
    assert f'pipeline("text-generation", model="{PROVENANCE["model"]}")' in card.write(facts())


def test_a_prompt_counts_with_what_is_said_after_it():
    assert "at most 1,024 tokens, prompt and completion together" in card.write(facts())
    assert "at most 1,024 tokens." in card.write(facts("bert"))
