"""The workflow as a user meets it: what it makes, on any number of cores, after mistakes and after being killed."""

import json
import os
import random
import shutil
import signal
import time
from dataclasses import replace

import pytest

from jalm.formats import documents

MODEL = "preset: gpt2-small, tokenizer: unigram-4k, corpora: {jawiki: 1.0}"
DATA = ("results/extract", "results/segment", "results/filter", "results/dedup", "results/split", "results/shard")


def documents_of(workflow, stage: str, corpus: str = "jawiki-20261001") -> list[dict]:
    """All documents that a stage made of a corpus."""
    paths = sorted((workflow.work / "results" / stage / corpus).glob("*.jsonl.zst"))
    return [document for path in paths for document in documents.read(path)]


def test_each_article_of_the_wiki_is_on_one_side_and_redirects_and_disambiguations_are_gone(finished):
    extracted = documents_of(finished, "extract")
    titles = {document["title"] for document in extracted}
    assert {"月", "京都市", "俳句"} <= titles
    assert not {"さくら", "府中", "夕顔", "日本橋"} & titles  # disambiguation pages
    sides = [
        document["id"]
        for side in ("train", "valid", "test")
        for path in (finished.work / "results" / "split" / "jawiki-20261001" / side).glob("*.jsonl.zst")
        for document in documents.read(path)
    ]
    assert sorted(sides) == sorted(document["id"] for document in extracted)
    assert len(extracted) == 86


def test_an_article_is_on_the_same_side_in_the_next_dump(finished):
    other = finished.moved("dates")
    other.run("corpus", "--config", "dump_date=20261101")

    def sides(date):
        root = other.work / "results" / "split" / f"jawiki-{date}"
        return {d["id"]: p.parent.name for p in root.glob("*/*.jsonl.zst") for d in documents.read(p)}

    before, after = sides("20261001"), sides("20261101")
    assert len(before.keys() - after.keys()) == 1  # 学校 was deleted
    assert len(after.keys() - before.keys()) == 8
    assert all(after[article] == side for article, side in before.items() if article in after)


def test_results_are_the_same_bytes_on_one_core_and_on_two(finished, tmp_path):
    other = finished.elsewhere(tmp_path / "one")
    other.run("data", cores=1)
    made = other.files(*DATA)
    assert len(made) > 30
    assert made.items() <= finished.files(*DATA).items()


def test_an_exported_folder_loads_by_its_path_alone(finished):
    from transformers import pipeline

    folder = finished.work / "results" / "export"
    masks = pipeline("fill-mask", model=str(folder / "roberta-tiny-20261001"))("江戸[MASK]代は")
    assert len(masks) == 5
    text = pipeline("text-generation", model=str(folder / "gpt2-tiny-20261001"))("日本の", max_new_tokens=5)
    assert text[0]["generated_text"].startswith("日本の")


def test_each_preset_makes_a_model_of_a_corpus_and_a_tokenizer(finished):
    presets = sorted(path.stem for path in (finished.code / "workflow" / "presets").glob("*.yaml"))
    models = ", ".join(f"{name}: {{{MODEL.replace('gpt2-small', name)}}}" for name in presets)
    ran = finished.run("--dry-run", "--config", f"models={{{models}}}")
    assert len(presets) > 10
    assert sorted(output.split("/")[-1] for rule, output in ran.jobs if rule == "pretrain") == [
        f"{name}-20261001" for name in presets
    ]


