"""What makes which stage stale: the exact set of rules, over one finished run of the whole workflow."""

import json
import os

import pytest
import unidic_lite

CORPUS = {"download", "extract", "segment", "filter", "dedup", "split", "split_summary"}
TOKENS = {"train_tokenizer", "shard", "shard_manifest"}
MODEL = {"pretrain", "evaluate", "export"}
ALL = CORPUS | TOKENS | MODEL


def from_(first: str) -> set[str]:
    """A stage of the corpus and all below it."""
    chain = ["download", "extract", "segment", "filter", "dedup", "split", "split_summary"]
    return set(chain[chain.index(first) :]) | TOKENS | MODEL


def test_a_finished_run_leaves_nothing_to_do(finished):
    ran = finished.run()
    assert ran.rules == set()
    assert "Nothing to be done" in ran.output


def test_documents_of_an_earlier_date_make_nothing_stale(finished):
    folder = finished.work / "results/extract/jawiki-20260901"
    folder.mkdir()
    try:
        assert finished.stale() == set()
    finally:
        folder.rmdir()


def test_touching_or_commenting_any_source_file_makes_nothing_stale(finished):
    before = {}
    for path in sorted((finished.code / "workflow").rglob("*.py")):
        before[path] = path.read_text(encoding="utf-8")
        path.write_text(before[path].replace('"""', '"""Reworded. ', 1) + "\n# 注釈\n\n", encoding="utf-8")
    try:
        assert len(before) > 20
        assert finished.stale() == set()
    finally:
        for path, text in before.items():
            path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("cli", set()),
        ("config", set()),
        ("provenance", set()),
        ("stages/download", ALL),
        ("stages/extract", from_("extract")),
        ("formats/wikitext", from_("extract")),
        ("formats/earlier", from_("extract")),
        ("stages/import_text", set()),
        ("stages/segment", from_("segment")),
        ("formats/documents", from_("extract")),
        ("stages/filter", from_("filter")),
        ("formats/signatures", from_("filter")),
        ("formats/accounts", from_("filter")),
        ("formats/sides", from_("dedup")),
        ("stages/dedup", from_("dedup")),
        ("stages/split", from_("split")),
        ("stages/split_summary", from_("split_summary")),
        ("stages/train_tokenizer", set()),
        ("formats/normaliser", {"shard", "shard_manifest"} | MODEL),
        ("formats/tokenizer", {"shard", "shard_manifest"} | MODEL),
        ("stages/shard", {"shard", "shard_manifest"} | MODEL),
        ("stages/shard_manifest", {"shard_manifest"} | MODEL),
        ("formats/checkpoints", set()),
        ("stages/pretrain", set()),
        ("formats/models", {"evaluate", "export"}),
        ("stages/evaluate", {"evaluate", "export"}),
        ("stages/export", {"export"}),
        ("commands/generate", set()),
    ],
)
def test_a_changed_module_makes_exactly_its_users_stale(finished, module, expected):
    path = finished.code / "workflow" / "jalm" / f"{module}.py"
    before = path.read_text(encoding="utf-8")
    path.write_text(before + "\nCHANGED = True\n", encoding="utf-8")
    try:
        assert finished.stale() == expected
    finally:
        path.write_text(before, encoding="utf-8")


@pytest.mark.parametrize(("stage", "expected"), [("train_tokenizer", TOKENS | MODEL), ("pretrain", MODEL)])
def test_a_raised_recipe_makes_its_stage_stale(finished, stage, expected):
    with finished.edited(f"workflow/jalm/stages/{stage}.py", "RECIPE = 1", "RECIPE = 2"):
        assert finished.stale() == expected


def test_the_template_table_is_an_input_of_extract(finished):
    with finished.edited("workflow/jalm/formats/templates.yaml", "\n", "\n# 表\n"):
        assert finished.stale() == from_("extract")


