import shlex
from pathlib import Path
from typing import get_args

import pytest
import yaml

from jalm.config import (
    Dedup,
    Evaluate,
    Extract,
    Filter,
    Generation,
    ImportText,
    Publish,
    Split,
    Tokenizer,
    TrainTokenizer,
    UnknownDate,
)
from jalm.configfile import PRESETS, load, merge, repeated_keys
from jalm.knobs import ConfigError, flags, parse_flags
from jalm.sizes import Activation

ROOT = Path(__file__).parents[1]

BASE = """
dump_date: "20261101"
corpora:
  jawiki: {source: mediawiki, license: CC-BY-SA-4.0}
  歌: null
  cc100: {source: text, paths: [歌.txt], license: MIT, parts: 4}
tokenizers:
  unigram-8k: {corpora: [jawiki, cc100], vocab_size: 8000}
models:
  gpt2-small: {preset: gpt2-small, tokenizer: unigram-8k, corpora: {jawiki: 1, cc100: 0.5}}
"""


def shipped(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def loaded(*texts: str):
    """The configuration of YAML texts, each on top of those before."""
    merged, sources = {}, {}
    for name, text in zip(["config.yaml", "my.yaml", "--config"], [BASE, *texts], strict=False):
        sources[name] = yaml.safe_load(text)
        merged = merge(merged, sources[name])
    return load(merged, sources)


def mistakes(*texts: str) -> list[str]:
    """Lines of the message that a configuration is refused with."""
    with pytest.raises(ConfigError) as refusal:
        loaded(*texts)
    return str(refusal.value).splitlines()


# ---- what is shipped


def test_the_configuration_as_shipped_is_one():
    config = load(shipped("config.yaml"))
    assert list(config.corpora) == ["jawiki"]
    assert list(config.models) == ["gpt2-small", "roberta-base"]


def test_the_demo_lies_on_top_of_it_and_replaces_its_models():
    config = load(merge(shipped("config.yaml"), shipped("demo.yaml")))
    assert list(config.tokenizers) == ["unigram-4k"]
    assert list(config.models) == ["gpt2-tiny", "roberta-tiny"]
    assert config.corpora["jawiki"].parts == 2
    assert config.corpora["jawiki"].wiki == "jawiki"  # as config.yaml has it


# ---- dates


@pytest.mark.parametrize("date", ["20261001", "'20261001'"])
def test_a_date_may_come_as_a_number(date):
    config = loaded(f"dump_date: {date}", f"pin: {{tokenizer: {date}}}")
    assert (config.dump_date, config.pin.tokenizer) == ("20261001", "20261001")


@pytest.mark.parametrize(
    "date", ["latest", "20261131", "2026-11-01", "'202611 1'", "'２０２６1101'", "null", "2026110"]
)
def test_what_is_no_day_of_the_calendar_is_no_date(date):
    with pytest.raises(UnknownDate, match=r"^my\.yaml: dump_date is "):
        loaded(f"dump_date: {date}")


def test_names_in_paths_carry_the_date_of_what_comes_from_a_dump():
    config = loaded("pin: {tokenizer: '20261001'}")
    assert (config.corpus_id("jawiki"), config.corpus_id("cc100")) == ("jawiki-20261101", "cc100")
    assert config.tokenizer_id("unigram-8k") == "unigram-8k-20261001"
    assert config.model_id("gpt2-small") == "gpt2-small-20261101"


# ---- publishing


def published(repo_id: str) -> str:
    return f"models: {{gpt2-small: {{publish: {{repo_id: {repo_id}}}}}}}"


def test_a_model_is_published_privately_under_its_date_and_nowhere_if_nothing_is_said():
    assert loaded().models["gpt2-small"].publish is None
    assert flags(loaded(published("you/gpt2-small-ja")).models["gpt2-small"].publish) == (
        "--repo-id=you/gpt2-small-ja --private=true --tag=null"
    )


@pytest.mark.parametrize(
    "repo_id", ["gpt2", "you/", "you/a--b", "you/猫", "-you/a", "you/a/b", "https://huggingface.co/you/a"]
)
def test_a_repository_has_a_namespace_and_a_name(repo_id):
    (line,) = mistakes(published(repo_id))
    assert line.startswith(f"my.yaml: models.gpt2-small.publish.repo_id is {repo_id!r}: a repository is NAMESPACE/NAME")


def test_no_two_models_are_published_in_one_repository():
    second = "other: {preset: gpt2-small, tokenizer: unigram-8k, corpora: {jawiki: 1}, publish: {repo_id: You/A}}"
    assert mistakes(published("you/a"), f"models: {{{second}}}") == [
        "--config: models.other.publish.repo_id is that of models.gpt2-small too; each model needs its own"
    ]


def test_a_mistyped_key_of_publishing_is_told_with_those_that_there_are():
    (line,) = mistakes("models: {gpt2-small: {publish: {repo_id: you/a, privat: true}}}")
    assert line == "my.yaml: models.gpt2-small.publish.privat is not a known key; did you mean private?"


# ---- merging


def test_an_entry_set_to_null_disappears():
    config = loaded("{models: {gpt2-small: null}, tokenizers: {unigram-8k: null}, corpora: {cc100: null}}")
    assert (list(config.corpora), config.tokenizers, config.models) == (["jawiki"], {}, {})


def test_a_null_that_snakemake_made_a_word_is_one_too():
    assert list(loaded("models: {gpt2-small: 'null'}").models) == []


def test_a_model_may_do_without_a_preset():
    own = "architecture: roberta, config: {num_hidden_layers: 3}, max_steps: 5"
    config = loaded(f"models: {{歌-base: null, own: {{{own}, tokenizer: unigram-8k, corpora: {{jawiki: 1}}}}}}")
    assert (list(config.models), config.models["own"].config.num_hidden_layers) == (["gpt2-small", "own"], 3)


def test_a_preset_is_overridden_key_by_key():
    model = loaded("models: {gpt2-small: {config: {n_layer: 3}, learning_rate: 1.0e-3}}").models["gpt2-small"]
    preset = yaml.safe_load((ROOT / "workflow/presets/gpt2-small.yaml").read_text(encoding="utf-8"))
    assert (model.config.n_layer, model.learning_rate) == (3, 0.001)
    assert (model.config.n_head, model.warmup_steps) == (preset["config"]["n_head"], preset["warmup_steps"])


def test_merging_changes_neither_side():
    below, above = {"a": {"b": 1, "c": [1]}}, {"a": {"b": {"d": 2}}}
    assert merge(below, above) == {"a": {"b": {"d": 2}, "c": [1]}}
    assert (below, above) == ({"a": {"b": 1, "c": [1]}}, {"a": {"b": {"d": 2}}})


def test_what_is_on_top_counts():
    assert loaded("filter: {min_characters: 5}", "filter: {min_characters: 7}").filter.min_characters == 7


# ---- filters


WEB = yaml.safe_load((PRESETS / "filter" / "web.yaml").read_text(encoding="utf-8"))


def test_a_corpus_without_rules_of_its_own_has_the_common_ones():
    config = loaded("filter: {preset: web, min_characters: 7}")
    made = config.filtering("jawiki").model_dump()
    assert {key: made[key] for key in WEB} == WEB | {"min_characters": 7}


def test_rules_of_one_corpus_lie_on_top_of_the_common_ones_and_leave_the_others_alone():
    config = loaded("filter: {preset: web, min_characters: 7}", "corpora: {jawiki: {filter: {min_kana: 0.5}}}")
    jawiki, cc100 = (config.filtering(name) for name in ("jawiki", "cc100"))
    assert (jawiki.min_kana, jawiki.min_characters, jawiki.min_letters) == (0.5, 7, WEB["min_letters"])
    assert cc100 == loaded("filter: {preset: web, min_characters: 7}").filtering("cc100")


def test_a_preset_of_its_own_takes_the_place_of_the_common_rules():
    config = loaded("filter: {preset: wikipedia, min_characters: 7}", "corpora: {cc100: {filter: {preset: web}}}")
    made = config.filtering("cc100").model_dump()
    assert {key: made[key] for key in WEB} == WEB
    assert config.filtering("jawiki").min_characters == 7


@pytest.mark.parametrize("keys", ["filter", "corpora.jawiki.filter"])
def test_a_filter_preset_that_is_none_is_met_with_all(keys):
    *outer, _ = keys.split(".")
    text = "filter: {preset: webb}"
    for key in reversed(outer):
        text = f"{key}: {{{text}}}"
    assert mistakes(text) == [
        f"my.yaml: {keys}.preset is 'webb', which is not one of: web, wikipedia; one of your own is a file "
        "workflow/presets/filter/NAME.yaml"
    ]


def test_what_signs_the_documents_is_told_to_filter_and_what_compares_them_is_not():
    before, signing, comparing = (loaded(text) for text in ("{}", "dedup: {num_perm: 256}", "dedup: {bands: 8}"))
    assert flags(before.filtering("jawiki")) != flags(signing.filtering("jawiki"))
    assert flags(before.filtering("jawiki")) == flags(comparing.filtering("jawiki"))
    assert flags(before.deduplication()) != flags(comparing.deduplication())


def test_bands_that_do_not_divide_the_signature_are_refused():
    assert mistakes("dedup: {bands: 9}") == ["my.yaml: dedup: num_perm 128 is no multiple of bands 9"]


# ---- mistakes, each with its place


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dumpdate: 5", "dumpdate is not a known key; did you mean dump_date?"),
        ("filter: {min_charakters: 5}", "filter.min_charakters is not a known key; did you mean min_characters?"),
        ("corpora: {jawiki: {licence: MIT}}", "corpora.jawiki.licence is not a known key; did you mean license?"),
        ("corpora: {jawiki: {filter: {min_kanas: 0.5}}}", "corpora.jawiki.filter.min_kanas is not a known key; did you mean min_kana?"),
        ("corpora: {cc100: {path: x}}", "corpora.cc100.path is not a known key; did you mean paths?"),
        ("tokenizers: {unigram-8k: {vocabsize: 5}}", "tokenizers.unigram-8k.vocabsize is not a known key; did you mean vocab_size?"),
        ("test_sets: {old: {paths: [x], path: [x]}}", "test_sets.old.path is not a known key; did you mean paths?"),
        ("models: {gpt2-small: {max_step: 5}}", "models.gpt2-small.max_step is not a known key; did you mean max_steps?"),
        ("models: {gpt2-small: {generation: {topk: 5}}}", "models.gpt2-small.generation.topk is not a known key; did you mean top_k?"),
        ("models: {gpt2-small: {config: {n_layers: 5}}}", "models.gpt2-small.config: sizes of a gpt2: n_layers is 5: not a known key; did you mean n_layer?"),
    ],
)  # fmt: skip
def test_a_misspelt_key_is_met_with_the_right_one(text, message):
    assert mistakes(text) == [f"my.yaml: {message}"]