def test_a_text_corpus_beside_the_wiki_goes_the_same_way(finished, tmp_path):
    other = finished.elsewhere(tmp_path / "text")
    words = ["猫", "犬", "山へ登る", "川", "「なるほど。」と言った", "本を読んだ", "寝た", "雨が降る", "東京", "古い駅"]
    draw = random.Random(1)
    text = [f"{n}番目。" + "、".join(draw.choices(words, k=20)) + "。" for n in range(1, 200)]
    text.append(text[0].replace("1", "１"))  # the same but for its width
    text.append(text[1].replace("2番目", "二番目"))  # nearly the same
    (other.work / "memo.txt").write_text("\n\n".join(text), encoding="utf-8")
    corpus = "{source: text, paths: [memo.txt], parts: 3, license: CC0-1.0}"
    options = [
        f"corpora={{jawiki: null, memo: {corpus}}}",
        "tokenizers={unigram-4k: null}",
        "filter={min_characters: 10}",
    ]
    other.run("corpus", "--config", *options, "models={gpt2-tiny: null, roberta-tiny: null}")
    assert len(documents_of(other, "import_text", "memo")) == 201
    dropped = list(documents.read(other.work / "results" / "dedup" / "memo" / "drop.jsonl.zst"))
    assert sorted(entry["reason"].split()[0] for entry in dropped) == ["equal", "near"]
    folder = other.work / "results" / "split" / "memo"
    summary = json.loads((folder / "summary.json").read_text())
    assert sum(side["documents"] for side in summary.values()) == 199
    account = json.loads((folder / "account.json").read_text())
    assert account["intake"] == {"in": 201, "out": 201, "dropped": {"empty": 0}}
    assert account["filter"]["out"]["documents"] == 201
    assert account["split"]["out"] == summary
    assert account["dedup"]["contamination"]["after"] == {"train": 0, "valid": 0}
    assert (folder / "account.md").read_text().startswith("# memo\n")


# ---- mistakes


def refused(workflow, *options: str) -> str:
    """What is said of a configuration before anything runs."""
    ran = workflow.snakemake("--config", *options)
    assert ran.status != 0
    assert "Traceback" not in ran.output
    assert ran.rules == set()
    return ran.output


def test_mistakes_in_the_configuration_are_told_together_before_anything_runs(finished):
    models = "{per_device_train_batch_size: 5}, roberta-tiny: {config: {n_layers: 3}}"
    wrong = ["tokenisers={}", "segment={dictionnary: unidic}", f"models={{gpt2-tiny: {models}}}", "dump_date=latest"]
    told = refused(finished, *wrong)
    assert "tokenisers is not a known key; did you mean tokenizers?" in told
    assert "--config: segment.dictionnary is not a known key; did you mean dictionary?" in told
    assert "global_batch_size 16 does not divide" in told
    assert "sizes of a roberta: n_layers is '3': not a known key" in told
    assert "jawiki: 20261001 classic complete, 20261101 classic complete" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["models={gpt2-tiny: {tokenizer: unigram-8k}}"], "'unigram-8k', which is not one of: unigram-4k"),
        (
            ["models={gpt2-tiny: {preset: gpt2-smal}}"],
            "models.gpt2-tiny.preset is 'gpt2-smal', which is not one of: bert-base",
        ),
        (["test_sets={a: {paths: [b.txt]}}"], "test_sets.a.paths has 'b.txt', which is not there (seen from /"),
        (["test_sets={a: {paths: [resources]}}"], "test_sets.a.paths has 'resources', which has no .txt, .jsonl"),
        (["extract={templates: tab.yaml}"], "extract.templates is 'tab.yaml', which is no file (seen from /"),
        (["pin={tokenizer: '20260901'}"], "there is no results/train_tokenizer/unigram-4k-20260901/spm.model"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_clear_message_before_anything_runs(finished, options, message):
    assert message in refused(finished, *options)


def test_what_a_model_cannot_start_from_and_words_that_nobody_stores_are_told_before_anything_runs(finished):
    models = {
        "gpt2-tiny": "init_model: results/export/second-20261001",
        "roberta-tiny": "whole_word_mask: true, init_model: results/pretrain/roberta-tiny-20260901",
        "second": f"{MODEL}, init_model: ./results/pretrain/gpt2-tiny-20261001/",
        "third": f"{MODEL}, init_model: results/export/fourth-20261001",
        "fourth": f"{MODEL.replace('4k', '8k')}, init_model: rinna/japanese-gpt2-small@v1.0",
        "fifth": f"{MODEL}, init_model: 模型/小",
    }
    entries = ", ".join(f"{name}: {{{entry}}}" for name, entry in models.items())
    told = refused(finished, f"models={{{entries}}}", "tokenizers={unigram-8k: {corpora: [jawiki]}}")
    lines = [line for line in told.splitlines() if line.startswith("models.")]
    none = f"which is no folder with a model.safetensors (seen from {finished.work}) and no OWNER/NAME on the Hub"
    assert lines == [
        "models.gpt2-tiny.init_model is 'results/export/second-20261001': no model can start from itself "
        "(gpt2-tiny-20261001 from second-20261001 from gpt2-tiny-20261001)",
        "models.roberta-tiny.whole_word_mask is true, which needs the words of its corpora; set segment: {words: true}",
        f"models.roberta-tiny.init_model is 'results/pretrain/roberta-tiny-20260901', {none}",
        "models.second.init_model is './results/pretrain/gpt2-tiny-20261001/': no model can start from itself "
        "(second-20261001 from gpt2-tiny-20261001 from second-20261001)",
        "models.third.init_model is 'results/export/fourth-20261001', whose tokenizer is 'unigram-8k', "
        "and models.third.tokenizer 'unigram-4k'; use one for both",
        f"models.fifth.init_model is '模型/小', {none}",
    ]


def test_a_key_that_a_configuration_has_twice_is_refused(finished, tmp_path):
    (tmp_path / "c.yaml").write_text("split: {salt: a}\nsplit: {salt: b}\n")
    ran = finished.snakemake("--configfile", str(tmp_path / "c.yaml"))
    assert ran.status != 0
    assert "c.yaml: split is there twice, in lines 1 and 2; rename or remove one" in ran.output
    assert "Traceback" not in ran.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["dump_date=20260901"],
            "download: dump_date is 20260901, which dumps does not have; it has: 20261001, 20261101",
        ),
        (["tokenizers={unigram-4k: {vocab_size: 90000}}"], "train_tokenizer: vocab_size 90000 is too large"),
        (["split={valid_fraction: 0.0001}"], "split_summary: valid would be empty"),
    ],
)
def test_a_mistake_that_a_job_finds_is_shown_with_the_failed_job(finished, tmp_path, options, message):
    other = finished.elsewhere(tmp_path / "mistake")
    ran = other.snakemake("data", "--config", *options)
    assert ran.status != 0
    assert message in ran.output