@pytest.mark.parametrize(
    ("knob", "expected"),
    [
        ("corpora={jawiki: {sha1: 0123456789012345678901234567890123456789}}", ALL),
        ("corpora={jawiki: {parts: 3}}", from_("extract")),
        ("extract={lists: false}", from_("extract")),
        ("extract={time_limit: 5}", from_("extract")),
        ("segment={dictionary: unidic}", from_("segment")),
        ("segment={words: true}", from_("segment")),
        ("filter={min_characters: 200}", from_("filter")),
        ("filter={preset: web}", from_("filter")),
        ("corpora={jawiki: {filter: {min_kana: 0.1}}}", from_("filter")),
        ("dedup={exact: false}", from_("dedup")),
        ("dedup={threshold: 0.9}", from_("dedup")),
        ("dedup={ngram: 6}", from_("filter")),
        ("split={salt: other}", from_("dedup")),  # train gives way to valid and test
        ("tokenizers={unigram-4k: {vocab_size: 3900}}", TOKENS | MODEL),
        ("tokenizers={unigram-4k: {num_threads: 1}}", TOKENS | MODEL),
        ("models={gpt2-tiny: {max_steps: 7}, roberta-tiny: {seed: 7}}", MODEL),
        ("models={gpt2-tiny: {config: {resid_pdrop: 0.3}}}", MODEL),
        ("evaluate={mlm_probability: 0.3}", {"evaluate", "export"}),
        ("models={gpt2-tiny: {generation: {top_k: 40}}}", {"export"}),
        ("corpora={jawiki: {attribution: others}}", {"export"}),
    ],
)
def test_a_knob_makes_exactly_its_stage_and_those_below_stale(finished, knob, expected):
    assert finished.stale("--config", knob) == expected


@pytest.mark.parametrize(
    "knob",
    [
        "contact=someone@example.org",
        "corpora={jawiki: {mirror: 'https://mirror.example.org'}}",
        "corpora={jawiki: {retries: 9}}",
        "evaluate={batch_size: 2}",
        "models={gpt2-tiny: {per_device_train_batch_size: 2, logging_steps: 1, eval_steps: 3, save_steps: 2}}",
        "models={gpt2-tiny: {save_total_limit: 5, eval_blocks: 3}}",
    ],
)
def test_a_neutral_knob_makes_nothing_stale(finished, knob):
    assert finished.stale("--config", knob) == set()


def test_nothing_about_the_machine_makes_anything_stale(finished):
    logs = list((finished.work / "logs").rglob("*.log"))
    assert logs
    for log in logs:
        os.utime(log)
    assert finished.run("--dry-run", cores=1).rules == set()
    assert (
        finished.stale("--set-threads", "pretrain=1", "--set-resources", "pretrain:mem_mb=9", "pretrain:gpu=1") == set()
    )
    assert finished.stale("--profile", str(finished.code / "profiles" / "workstation")) == set()
    assert finished.stale("--profile", str(finished.code / "profiles" / "slurm")) == set()


def test_a_dictionary_that_is_the_same_elsewhere_makes_nothing_stale(finished):
    folder = finished.work / "辞書 3.1"
    folder.symlink_to(unidic_lite.DICDIR)
    assert finished.stale("--config", f"segment={{dictionary: {folder}}}") == set()


def test_a_changed_way_to_read_local_text_reads_it_again(finished):
    (finished.work / "poem.txt").write_text("古池や\n\n蛙飛びこむ", encoding="utf-8")
    corpus = "corpora={{poem: {{source: text, paths: [poem.txt], parts: 1, license: CC0-1.0, {}}}}}"
    target = "results/import_text/poem/000.jsonl.zst"
    assert finished.run(target, "--config", corpus.format("strict: false")).rules == {"import_text"}
    for knob in ("strict: true", "text_column: body", "max_line_bytes: 99"):
        assert finished.run(target, "--dry-run", "--config", corpus.format(knob)).rules == {"import_text"}


def test_one_more_model_trains_that_model_only(finished):
    ran = finished.run(
        "--dry-run", "--config", "models={second: {preset: gpt2-small, tokenizer: unigram-4k, corpora: {jawiki: 1}}}"
    )
    assert ran.rules == MODEL
    assert all("second-20261001" in output for _, output in ran.jobs)
    assert len(ran.jobs) == 3