def test_a_key_like_no_other_is_met_with_all():
    assert mistakes("evaluate: {困惑度: true}") == [
        "my.yaml: evaluate.困惑度 is not a known key; known are: measures, block_size, mlm_probability, pseudo_tokens, batch_size"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: {gpt2-small: {tokenizer: unigram-23k}}", "models.gpt2-small.tokenizer is 'unigram-23k', which is not one of: unigram-8k"),
        ("models: {gpt2-small: {corpora: {jawki: 1}}}", "models.gpt2-small.corpora has 'jawki', which is not one of: jawiki, cc100"),
        ("tokenizers: {own: {corpora: [jawiki], model: a.model, vocab_size: 9000, num_threads: 2}}", "tokenizers.own: model is 'a.model', which is used as it is; leave out num_threads, vocab_size"),
        ("tokenizers: {unigram-8k: {corpora: [歌]}}", "tokenizers.unigram-8k.corpora has '歌', which is not one of: jawiki, cc100"),
        ("tokenizers: {unigram-8k: {corpora: [jawiki, jawiki]}}", "tokenizers.unigram-8k.corpora names a corpus twice; to weigh it use {name: share}"),
        ("tokenizers: {unigram-8k: {corpora: {jawiki: 1, 歌: 2}}}", "tokenizers.unigram-8k.corpora has '歌', which is not one of: jawiki, cc100"),
        ("models: {gpt2-small: {preset: gpt3}}", "models.gpt2-small.preset is 'gpt3', which is not one of: " + ", ".join(path.stem for path in sorted(PRESETS.glob("*.yaml"))) + "; one of your own is a file workflow/presets/NAME.yaml"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_met_with_the_known_ones(text, message):
    assert mistakes(text, "split: {salt: 42}") == [f"my.yaml: {message}"]


def test_a_name_that_loses_its_entry_is_named_where_it_is_used():
    (line,) = mistakes("tokenizers: {unigram-8k: null}")
    assert line == "config.yaml: models.gpt2-small.tokenizer is 'unigram-8k', which is not one of: (none)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: {gpt2-small: {global_batch_size: 500}}", "global_batch_size 500 does not divide into per_device_train_batch_size 16; use 496 or 512"),
        ("models: {gpt2-small: {global_batch_size: 5}}", "global_batch_size 5 does not divide into per_device_train_batch_size 16; use 16"),
        ("models: {gpt2-small: {max_steps: 99, warmup_steps: 100}}", "warmup_steps 100 is more than max_steps 99"),
        ("models: {gpt2-small: {max_steps: 124}}", "warmup_steps 100 and 25 steps of decay (decay_fraction 0.2) are more than max_steps 124 together; lower one of them, or raise max_steps"),
    ],
)  # fmt: skip
def test_numbers_that_do_not_go_together_are_named(text, message):
    assert mistakes(text) == [f"my.yaml: models.gpt2-small: {message}"]