def test_what_a_run_would_find_late_is_said_before_its_first_job(finished, tmp_path):
    other = finished.elsewhere(tmp_path / "early")
    (other.work / "memo.txt").write_text("猫。", encoding="utf-8")
    memo = "corpora={memo: {source: text, paths: [memo.txt], license: CC0-1.0}}"
    ran = other.snakemake("corpus", "--config", "segment={dictionary: nowhere}", memo)
    assert ran.status != 0
    assert "segment.dictionary is 'nowhere', which is not here" in ran.output
    assert "corpora.memo is not compared with jawiki before it" in ran.output
    assert not list((other.work / "results").glob("import_text/memo*"))


@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_a_damaged_dump_is_refused(finished, tmp_path, damage):
    other = finished.elsewhere(tmp_path / damage)
    dump = next((other.work / "dumps/jawiki/20261001").glob("*multistream.xml.bz2"))
    content = dump.read_bytes()
    dump.write_bytes(content[:-9000] if damage == "truncated" else content[:5000] + b"\0" + content[5001:])
    ran = other.snakemake("corpus")
    assert ran.status != 0
    assert ("ends after" if damage == "truncated" else f"sha1 of {dump.name} is") in ran.output
    assert not (other.work / "resources/jawiki-20261001/dump").exists()


# ---- profiles and environments


@pytest.mark.slow
def test_on_a_workstation_one_training_at_a_time_takes_the_gpu(finished):
    workflow = replace(finished.moved("workstation"), environment={"ACCELERATE_USE_CPU": "true"})
    changed = "models={gpt2-tiny: {seed: 7}, roberta-tiny: {seed: 7}}"
    profile = ["--profile", str(workflow.code / "profiles/workstation")]
    workflow.run(
        "results/pretrain/gpt2-tiny-20261001",
        "results/pretrain/roberta-tiny-20261001",
        *profile,
        "--config",
        changed,
        cores=8,
    )
    times = []
    for model in ("gpt2", "roberta"):
        lines = (workflow.work / f"logs/pretrain/{model}-tiny-20261001.log").read_text().splitlines()
        began = max(number for number, line in enumerate(lines) if "GPUs: " in line)  # logs of earlier runs stay
        times.append((lines[began][:19], lines[-1][:19]))
    (_, first_ended), (second_began, _) = sorted(times)
    assert first_ended <= second_began


