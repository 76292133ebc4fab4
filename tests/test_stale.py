"""What makes which stage stale: the exact set of rules, over one finished run of the whole workflow."""

import contextlib
import json
import os
import re
import shutil

import pytest
import unidic_lite

from jalm import provenance

CORPUS = {"download", "extract", "segment", "filter", "dedup", "split", "split_summary"}
TOKENS = {"train_tokenizer", "train_tokenizer_report", "shard", "shard_manifest"}
MODEL = {"pretrain", "evaluate", "export", "report"}
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
        ("stages/download", ALL),
        ("stages/extract", from_("extract")),
        ("formats/wikitext", from_("extract")),
        ("formats/earlier", from_("extract")),
        ("stages/segment", from_("segment")),
        ("formats/documents", from_("extract")),
        ("stages/filter", from_("filter")),
        ("formats/signatures", from_("filter")),
        ("formats/accounts", from_("filter")),
        ("formats/sides", from_("dedup")),
        ("stages/dedup", from_("dedup")),
        ("stages/split", from_("split")),
        ("stages/split_summary", from_("split_summary")),
        ("formats/words", from_("segment")),
        ("stages/train_tokenizer_report", {"train_tokenizer_report", "report"}),
        ("formats/normaliser", {"shard", "shard_manifest"} | MODEL),
        ("formats/tokenizer", {"train_tokenizer_report", "shard", "shard_manifest"} | MODEL),
        ("stages/shard", {"shard", "shard_manifest"} | MODEL),
        ("stages/shard_manifest", {"shard_manifest"} | MODEL),
        ("formats/models", {"evaluate", "export", "report"}),
        ("formats/scores", {"evaluate", "export", "report"}),
        ("formats/texts", {"evaluate", "export", "report"}),
        ("stages/evaluate", {"evaluate", "export", "report"}),
        ("stages/export", {"export", "report"}),
        ("formats/outsider", {"export", "report"}),
        ("stages/report", {"report"}),
        ("formats/figures", {"report"}),
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


def test_changed_modules_that_no_result_here_depends_on_make_nothing_stale(finished):
    """Those of trainings do not count: their RECIPE does."""
    modules = ["cli", "config", "provenance", "stages/import_text", "stages/train_tokenizer", "stages/pretrain"]
    modules += ["stages/publish", "formats/checkpoints", "formats/optimizers", "commands/generate"]
    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.enter_context(finished.edited(f"workflow/jalm/{module}.py", "\n\n\n", "\nCHANGED = True\n\n\n"))
        assert finished.stale() == set()


@pytest.mark.parametrize(("stage", "expected"), [("train_tokenizer", TOKENS | MODEL), ("pretrain", MODEL)])
def test_a_raised_recipe_makes_its_stage_stale(finished, stage, expected):
    with finished.edited(f"workflow/jalm/stages/{stage}.py", "\nRECIPE = ", "\nRECIPE = 9"):
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
        ("tokenizers={unigram-4k: {corpora: {jawiki: 1}}}", TOKENS | MODEL),
        ("tokenizers={unigram-4k: {pretokenizer: unidic}}", TOKENS | MODEL),
        ("models={gpt2-tiny: {max_steps: 7}, roberta-tiny: {seed: 7}}", MODEL),
        ("models={gpt2-tiny: {config: {resid_pdrop: 0.3}}}", MODEL),
        ("models={gpt2-tiny: {corpora: {jawiki: 2.0}}}", MODEL),  # another weight encodes nothing again
        ("evaluate={mlm_probability: 0.3}", {"evaluate", "export", "report"}),
        ("test_sets={old: {paths: [results/split/jawiki-20261001/test]}}", {"evaluate", "export", "report"}),
        ("models={gpt2-tiny: {generation: {top_k: 40}}}", {"export", "report"}),
        ("models={gpt2-tiny: {license: MIT, onnx: true}}", {"export", "report"}),
        ("corpora={jawiki: {attribution: others}}", {"export", "report"}),
    ],
)
def test_a_knob_makes_exactly_its_stage_and_those_below_stale(finished, knob, expected):
    assert finished.stale("--config", knob) == expected


def test_neutral_knobs_make_nothing_stale(finished):
    batches = "per_device_train_batch_size: auto, torch_compile: false, gradient_checkpointing: true"
    steps = "logging_steps: 1, eval_steps: 3, save_steps: 2, save_total_limit: 5, eval_blocks: 3, keep_steps: 2"
    knobs = [
        "contact=someone@example.org",
        "corpora={jawiki: {mirror: 'https://mirror.example.org', retries: 9}}",
        "evaluate={batch_size: 2}",
        f"models={{gpt2-tiny: {{{batches}, {steps}, report_to: [tensorboard], time_budget: 9}}}}",
    ]
    assert finished.stale("--config", *knobs) == set()


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