def test_more_new_tokens_than_a_block_has_are_refused_where_they_were_asked_for():
    (line,) = mistakes("models: {gpt2-small: {block_size: 64, generation: {max_new_tokens: 64}}}")
    assert line == (
        "my.yaml: models.gpt2-small.generation: max_new_tokens 64 must be less than block_size 64; set it to 32"
    )


@pytest.mark.parametrize(("block_size", "tokens"), [(64, 32), (100, 50), (101, 100)])
def test_new_tokens_that_nobody_asked_for_fit_into_a_small_block(block_size, tokens):
    cfg = loaded(f"models: {{gpt2-small: {{block_size: {block_size}, generation: {{top_k: 7}}}}}}")
    assert cfg.export("gpt2-small").generation.max_new_tokens == tokens


def test_numbers_that_only_just_go_together_are_taken():
    model = loaded("models: {gpt2-small: {max_steps: 125, generation: {max_new_tokens: 1023}}}")
    assert model.models["gpt2-small"].generation.max_new_tokens == model.models["gpt2-small"].block_size - 1


@pytest.mark.parametrize(
    ("architecture", "width", "heads"),
    [("gpt2", "n_embd", "n_head"), ("roberta", "hidden_size", "num_attention_heads")],
)
def test_heads_that_do_not_divide_the_width_are_named(architecture, width, heads):
    sizes = f"architecture: {architecture}, config: {{{width}: 100, {heads}: 7}}"
    model = f"{{{sizes}, corpora: {{jawiki: 1}}, max_steps: 1, tokenizer: unigram-8k}}"
    (line,) = mistakes(f"models: {{own: {model}}}")
    assert line == f"my.yaml: models.own.config: sizes of a {architecture}: {width} 100 is no multiple of {heads} 7"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("per_device_train_batch_size: 0", ".per_device_train_batch_size is 0: neither auto nor a whole number from 1 on"),
        ("per_device_train_batch_size: 猫", ".per_device_train_batch_size is '猫': neither auto nor a whole number from 1 on"),
        ("config: 5", ".config is 5: sizes of a gpt2: Input should be a valid dictionary or instance of GPT2"),
        ("architecture: gpt3, config: {n_lyer: 2}", ".architecture is 'gpt3': Input should be 'gpt2', 'gpt_neo', 'llama', 'roberta', 'bert' or 'modernbert'"),
    ],
)  # fmt: skip
def test_what_may_be_of_several_kinds_is_refused_once(entry, message):
    assert mistakes(f"models: {{gpt2-small: {{{entry}}}}}") == [f"my.yaml: models.gpt2-small{message}"]


