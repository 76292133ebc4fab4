import json
from types import SimpleNamespace

import pytest
import torch
from tiny import model
from torch.nn import functional
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import eager_attention_forward

from jalm.formats.attention import attention
from jalm.formats.models import CLASSES, Objective
from jalm.sizes import MASKED

torch.set_num_threads(1)

PLACES = torch.arange(20)


def tensors(key_heads: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries of 4 heads, keys and values, of two sequences of 20 tokens."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, heads, 20, 8, generator=generator) for heads in (4, key_heads, key_heads))


def expected(seen, *given: torch.Tensor, scaling: float = 8**-0.5) -> torch.Tensor:
    """What transformers' own attention makes of it where each token sees some places."""
    layer = SimpleNamespace(num_key_value_groups=4 // given[1].shape[1], training=False)
    return eager_attention_forward(layer, *given, torch.where(seen, 0.0, -torch.inf), scaling)[0]


@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_a_causal_layer_attends_to_what_came_before(key_heads):
    given = tensors(key_heads)
    made, weights = attention(SimpleNamespace(is_causal=True), *given, None)
    assert weights is None
    torch.testing.assert_close(made, expected(PLACES[:, None] >= PLACES, *given))


def test_a_layer_with_a_scale_of_its_own_has_it():
    made, _ = attention(SimpleNamespace(is_causal=True), *tensors(), None, scaling=0.7)
    torch.testing.assert_close(made, expected(PLACES[:, None] >= PLACES, *tensors(), scaling=0.7))


def test_documents_attend_to_themselves_only():
    documents = torch.tensor([[0] * 6 + [1] * 13 + [2], [5] * 20])
    made, _ = attention(SimpleNamespace(is_causal=False), *tensors(), None, documents=documents)
    seen = torch.stack([torch.block_diag(torch.ones(6, 6), torch.ones(13, 13), torch.ones(1, 1)), torch.ones(20, 20)])
    torch.testing.assert_close(made, expected(seen[:, None].bool(), *tensors()))


@pytest.mark.parametrize("reach", [0, 1, 5, 30])
def test_a_window_reaches_one_token_less_than_its_number_to_each_side(reach):
    documents = torch.tensor([[0] * 16 + [1] * 4, [0] * 20])
    layer = SimpleNamespace(is_causal=False)
    made, _ = attention(layer, *tensors(), None, documents=documents, sliding_window=reach + 1)
    near = (PLACES[:, None] - PLACES).abs() <= reach
    seen = near & (documents[:, :, None] == documents[:, None, :])
    torch.testing.assert_close(made, expected(seen[:, None], *tensors()))


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_causal_models_are_given_no_mask(architecture, monkeypatch):
    calls, plain = [], functional.scaled_dot_product_attention

    def seen(*given, **named):
        calls.append((named["attn_mask"], named["is_causal"]))
        return plain(*given, **named)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", seen)
    tokens = torch.randint(7, 400, (2, 24))
    Objective(model(architecture))(inputs=tokens, labels=tokens.flatten())
    assert calls == [(None, True)] * 2  # one for each layer


@pytest.mark.parametrize("architecture", CLASSES)
def test_nothing_of_it_stays_in_what_is_saved(architecture, tmp_path):
    made = model(architecture)
    made.save_pretrained(tmp_path / "before")
    Objective(made).model.save_pretrained(tmp_path / "after")
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("before", "after"))
    assert before == after
    assert "jalm" not in (tmp_path / "after/config.json").read_text()


@pytest.mark.parametrize("architecture", sorted(CLASSES.keys() - MASKED))
def test_a_model_that_was_trained_generates_once_it_is_loaded_again(architecture, tmp_path):
    made, prompt = model(architecture), torch.tensor([[9, 8, 7]])
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    wanted = made.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    Objective(made).model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.generate(prompt, attention_mask=torch.ones_like(prompt), **options), wanted)
    assert wanted.shape == (1, 8)