def test_an_entry_set_to_null_disappears_and_its_results_stay(finished):
    ran = finished.run("--config", "models={roberta-tiny: null}")
    assert ran.rules == set()
    assert (finished.work / "results" / "export" / "roberta-tiny-20261001" / "config.json").is_file()


def test_a_new_corpus_leaves_the_others_alone_but_for_models_that_read_it(finished):
    (finished.work / "memo.txt").write_text("一つ目の文書。\n\n二つ目の文書。\n", encoding="utf-8")
    corpus = "corpora={memo: {source: text, paths: [memo.txt], parts: 1, license: CC0-1.0}}"
    ran = finished.run("--dry-run", "--config", corpus)
    assert ran.rules == {"import_text", "segment", "filter", "dedup", "split", "split_summary"}
    assert all("/memo/" in output for _, output in ran.jobs)


def test_rules_of_its_own_for_one_corpus_leave_the_others_alone(finished):
    (finished.work / "memo.txt").write_text("一つ目の文書。\n\n二つ目の文書。\n", encoding="utf-8")
    for own in ("{preset: web}", "{min_characters: 5}"):
        corpus = f"{{source: text, paths: [memo.txt], parts: 1, license: CC0-1.0, filter: {own}}}"
        ran = finished.run("--dry-run", "--config", f"corpora={{memo: {corpus}}}")
        assert ran.rules == {"import_text", "segment", "filter", "dedup", "split", "split_summary"}
        assert all("/memo/" in output for _, output in ran.jobs)


def test_a_new_date_of_the_wiki_leaves_local_text_alone(finished):
    (finished.work / "memo").mkdir()
    for number in range(100):
        (finished.work / "memo" / f"{number}.txt").write_text(f"{number}番目の文書である。" * 20, encoding="utf-8")
    corpus = "corpora={memo: {source: text, paths: [memo], parts: 2, license: CC0-1.0}}"
    target = "results/split/memo/summary.json"
    finished.run(target, "--config", corpus)
    assert finished.run(target, "--dry-run", "--config", corpus, "dump_date=20261101").rules == set()
    (finished.work / "memo" / "5.txt").write_text("書き直した。" * 50, encoding="utf-8")
    assert "import_text" in finished.run(target, "--dry-run", "--config", corpus).rules


def test_back_at_an_earlier_setting_its_model_is_found_and_not_trained(finished):
    before = finished.files("results/pretrain/gpt2-tiny-20261001")
    longer = ["--config", "models={gpt2-tiny: {max_steps: 8}}"]
    target = "results/pretrain/gpt2-tiny-20261001"
    assert finished.run(target, *longer).rules == {"pretrain"}
    assert json.loads((finished.work / target / "training.json").read_text())["steps"] == 8
    assert finished.run().rules == MODEL
    assert "without training" in (finished.work / "logs" / "pretrain" / "gpt2-tiny-20261001.log").read_text()
    assert finished.files(target) == before
    assert finished.run().rules == set()


def test_a_new_dump_date_makes_all_under_its_own_name_and_touches_nothing_of_the_old(finished):
    before = finished.files("resources", "results")
    ran = finished.run("--config", "dump_date=20261101")
    assert ran.rules == ALL
    assert all("-20261101" in output for _, output in ran.jobs)
    after = finished.files("resources", "results")
    assert before.items() <= after.items()
    assert {path.replace("-20261001", "-20261101") for path in before} <= set(after)
    assert finished.run("--config", "dump_date=20261101").rules == set()
    assert finished.run().rules == set()


def test_a_pinned_tokenizer_of_an_older_date_is_used_as_it_is(finished):
    pinned = ["--config", "dump_date=20261101", "pin={tokenizer: '20261001'}"]
    ran = finished.run("--dry-run", "--forceall", *pinned)
    assert "train_tokenizer" not in ran.rules
    assert any("results/shard/unigram-4k-20261001/jawiki-20261101/" in output for _, output in ran.jobs)