def test_each_mistake_is_told_with_the_file_it_was_made_in():
    lines = mistakes("{split: {valid_fraction: 0.7}, filter: {min_characters: 多}}", "filter: {min_characters: 少}")
    assert [line.partition(" is ")[0] for line in lines] == [
        "--config: filter.min_characters",
        "my.yaml: split.valid_fraction",
    ]


def test_a_key_that_no_file_has_is_missing_from_all():
    (line,) = mistakes("corpora: {uta: {source: text, license: MIT}}")
    assert line == "config.yaml, my.yaml: corpora.uta.paths is missing"


@pytest.mark.parametrize("name", ["jawiki/2", "my corpus", "-x", "歌", "../x", "2026"])
def test_a_name_that_cannot_be_a_path_is_refused_with_its_place(name):
    (line,) = mistakes(f"corpora: {{'{name}': {{source: text, paths: [a.txt], license: MIT}}}}")
    assert line.startswith(f"my.yaml: corpora.{name} is '{name}': a name begins with a letter")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("wiki", "JA", "name of a wiki"), ("sha1", "abc", "40 digits"), ("sha1", "'" + "A" * 40 + "'", "40 digits of 0-9 and a-f")],
)  # fmt: skip
def test_what_a_value_has_to_look_like_is_told_in_words(key, value, words):
    (line,) = mistakes(f"corpora: {{jawiki: {{{key}: {value}}}}}")
    assert words in line and "^" not in line


