"""The presets of models: each is valid, those of others have their published numbers, docs/recipes.md says what they are."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from jalm.config import Model
from jalm.configfile import PRESETS, load, merge
from jalm.sizes import MASKED

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))
SPECIAL = {f"{name}_token_id": number for number, name in enumerate(("pad", "bos", "eos", "cls", "sep"))}

# colorfulscoop/gpt-ja, its README and input/; an epoch is 263,236 batches, of which 16 make an update
GPT_JA = {
    "block_size": 1024, "global_batch_size": 2 * 16, "max_steps": 30 * (263_236 // 16), "learning_rate": 1e-4,
    "warmup_steps": 10_000, "lr_scheduler_type": "constant", "max_grad_norm": 0, "mixed_precision": "fp16", "seed": 1000,
}  # fmt: skip
ADAM = {"optim": "adamw", "weight_decay": 0, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8}  # torch's
GPT2_SMALL = {"n_layer": 12, "n_head": 12, "n_embd": 768}
BASE = {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 768, "intermediate_size": 3072}

# rinnakk/japanese-pretrained-models, its train.py and README: on 8 GPUs, steps and warm-up in batches
RINNA = {
    "optim": "adamw", "weight_decay": 0.01, "adam_beta1": 0.9, "max_grad_norm": 1.0, "lr_scheduler_type": "linear",
    "mixed_precision": "fp16", "seed": 42,
}  # fmt: skip
RINNA_GPT2 = RINNA | {"block_size": 1024, "adam_beta2": 0.95, "adam_epsilon": 1e-8}

PUBLISHED = {  # numbers of the training, sizes, dropout
    "gpt2-small-ja": (GPT_JA | ADAM, GPT2_SMALL, 0.1),
    "gpt2-small-ja-v2": (
        GPT_JA | ADAM | {"max_steps": 476_700, "lr_scheduler_type": "linear", "max_grad_norm": 1.0}, GPT2_SMALL, 0.1
    ),
    "gpt-neo-small-ja": (GPT_JA | ADAM, {"num_layers": 12, "num_heads": 12, "hidden_size": 768, "window_size": 256}, 0),
    "japanese-gpt2-xsmall": (
        RINNA_GPT2 | {
            "global_batch_size": 8 * 20 * 3, "max_steps": 1_600_000 // 3, "warmup_steps": round(2_000 / 3),
            "learning_rate": 7e-4,
        },
        {"n_layer": 6, "n_head": 8, "n_embd": 512, "n_inner": 2304}, 0.1,
    ),
    "japanese-gpt2-small": (
        RINNA_GPT2 | {
            "global_batch_size": 8 * 8 * 8, "max_steps": 4_000_000 // 8, "warmup_steps": 2_000 // 8,
            "learning_rate": 6e-4,
        },
        GPT2_SMALL | {"n_inner": 3072}, 0.1,
    ),
    "japanese-gpt2-medium": (
        RINNA_GPT2 | {
            "global_batch_size": 8 * 3 * 20, "max_steps": 13_000_000 // 20, "warmup_steps": 2_000 // 20,
            "learning_rate": 3e-4,
        },
        {"n_layer": 24, "n_head": 16, "n_embd": 1024, "n_inner": 4096}, 0.1,
    ),
    "japanese-roberta-base": (
        RINNA | {
            "block_size": 512, "global_batch_size": 8 * 32 * 16, "max_steps": 3_000_000 // 16,
            "warmup_steps": 10_000 // 16, "learning_rate": 6e-4, "adam_beta2": 0.98, "adam_epsilon": 1e-6,
            "mlm_probability": 0.15, "mask_replace_prob": 1, "random_replace_prob": 0,
        },
        BASE, 0.1,
    ),
    "bert-base-ja": (
        ADAM | {
            "block_size": 512, "global_batch_size": 8 * 32, "max_steps": 214_000, "warmup_steps": 10_000,
            "learning_rate": 1e-4, "lr_scheduler_type": "constant", "max_grad_norm": 1.0, "mixed_precision": "fp16",
            "mlm_probability": 0.15, "mask_replace_prob": 0.8, "random_replace_prob": 0.1, "seed": 1000,
        },
        BASE, 0.1,
    ),
    "transformer-lm": (
        ADAM | {
            "block_size": 1024, "global_batch_size": 2, "warmup_steps": 0, "learning_rate": 2.5e-4,
            "lr_scheduler_type": "constant", "max_grad_norm": 0, "mixed_precision": "no",
            # Adam divides by the root of the squared gradients plus epsilon: a loss times 1/32 is an epsilon times 32
            "adam_epsilon": 1e-8 * (512 * 4 * 32) / (1024 * 2),
        },
        GPT2_SMALL, 0,
    ),
}  # fmt: skip
OURS = ["bert-base", "gpt2-medium", "gpt2-small", "llama-small", "modernbert-base", "roberta-base"]


def model_of(name: str) -> Model:
    """An entry of `models` that is the preset and nothing else."""
    config = load(
        {
            "dump_date": "20261101",
            "corpora": {"jawiki": {"source": "mediawiki", "license": "CC-BY-SA-4.0"}},
            "tokenizers": {"unigram-32k": {"corpora": ["jawiki"]}},
            "models": {"m": {"preset": name, "tokenizer": "unigram-32k", "corpora": {"jawiki": 1}}},
        }
    )
    return config.models["m"]


def parameters(model: Model, vocab_size: int) -> int:
    """Numbers that such a model of transformers has to learn."""
    positions = model.block_size + (2 if model.architecture == "roberta" else 0)
    sizes = model.config.model_dump() | {"vocab_size": vocab_size, "max_position_embeddings": positions} | SPECIAL
    if model.architecture == "gpt_neo":
        sizes["attention_types"] = [[["global", "local"], model.config.num_layers // 2]]
    kind = AutoModelForMaskedLM if model.architecture in MASKED else AutoModelForCausalLM
    with torch.device("meta"):
        made = kind.from_config(AutoConfig.for_model(model.architecture, **sizes))
    return sum(parameter.numel() for parameter in made.parameters())


def dropout(model: Model) -> set[float]:
    return {value for name, value in model.config.model_dump().items() if "drop" in name}


def test_there_is_a_preset_for_each_published_recipe_and_for_each_of_ours():
    assert sorted([*PUBLISHED, *OURS]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_a_model_and_begins_with_its_source(name):
    assert model_of(name).max_steps > model_of(name).warmup_steps
    assert (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_numbers_that_were_published(name):
    training, sizes, share = PUBLISHED[name]
    model = model_of(name)
    assert {key: getattr(model, key) for key in training} == pytest.approx(training)
    assert {key: getattr(model.config, key) for key in sizes} == sizes
    assert dropout(model) == {share}


def test_the_tokens_seen_are_those_of_the_published_epochs():
    # gpt-ja's README: 30 epochs of 540 million tokens; two blocks a batch, the last incomplete update left out
    model = model_of("gpt2-small-ja")
    seen = model.max_steps * model.global_batch_size * model.block_size
    assert seen == pytest.approx(30 * 540e6, rel=0.002)
    assert model_of("gpt-neo-small-ja").max_steps == model.max_steps


@pytest.mark.parametrize(
    ("name", "vocab_size", "millions"),
    [  # as their tables of models, their papers or transformers' model cards have it
        ("gpt2-small-ja", 32_000, 110),
        ("japanese-gpt2-xsmall", 32_000, 37),
        ("japanese-gpt2-small", 32_000, 110),
        ("japanese-gpt2-medium", 32_000, 336),
        ("japanese-roberta-base", 32_000, 110),
        ("gpt2-small", 50_257, 124),
        ("gpt2-medium", 50_257, 355),
        ("bert-base", 30_522, 110),
        ("roberta-base", 50_265, 125),
        ("modernbert-base", 50_368, 149),
    ],
)
def test_a_preset_has_as_many_parameters_as_was_published(name, vocab_size, millions):
    assert parameters(model_of(name), vocab_size) / 1e6 == pytest.approx(millions, abs=1)


@pytest.mark.parametrize("name", OURS)
def test_ours_have_muon_a_stable_learning_rate_and_no_dropout(name):
    model = model_of(name)
    assert (model.optim, model.lr_scheduler_type, model.decay_fraction) == ("muon", "warmup_stable_decay", 0.2)
    assert (dropout(model), model.mixed_precision, model.warmup_steps) == ({0.0}, "bf16", model.max_steps / 100)
    assert model.global_batch_size * model.block_size == 2**19  # tokens


@pytest.mark.parametrize("name", NAMES)
def test_the_page_about_recipes_says_what_is_in_the_preset(name):
    model = model_of(name)
    (row,) = re.findall(rf"(?m)^\| `{name}` \| (.+) \|$", PAGE)
    (share,) = dropout(model)
    warmup = f"{model.warmup_steps:,}, " if model.warmup_steps else ""
    assert row.split(" | ")[1:-1] == [
        f"{parameters(model, 32_000) / 1e6:.0f} M",
        f"{model.block_size:,} x {model.global_batch_size:,}",
        f"{model.max_steps:,}",
        f"{model.block_size * model.global_batch_size * model.max_steps / 1e9:.1f} B",
        model.optim,
        f"{model.learning_rate:g}",
        warmup + model.lr_scheduler_type,
        f"{model.weight_decay:g}",
        f"{model.max_grad_norm:g}",
        f"{share:g}",
    ]


@pytest.mark.parametrize("block", re.findall(r"(?s)```yaml\n(.+?)```", PAGE))
def test_what_the_page_says_to_write_is_a_configuration(block):
    load(merge(yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8")), yaml.safe_load(block)))