def test_a_tokenizer_is_told_which_documents_are_whose_and_their_shares(finished):
    (finished.work / "memo.txt").write_text("一つ目の文書。\n\n二つ目の文書。\n", encoding="utf-8")
    memo = "corpora={memo: {source: text, paths: [memo.txt], parts: 1, license: CC0-1.0}}"
    shares = "tokenizers={unigram-4k: {corpora: {jawiki: 3, memo: 1}}}"
    output = finished.run("--dry-run", "--printshellcmds", "--config", memo, shares).output
    wiki, text = "results/split/jawiki-20261001/train", "results/split/memo/train"
    parts = f"--documents jawiki {wiki}/000.jsonl.zst {wiki}/001.jsonl.zst --documents memo {text}/000.jsonl.zst"
    assert f"{parts} --own  --model results/train_tokenizer/unigram-4k-20261001/spm.model" in output
    assert '{"jawiki": 3.0, "memo": 1.0}' in output


def test_a_model_is_judged_on_the_parts_that_there_are_and_on_plain_folders_as_they_are(finished):
    (finished.work / "novels").mkdir()
    (finished.work / "novels/memo.txt").write_text("一つの文書。\n\nその続き。\n", encoding="utf-8")
    side = "results/split/jawiki-20261001/test"
    sets = f"test_sets={{old: {{paths: [{side}, novels]}}}}"
    told = finished.run("--dry-run", "--printshellcmds", "--config", sets).output
    assert f"--text {side}/000.jsonl.zst {side}/001.jsonl.zst novels --name old" in told


def test_the_dictionary_is_a_parameter_of_a_tokenizer_whose_text_is_cut_with_it_only(finished):
    for knob, told in (("pretokenizer: unidic", True), ("vocab_size: 3900", False)):
        output = finished.run("--dry-run", "--config", f"tokenizers={{unigram-4k: {{{knob}}}}}").output
        (job,) = re.findall(r"(?ms)^rule train_tokenizer:$.*?(?=^(?:local)?rule )", output)
        assert (provenance.dictionary("unidic-lite") in job) == told


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
    assert all("second-20261001" in output for rule, output in ran.jobs if rule != "report")
    assert len(ran.jobs) == 5  # judged on test and on valid


SECOND = (
    "preset: gpt2-small, tokenizer: unigram-4k, corpora: {jawiki: 1}, config: {n_layer: 1, n_head: 2, n_embd: 32},"
    " generation: {max_new_tokens: 10}, block_size: 32, global_batch_size: 2, per_device_train_batch_size: 2,"
    " max_steps: 1, warmup_steps: 0, mixed_precision: no"
)


def test_a_model_that_starts_from_another_follows_it(finished):
    second = f"second: {{{SECOND}, init_model: results/export/gpt2-tiny-20261001}}"
    target = "results/pretrain/second-20261001"
    ran = finished.run(target, "--dry-run", "--config", f"models={{{second}}}")
    assert ran.jobs == [("pretrain", target)]
    ran = finished.run(target, "--dry-run", "--config", f"models={{gpt2-tiny: {{seed: 7}}, {second}}}")
    assert ran.rules == MODEL - {"report"}
    assert [output for rule, output in ran.jobs if rule == "pretrain"] == [
        target.replace("second", "gpt2-tiny"),
        target,
    ]


@pytest.mark.slow
def test_weights_of_an_older_date_are_an_input_of_the_training_that_starts_from_them(finished):
    workflow = finished.moved("older")
    older = workflow.work / "results/export/gpt2-tiny-20260901"
    shutil.copytree(workflow.work / "results/export/gpt2-tiny-20261001", older)
    target = "results/pretrain/second-20261001"
    second = [target, "--config", f"models={{second: {{{SECOND}, init_model: {older.relative_to(workflow.work)}}}}}"]
    assert workflow.run(*second).jobs == [("pretrain", target)]
    assert workflow.stale(*second) == set()
    weights = older / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert workflow.stale(*second) == {"pretrain"}


def test_a_model_with_masks_of_whole_words_reads_where_they_begin(finished):
    words = ["segment={words: true}", "models={roberta-tiny: {whole_word_mask: true}}"]
    told = finished.run("--dry-run", "--config", *words).output
    jobs = re.findall(r"rule pretrain:\n    input: (.*)\n    output: results/pretrain/(\S*)-tiny-", told)
    found = {model: re.findall(r"/(\w+/\d+)\.words", inputs) for inputs, model in jobs}
    assert found == {"gpt2": [], "roberta": ["train/000", "train/001", "valid/000", "valid/001"]}


def test_an_entry_set_to_null_disappears_and_its_results_stay(finished):
    assert finished.stale("--config", "models={roberta-tiny: null}") == {"report"}
    assert (finished.work / "results" / "export" / "roberta-tiny-20261001" / "config.json").is_file()