def test_the_date_of_a_pin_is_told_in_words():
    assert mistakes("pin: {tokenizer: latest}") == ["my.yaml: pin.tokenizer is 'latest': a date is 8 digits, YYYYMMDD"]


@pytest.mark.parametrize("name", ["text", "mediawiki"])
def test_a_corpus_may_be_called_as_its_kind(name):
    (line,) = mistakes(f"corpora: {{{name}: {{source: text, paths: [], license: MIT}}}}")
    assert line.startswith(f"my.yaml: corpora.{name}.paths is []: ")


def test_a_mirror_that_is_no_address_is_refused():
    assert mistakes("corpora: {jawiki: {mirror: dumps}}") == [
        "my.yaml: corpora.jawiki.mirror is 'dumps': is no https:, http: or file: address"
    ]


@pytest.mark.parametrize("passes", [0, -1])
def test_a_corpus_is_passed_over_or_not_named_at_all(passes):
    (line,) = mistakes(f"models: {{gpt2-small: {{corpora: {{jawiki: {passes}}}}}}}")
    assert line.startswith(f"my.yaml: models.gpt2-small.corpora.jawiki is {passes}: ")


@pytest.mark.parametrize("weight", ["0", "-1", ".inf", ".nan"])
def test_a_share_of_a_sample_is_a_positive_number(weight):
    (line,) = mistakes(f"tokenizers: {{unigram-8k: {{corpora: {{jawiki: {weight}}}}}}}")
    assert line.startswith("my.yaml: tokenizers.unigram-8k.corpora.jawiki is ")


@pytest.mark.parametrize("corpora", ["[]", "{}", "{jawiki: null}"])
def test_a_tokenizer_needs_a_corpus(corpora):
    (line,) = mistakes(f"tokenizers: {{unigram-8k: null, own: {{corpora: {corpora}}}}}", "models: {gpt2-small: null}")
    assert line.startswith("my.yaml: tokenizers.own.corpora is ")


# ---- what the stages are told


def test_download_is_told_what_belongs_to_it():
    sha1 = "0123456789" * 4
    config = loaded(
        f"{{contact: 'mailto:jalm@example.org', corpora: {{jawiki: {{mirror: 'file:鏡', sha1: '{sha1}'}}}}}}"
    )
    assert flags(config.download("jawiki")) == f"--wiki=jawiki --layout=auto --sha1={sha1} --date=20261101"
    neutral = shlex.split(flags(config.download("jawiki"), neutral=True))
    assert neutral == ["--mirror=file:鏡", "--retries=5", "--connections=1", "--contact=mailto:jalm@example.org"]


def test_export_is_told_the_licence_of_each_corpus():
    told = loaded("corpora: {cc100: {attribution: 「歌」の人}}").export("gpt2-small")
    assert told.name == "gpt2-small-20261101"
    assert told.data == [
        {"name": "jawiki-20261101", "license": "CC-BY-SA-4.0", "attribution": ""},
        {"name": "cc100", "license": "MIT", "attribution": "「歌」の人"},
    ]


def test_a_neutral_knob_leaves_the_flags_as_they_are():
    before, after = (
        loaded(text).models["gpt2-small"] for text in ("{}", "models: {gpt2-small: {per_device_train_batch_size: 4}}")
    )
    assert flags(before) == flags(after)
    assert flags(before, neutral=True) != flags(after, neutral=True)


def test_a_corpus_may_not_take_the_dated_name_of_another():
    assert mistakes("corpora: {jawiki-20261101: {source: text, paths: [a.txt], license: MIT}}", "{}") == [
        "my.yaml: corpora.jawiki-20261101 has the name in paths of corpora.jawiki; rename one"
    ]


