"""The whole workflow on real jawiki wikitext, both dump dates, with a small configuration."""

import json

import pytest
import workflow

pytestmark = pytest.mark.slow

REAL = """
corpora:
  jawiki: {mirror: "file:%s", parts: 4, license: CC-BY-SA-3.0, attribution: "Wikipedia contributors"}
segment: {dictionary: unidic-lite}
split: {valid_fraction: 0.05, test_fraction: 0.05}
tokenizers:
  unigram-32k: null
  unigram-8k: {corpora: [jawiki], vocab_size: 8000, num_threads: 2}
models:
  gpt2-small: null
  roberta-base: null
  gpt2-mini:
    preset: gpt2-small
    tokenizer: unigram-8k
    corpora: {jawiki: 1.0}
    config: {n_layer: 3, n_head: 4, n_embd: 192}
    block_size: 256
    global_batch_size: 8
    per_device_train_batch_size: 8
    max_steps: 150
    learning_rate: 2.0e-3
    warmup_steps: 20
    mixed_precision: "no"
  roberta-mini:
    preset: roberta-base
    tokenizer: unigram-8k
    corpora: {jawiki: 1.0}
    config: {num_hidden_layers: 3, num_attention_heads: 4, hidden_size: 192, intermediate_size: 768}
    block_size: 256
    global_batch_size: 8
    per_device_train_batch_size: 8
    max_steps: 150
    learning_rate: 3.0e-3
    warmup_steps: 20
    mixed_precision: "no"
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory, shared) -> workflow.Workflow:
    made = workflow.copy(tmp_path_factory.mktemp("real"))
    (made.code / "demo.yaml").write_text("{}\n", encoding="utf-8")
    (made.code / "small.yaml").write_text(REAL % (shared / "data" / "dumps"), encoding="utf-8")
    return made


@pytest.mark.parametrize("date", ["20261001", "20261101"])
def test_a_dump_of_real_articles_becomes_models_that_learnt_something(real, date):
    dated = ["--config", f"dump_date={date}"]
    for target in ("corpus", "data", "all"):
        real.run(target, *dated)
    results = real.work / "results"
    summary = json.loads((results / f"split/jawiki-{date}/summary.json").read_text())
    assert sum(side["documents"] for side in summary.values()) > 280
    manifest = json.loads((results / f"shard/unigram-8k-{date}/jawiki-{date}/train/manifest.json").read_text())
    assert manifest["unknown_tokens"] == 0
    assert manifest["documents"] == summary["train"]["documents"]
    for model, below in (("gpt2-mini", 1000), ("roberta-mini", 3000)):
        figures = json.loads((results / f"evaluate/{model}-{date}/jawiki-{date}.json").read_text())
        assert figures["perplexity"] < below  # of 8,000 pieces
        assert (results / f"export/{model}-{date}/model.safetensors").is_file()