def test_a_new_corpus_leaves_the_others_alone_but_for_models_that_read_it(finished):
    (finished.work / "memo.txt").write_text("一つ目の文書。\n\n二つ目の文書。\n", encoding="utf-8")
    corpus = "corpora={memo: {source: text, paths: [memo.txt], parts: 1, license: CC0-1.0}}"
    ran = finished.run("--dry-run", "--config", corpus)
    assert ran.rules == {"import_text", "segment", "filter", "dedup", "split", "split_summary", "report"}
    assert all("/memo/" in output for rule, output in ran.jobs if rule != "report")


def test_a_corpus_more_for_a_model_encodes_that_corpus_only(finished):
    (finished.work / "memo.txt").write_text("一つ目の文書。\n\n二つ目の文書。\n", encoding="utf-8")
    corpus = "corpora={memo: {source: text, paths: [memo.txt], parts: 1, license: CC0-1.0}}"
    ran = finished.run("--dry-run", "--config", corpus, "models={gpt2-tiny: {corpora: {jawiki: 1, memo: 3}}}")
    assert {"shard", "shard_manifest", "pretrain"} < ran.rules
    assert "train_tokenizer" not in ran.rules
    assert all("/memo/" in output for rule, output in ran.jobs if rule in ("shard", "shard_manifest"))


def test_rules_of_its_own_for_one_corpus_leave_the_others_alone(finished):
    (finished.work / "memo.txt").write_text("一つ目の文書。\n\n二つ目の文書。\n", encoding="utf-8")
    for own in ("{preset: web}", "{min_characters: 5}"):
        corpus = f"{{source: text, paths: [memo.txt], parts: 1, license: CC0-1.0, filter: {own}}}"
        ran = finished.run("--dry-run", "--config", f"corpora={{memo: {corpus}}}")
        assert ran.rules == {"import_text", "segment", "filter", "dedup", "split", "split_summary", "report"}
        assert all("/memo/" in output for rule, output in ran.jobs if rule != "report")


@pytest.mark.slow
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
    target = "results/pretrain/gpt2-tiny-20261001"
    workflow, before = finished.moved("back"), finished.files(target)
    assert workflow.run(target, "--config", "models={gpt2-tiny: {max_steps: 8}}").rules == {"pretrain"}
    assert json.loads((workflow.work / target / "training.json").read_text())["steps"] == 8
    assert workflow.run(target).rules == {"pretrain"}
    assert "without training" in (workflow.work / "logs" / "pretrain" / "gpt2-tiny-20261001.log").read_text()
    assert workflow.files(target) == before
    assert workflow.run(target).rules == set()
    assert workflow.stale() == {"evaluate", "export", "report"}  # of a model that was published again


def test_a_new_dump_date_makes_all_under_its_own_name_and_touches_nothing_of_the_old(finished):
    before = finished.files("resources", "results")
    articles = "test_sets={october: {paths: [results/split/jawiki-20261001/test]}}"  # of the old date: a plain folder
    date = ["--config", "dump_date=20261101", "models={roberta-tiny: null}", articles]
    ran = finished.run(*date)
    assert ran.rules == ALL
    assert all("20261101" in output for _, output in ran.jobs)
    after = finished.files("resources", "results")
    assert before.items() <= after.items()
    assert {path.replace("-20261001", "-20261101") for path in before if "roberta" not in path} <= set(after)
    assert finished.run(*date).rules == set()
    assert finished.run().rules == set()
    old, new = (
        json.loads((finished.work / f"results/evaluate/gpt2-tiny-{name}.json").read_text(encoding="utf-8"))
        for name in ("20261001/jawiki-20261001", "20261101/october")
    )
    assert [old[size] for size in ("documents", "characters")] == [new[size] for size in ("documents", "characters")]


def test_a_pinned_tokenizer_of_an_older_date_is_used_as_it_is(finished):
    pinned = ["--config", "dump_date=20261101", "pin={tokenizer: '20261001'}"]
    ran = finished.run("--dry-run", "--forceall", *pinned)
    assert "train_tokenizer" not in ran.rules
    assert any("results/shard/unigram-4k-20261001/jawiki-20261101/" in output for _, output in ran.jobs)


def test_the_content_of_an_own_model_is_an_input_of_train_tokenizer(finished):
    made = next((finished.work / "results/train_tokenizer").glob("*/spm.model"))
    own = finished.work / "own.model"
    own.write_bytes(made.read_bytes())
    wanted = ["results/train_tokenizer/own-20261001/spm.model", "--config"]
    wanted += ["tokenizers={own: {corpora: [jawiki], model: own.model}}"]
    finished.run(*wanted)
    assert finished.stale(*wanted) == set()
    own.write_bytes(made.read_bytes() + b"\x1a\x00")  # a field of the format, empty
    assert finished.stale(*wanted) == {"train_tokenizer"}