def test_rules_find_the_package_without_pythonpath_which_snakemake_takes_away_from_conda_environments(finished):
    workflow = finished.moved("conda")
    variable = '    PYTHONPATH=os.pathsep.join(filter(None, [str(PACKAGE), os.getenv("PYTHONPATH")])),\n'
    with (
        workflow.edited("workflow/rules/common.smk", variable, ""),
        workflow.edited("workflow/jalm/stages/split_summary.py", "def main(", "print('ours')\n\n\ndef main("),
    ):
        workflow.run("results/split/jawiki-20261001/summary.json", "--forcerun", "split_summary")
    assert "ours" in (workflow.work / "logs/split_summary/jawiki-20261001.log").read_text()


# ---- being killed, or failing


@pytest.mark.parametrize(
    ("stage", "knob"),
    [
        pytest.param("train_tokenizer", "tokenizers={unigram-4k: {vocab_size: 90000}}", marks=pytest.mark.slow),
        ("pretrain", "models={gpt2-tiny: {learning_rate: 1e30}}"),
    ],
)
def test_a_stage_that_failed_after_a_change_is_not_passed_over_for_what_was_made_before(
    finished, tmp_path, stage, knob
):
    moved = finished.moved(f"failed-{stage}")
    assert moved.stale() == set()  # results may move with their folder
    assert moved.snakemake("--config", knob).status != 0
    again = moved.run("--dry-run", "--config", knob).rules
    assert {stage, "pretrain", "evaluate", "export"} <= again
    assert stage in moved.stale()


def test_a_result_that_was_removed_is_made_again(finished):
    moved = finished.moved("removed")
    shutil.rmtree(moved.work / "results" / "pretrain" / "gpt2-tiny-20261001")
    (moved.work / "results" / "filter" / "jawiki-20261001" / "001.jsonl.zst").unlink()
    assert {"pretrain", "filter"} <= moved.stale()


def killed_when(workflow, condition, *args: str) -> None:
    """Start snakemake and kill -9 it and its jobs as soon as a condition holds."""
    process = workflow.started(*args, wait=False)
    try:
        deadline = time.monotonic() + 120
        while not condition():
            assert process.poll() is None, process.stdout.read()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("stage", ["extract", pytest.param("segment", marks=pytest.mark.slow)])
def test_a_data_stage_killed_with_its_workflow_leaves_nothing_that_looks_finished(finished, tmp_path, stage):
    other = finished.elsewhere(tmp_path / stage)
    folder = other.work / "results" / stage / "jawiki-20261001"
    killed_when(other, lambda: any(folder.glob("*.partial")), "corpus")
    for path in folder.glob("*.jsonl.zst"):
        assert path.read_bytes() == (finished.work / path.relative_to(other.work)).read_bytes()
    other.run("--unlock")
    other.run("corpus")
    made = other.files(*DATA)
    assert len(made) > 15
    assert made.items() <= finished.files(*DATA).items()


def test_a_training_killed_with_its_workflow_goes_on_from_its_checkpoint(finished):
    """The loss of every step is the one of the undisturbed run, to the last bit."""
    other, undisturbed = finished.moved("killed"), finished.moved("undisturbed")
    model = "results/pretrain/gpt2-tiny-20261001"
    longer = "{seed: 7, max_steps: 40, save_steps: 5, logging_steps: 1, config: {resid_pdrop: 0.1}}"
    options = ["--config", f"models={{gpt2-tiny: {longer}}}"]
    undisturbed.run(model, *options)
    killed_when(other, lambda: any(other.work.glob("states/*/*/checkpoints/step-000000010")), model, *options)
    assert not (other.work / model).exists()
    other.run("--unlock")
    other.run(model, *options)

    def losses(workflow):
        lines = (workflow.work / model / "log.jsonl").read_text().splitlines()
        return [(r["step"], r.get("loss"), r.get("valid_loss")) for r in map(json.loads, lines)]

    assert "going on from the checkpoint of step" in (other.work / "logs/pretrain/gpt2-tiny-20261001.log").read_text()
    assert losses(other) == losses(undisturbed)
    assert len(losses(other)) == 41