@pytest.mark.parametrize("name", ["jawiki-20261101", "jawiki-20261101-valid"])
def test_a_test_set_may_not_take_the_name_of_a_side(name):
    assert mistakes(f"test_sets: {{{name}: {{paths: [a.txt]}}}}") == [
        f"my.yaml: test_sets.{name} has the name of a side of corpora.jawiki; rename it"
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [("", "is missing: mediawiki (a dump) or text (local files)"), ("source: txt, ", "is 'txt', which is not one of: mediawiki, text")],
)  # fmt: skip
def test_a_corpus_of_no_known_source_is_met_with_those_that_are(source, message):
    (line,) = mistakes(f"corpora: {{uta: {{{source}paths: [a.txt], license: MIT}}}}")
    assert line.endswith(f"my.yaml: corpora.uta.source {message}")


def test_a_key_that_a_file_has_twice_is_named_with_its_lines(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "corpora:\n  歌: {parts: 1}\n  b:\n  '歌': {parts: 2, parts: 3}\n", encoding="utf-8"
    )
    assert repeated_keys(tmp_path / "c.yaml") == [
        f"{tmp_path}/c.yaml: corpora.歌 is there twice, in lines 2 and 4; rename or remove one",
        f"{tmp_path}/c.yaml: corpora.歌.parts is there twice, in lines 4 and 4; rename or remove one",
    ]


def test_entries_merged_from_several_anchors_are_no_key_twice(tmp_path):
    (tmp_path / "c.yaml").write_text("a: &a {x: 1}\nb: &b {y: 2}\nc:\n  <<: *a\n  <<: *b\n", encoding="utf-8")
    assert repeated_keys(tmp_path / "c.yaml") == []


@pytest.mark.parametrize("name", ["config.yaml", "demo.yaml"])
def test_what_is_shipped_has_no_key_twice(name):
    assert repeated_keys(ROOT / name) == []


def test_a_json_file_may_have_tabs(tmp_path):
    (tmp_path / "c.json").write_text('{\n\t"dump_date": "20261101"\n}', encoding="utf-8")
    assert repeated_keys(tmp_path / "c.json") == []


def test_bounds_between_which_no_document_is_are_refused():
    with pytest.raises(ConfigError, match="min_characters 9 is more than max_characters 8"):
        loaded("filter: {min_characters: 9, max_characters: 8}")


def test_activations_are_those_that_transformers_knows():
    from transformers.activations import ACT2FN

    assert set(get_args(Activation)) <= ACT2FN.keys()


def test_a_file_on_top_can_take_a_corpus_out_of_a_mixture():
    corpora = "corpora: {memo: {source: text, paths: [a.txt], license: CC0-1.0}}"
    config = loaded(f"{{{corpora}, models: {{gpt2-small: {{corpora: {{jawiki: null, memo: 1}}}}}}}}")
    assert config.models["gpt2-small"].corpora == {"cc100": 0.5, "memo": 1.0}


def test_the_corpora_of_a_sample_are_a_list_or_shares_of_which_some_are_taken_out():
    def told(corpora):
        return loaded(f"tokenizers: {{own: {{corpora: {corpora}}}}}").tokenizers["own"]

    assert told("[jawiki, cc100]").corpora == ["jawiki", "cc100"]
    assert told("{jawiki: 3, cc100: null}").corpora == {"jawiki": 3.0}
    weights = [
        flags(told(corpora)) for corpora in ("{jawiki: 3, cc100: 1}", "{jawiki: 2, cc100: 1}", "[jawiki, cc100]")
    ]
    assert '--corpora=\'{"jawiki": 3.0, "cc100": 1.0}\'' in weights[0]
    assert len(set(weights)) == 3


def test_a_default_that_is_said_is_the_same_option_as_one_that_is_not():
    silent = Tokenizer(corpora=["a"])
    said = {name: getattr(silent, name) for name in TrainTokenizer.model_fields}
    assert flags(Tokenizer(**said), TrainTokenizer) == flags(silent, TrainTokenizer)
    for section in (Extract, ImportText, Filter, Dedup, Split, Evaluate, Generation):
        assert flags(section(**dict(section()))) == flags(section())


def test_flags_are_read_as_they_were_spelt_out():
    section = Publish(repo_id="you/a-b", tag="版 1=x")
    assert parse_flags(flags(section)) == {"repo_id": "you/a-b", "private": "true", "tag": "版 1=x"}
