from pathlib import Path
from unittest import mock

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from tiny import Tiny, model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForPreTraining

from jalm import sizes as configured
from jalm.formats import machine, models
from jalm.formats.batches import Feed, Masking, Row
from jalm.formats.ids import IGNORED
from jalm.formats.models import ModelError, Objective
from jalm.formats.shards import Shards
from jalm.sizes import MASKED

PIECES = 400
BOS, EOS = 2, 3
CAUSAL = sorted(models.CLASSES.keys() - MASKED)
CLASSES = {
    "gpt2": ("GPT2LMHeadModel", AutoModelForCausalLM),
    "gpt_neo": ("GPTNeoForCausalLM", AutoModelForCausalLM),
    "llama": ("LlamaForCausalLM", AutoModelForCausalLM),
    "roberta": ("RobertaForMaskedLM", AutoModelForMaskedLM),
    "bert": ("BertForPreTraining", AutoModelForPreTraining),
    "modernbert": ("ModernBertForMaskedLM", AutoModelForMaskedLM),
}

torch.set_num_threads(1)  # what is this small only gets slower with more


def ordinary(*shape: int, seed: int = 0) -> np.ndarray:
    """Tokens that are not special."""
    return np.random.default_rng(seed).integers(7, PIECES, shape)


def sizes(architecture: str, **others: object) -> dict:
    return Tiny.config(architecture).config.model_dump() | others


def packed(architecture: str, lengths: list[int]) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Two rows of documents, all tokens predicted, as an objective is fed; and each document as the model is alone."""
    ends = np.cumsum(lengths)
    documents, positions = np.repeat(range(len(lengths)), lengths), np.concatenate([np.arange(n) for n in lengths])
    tokens, total = torch.from_numpy(ordinary(2, ends[-1])), 2 * int(ends[-1])
    tensors = {"inputs": tokens, "places": torch.arange(total)}
    tensors["documents"] = torch.from_numpy(np.tile(documents, (2, 1)))
    named = {"input_ids": tokens}
    if architecture != "modernbert":
        tensors["positions"] = torch.from_numpy(np.tile(positions, (2, 1))) + (architecture == "roberta")
    if architecture == "bert":
        named["token_type_ids"] = tensors["token_types"] = torch.from_numpy(ordinary(2, ends[-1], seed=1) % 2)
        tensors["pair_places"] = torch.tensor(
            [int(end - n + row * ends[-1]) for row in (0, 1) for end, n in zip(ends, lengths, strict=True)]
        )
    alone = [
        {name: tensor[row : row + 1, end - n : end] for name, tensor in named.items()}
        for row in (0, 1)
        for end, n in zip(ends, lengths, strict=True)
    ]
    return tensors, alone


# ---- the models themselves


@pytest.mark.parametrize("architecture", CLASSES)
def test_a_model_is_a_plain_class_of_transformers_and_stays_it(architecture, tmp_path):
    name, auto = CLASSES[architecture]
    made = model(architecture)
    assert type(made) is getattr(transformers, name)
    made.save_pretrained(tmp_path)
    for loaded in (models.load(str(tmp_path)), auto.from_pretrained(tmp_path)):
        assert type(loaded) is type(made)
        assert not loaded.training
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in made.state_dict().items())


@pytest.mark.parametrize("architecture", CLASSES)
def test_a_model_has_the_config_asked_for(architecture):
    asked = sizes(architecture)
    config = models.config_of(architecture, asked, PIECES, 24)
    if theta := asked.pop("rope_theta", None):
        assert config.rope_parameters["rope_theta"] == theta
    asked["num_key_value_heads"] = asked.get("num_key_value_heads") or getattr(config, "num_key_value_heads", None)
    for name, value in asked.items():
        assert getattr(config, name, None) == value
    ids = (config.pad_token_id, config.bos_token_id, config.eos_token_id)
    assert (config.model_type, config.vocab_size, *ids) == (architecture, PIECES, 0, BOS, EOS)


@pytest.mark.parametrize("architecture", CLASSES)
def test_a_model_takes_as_many_tokens_as_it_was_built_for(architecture):
    made = model(architecture)
    assert models.block_size(made) == 24
    assert made(input_ids=torch.from_numpy(ordinary(1, 24)))[0].shape == (1, 24, PIECES)
    if architecture in ("llama", "modernbert"):  # whose positions are rotated, not stored
        assert made.config.max_position_embeddings == 24
        return
    with pytest.raises((IndexError, RuntimeError)):
        made(input_ids=torch.from_numpy(ordinary(1, 25)))


@pytest.mark.parametrize("architecture", CLASSES)
def test_weights_depend_on_the_random_state_only(architecture):
    first, again, other = (model(architecture, 8, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("architecture", CLASSES)
def test_operations_of_a_token_are_those_that_torch_counts(architecture):
    made = model(architecture)
    made.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        made(input_ids=torch.from_numpy(ordinary(2, 24)))[0].sum().backward()
    counted = counter.get_total_flops() / 48
    assert models.flops_per_token(made, 24, predicted=1.0) == pytest.approx(counted, rel=0.05)


def test_operations_of_the_last_layer_count_for_the_predicted_tokens_only():
    roberta = model("roberta")
    tensors, _ = packed("roberta", [24])
    tensors["places"] = torch.arange(0, 48, 4)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        Objective(roberta)(labels=torch.full((12,), 9), **tensors).sum().backward()
    assert models.flops_per_token(roberta, 24, predicted=0.25) == pytest.approx(
        counter.get_total_flops() / 48, rel=0.05
    )


def test_a_model_of_another_kind_is_not_loaded(tmp_path):
    transformers.T5Config().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a t5, which is not one of: gpt2, "):
        models.load(tmp_path)


@pytest.mark.parametrize(
    ("error", "said"), [(OSError(" \nno file\nmore"), "no file"), (ValueError(), "ValueError"), (KeyError("a"), "'a'")]
)
def test_the_reason_of_an_error_is_a_line_also_of_one_that_says_nothing(error, said, monkeypatch, tmp_path):
    assert models.reason(error) == said
    monkeypatch.setattr(models.AutoConfig, "from_pretrained", mock.Mock(side_effect=error))
    with pytest.raises(ModelError, match=f"cannot be loaded as a model: {said}$"):
        models.whole(tmp_path)


# ---- models to start from


@pytest.mark.parametrize(
    ("architecture", "dropout"),
    [
        ("gpt2", "resid_pdrop"),
        ("gpt_neo", "embed_dropout"),
        ("llama", "attention_dropout"),
        ("roberta", "hidden_dropout_prob"),
        ("bert", "attention_probs_dropout_prob"),
        ("modernbert", "mlp_dropout"),
    ],
)
def test_a_training_starts_from_the_weights_of_a_model_with_dropout_of_its_own(architecture, dropout, tmp_path):
    before = model(architecture)
    before.save_pretrained(tmp_path)
    started = models.start_from(str(tmp_path), architecture, sizes(architecture, **{dropout: 0.3}), PIECES, 24)
    assert type(started) is type(before)
    assert all(torch.equal(value, started.state_dict()[name]) for name, value in before.state_dict().items())
    assert (getattr(before.config, dropout), getattr(started.config, dropout)) == (0.0, 0.3)


def test_weights_that_were_saved_in_bf16_are_trained_in_full_precision(tmp_path):
    before = model("gpt2").bfloat16()
    before.save_pretrained(tmp_path)
    started = models.start_from(str(tmp_path), "gpt2", sizes("gpt2"), PIECES, 24)
    assert {parameter.dtype for parameter in started.parameters()} == {torch.float32}
    assert torch.equal(started.lm_head.weight, before.lm_head.weight.float())


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (("gpt2", sizes("gpt2", n_layer=3, n_embd=64), PIECES, 24), "has n_embd 32, not 64, n_layer 2, not 3; the"),
        (("gpt2", sizes("gpt2"), 401, 24), "vocab_size 400, not 401; the"),
        (("gpt2", sizes("gpt2"), PIECES, 48), "which has block_size 24, not 48; the"),
        (
            ("gpt2", sizes("gpt2", activation_function="relu"), PIECES, 24),
            "activation_function gelu_new, not relu; the",
        ),
        (("roberta", sizes("roberta"), PIECES, 24), "model_type gpt2, not roberta; the"),
    ],
    ids=["sizes", "vocabulary", "positions", "activation", "type"],
)
def test_a_model_that_is_not_what_the_entry_says_is_refused(wanted, said, tmp_path):
    model("gpt2").save_pretrained(tmp_path)
    with pytest.raises(ModelError) as refused:
        models.start_from(str(tmp_path), *wanted)
    assert str(refused.value).startswith(f"init_model is {str(tmp_path)!r}, which ")
    assert said in str(refused.value)


def test_positions_of_a_first_model_are_told_as_the_block_size_that_was_set(tmp_path):
    model("roberta").save_pretrained(tmp_path)  # 26 positions
    with pytest.raises(ModelError, match="which has block_size 24, not 48; the"):
        models.start_from(str(tmp_path), "roberta", sizes("roberta"), PIECES, 48)


def test_a_window_of_another_width_is_another_model(tmp_path):
    model("modernbert").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="local_attention 8, not 16"):
        models.start_from(str(tmp_path), "modernbert", sizes("modernbert", local_attention=16), PIECES, 24)


def nothing(folder):
    (folder / "config.json").unlink()
    (folder / "model.safetensors").unlink()


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def cut_short(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def of_another(folder):
    model("gpt2", n_embd=64).save_pretrained(folder / "other")
    (folder / "other/model.safetensors").replace(folder / "model.safetensors")


@pytest.mark.parametrize("spoil", [nothing, no_weights, cut_short, of_another])
def test_a_folder_that_is_no_model_is_refused_by_name(spoil, tmp_path):
    model("gpt2").save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ModelError) as refused:
        models.start_from(str(tmp_path), "gpt2", sizes("gpt2"), PIECES, 24)
    assert str(refused.value).startswith(f"init_model is {str(tmp_path)!r}, which cannot be loaded: ")


@pytest.mark.parametrize("name", ["results/pretrain/猫-20261001", "./猫", "猫/小", "gpt2-medium@main"])
def test_a_folder_that_is_not_there_is_told_from_where(name):
    with pytest.raises(ModelError) as refused:
        models.start_from(name, "gpt2", sizes("gpt2"), PIECES, 24)
    assert str(refused.value) == (
        f"init_model is {name!r}, but there is no such folder (seen from {Path.cwd()}); a name on the Hub is OWNER/NAME "
        "or OWNER/NAME@REVISION"
    )


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """What a machine without network has of the Hub: owner/small in two revisions, of which v1 is the older."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository, made = tmp_path / "models--owner--small", {}
    (repository / "refs").mkdir(parents=True)
    for seed, revision in enumerate(("v1", "main")):
        made[revision] = model("gpt2", seed=seed)
        made[revision].save_pretrained(repository / "snapshots" / (str(seed) * 40))
        (repository / "refs" / revision).write_text(str(seed) * 40)
    return made


@pytest.mark.parametrize(("name", "revision"), [("owner/small", "main"), ("owner/small@v1", "v1")])
def test_a_training_starts_from_a_revision_on_the_hub(hub, name, revision):
    started = models.start_from(name, "gpt2", sizes("gpt2"), PIECES, 24)
    assert torch.equal(started.lm_head.weight, hub[revision].lm_head.weight)


@pytest.mark.parametrize("name", ["owner/none", "owner/small@v2"])
def test_what_the_hub_cannot_be_asked_for_is_told_to_be_no_folder_either(hub, name):
    with pytest.raises(
        ModelError, match=r"which is no folder \(seen from /.*\), and cannot be loaded from the Hub: We could"
    ):
        models.start_from(name, "gpt2", sizes("gpt2"), PIECES, 24)


# ---- the objective


@pytest.mark.parametrize("architecture", CAUSAL)
def test_the_loss_of_next_tokens_is_that_of_transformers_summed(architecture, stream):
    tokens = ordinary(3 * 17)
    shards, made = Shards(stream(tokens)), model(architecture)
    blocks = torch.from_numpy(tokens.reshape(3, 17))
    batch = Feed(architecture, 16, PIECES, None).batch([Row(shards, 17 * n, 17) for n in range(3)])
    with torch.no_grad():
        mean = made(input_ids=blocks, labels=blocks).loss.item()
        (total,) = Objective(made)(**batch.tensors).tolist()
    assert batch.counts.tolist() == [3 * 16]
    assert total == pytest.approx(mean * 3 * 16, rel=1e-5)


@pytest.mark.parametrize("architecture", ["roberta", "modernbert"])
def test_the_loss_of_masked_tokens_is_that_of_transformers_summed(architecture, stream):
    rows = np.concatenate([np.full((3, 1), BOS), ordinary(3, 23)], axis=1)
    shards, made = Shards(stream(rows.ravel())), model(architecture)
    batch = Feed(architecture, 24, PIECES, Masking(0.3)).batch([Row(shards, 24 * n, 24, (n,)) for n in range(3)])
    predicted = batch.tensors["labels"] != IGNORED
    labels = torch.full((72,), IGNORED)
    labels[batch.tensors["places"][predicted]] = batch.tensors["labels"][predicted]
    with torch.no_grad():
        mean = made(input_ids=batch.tensors["inputs"], labels=labels.view(3, 24)).loss.item()
        (total,) = Objective(made)(**batch.tensors).tolist()
    assert total == pytest.approx(mean * batch.counts.item(), rel=1e-5)


def test_the_two_losses_of_bert_are_those_of_transformers_summed():
    bert = model("bert")
    tensors, (first, second) = packed("bert", [20])
    labels, follows = torch.from_numpy(ordinary(2, 20, seed=2)), torch.tensor([1, 0])
    labels[:, ::2] = IGNORED
    together = {name: torch.cat([first[name], second[name]]) for name in first}
    with torch.no_grad():
        loss = bert(**together, labels=labels, next_sentence_label=follows).loss.item()
        tokens, pairs = Objective(bert)(labels=labels.flatten(), pair_labels=follows, **tensors).tolist()
    assert tokens / 20 + pairs / 2 == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("architecture", sorted(MASKED))
def test_packed_documents_have_the_logits_that_each_has_alone(architecture):
    made = model(architecture, 64)
    # of a modernbert, the window reaches four tokens to each side: the longest document has edges inside
    tensors, pieces = packed(architecture, [4, 6, 1, 20, 9])
    with torch.no_grad():
        alone = [made(**piece) for piece in pieces]
        logits = Objective(made).predict(**tensors)
    torch.testing.assert_close(logits[0], torch.cat([said[0][0] for said in alone]), rtol=1e-4, atol=1e-4)
    if architecture == "bert":
        torch.testing.assert_close(logits[1], torch.cat([said.seq_relationship_logits for said in alone]))


def test_a_packed_batch_is_fed_so_that_documents_know_nothing_of_each_other(stream):
    # the end of a document, two whole ones, the beginning of a fourth, and less than a row
    lengths = [6, 11, 5, 7]
    begins = np.cumsum([0, *lengths])
    tokens = np.concatenate([[*ordinary(5), EOS], [BOS, *ordinary(9), EOS], [BOS, 9, 8, 7, EOS], [BOS, *ordinary(6)]])
    roberta, shards = model("roberta", 32), Shards(stream(tokens))
    tensors = Feed("roberta", 32, PIECES, Masking(0.8)).batch([Row(shards, 0, 29, (0,))]).tensors
    labels, places, inputs = tensors.pop("labels"), tensors["places"], tensors["inputs"]
    places, labels = places[labels != IGNORED], labels[labels != IGNORED]
    with torch.no_grad():
        pieces = [roberta(input_ids=inputs[:, begin : begin + n]) for begin, n in zip(begins, lengths, strict=False)]
        logits = Objective(roberta).predict(**tensors)[0][: len(places)]
    assert set(np.searchsorted(begins, places.numpy(), "right").tolist()) == {1, 2, 3, 4}
    alone = torch.cat([piece.logits[0] for piece in pieces])
    torch.testing.assert_close(logits, alone[places], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["roberta", "modernbert"])
def test_a_batch_without_anything_to_predict_has_no_loss(architecture, stream):
    shards = Shards(stream([EOS] * 8, [BOS] * 16))
    batch = Feed(architecture, 8, PIECES, Masking(0.9)).batch([Row(shards, 8 * n, 8, (n,)) for n in range(3)])
    assert batch.counts.tolist() == [0]
    made = model(architecture, 8).train()
    loss = Objective(made)(**batch.tensors).sum()
    loss.backward()
    assert loss.item() == 0
    assert all((parameter.grad == 0).all() for parameter in made.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("architecture", CLASSES)
def test_compiled_losses_and_gradients_are_those_of_the_uncompiled_objective(architecture):
    if why := machine.no_compiler(torch.device("cpu")):
        pytest.skip(why)
    tensors, _ = (
        packed(architecture, [4, 20]) if architecture in MASKED else ({"inputs": torch.from_numpy(ordinary(2, 24))}, [])
    )
    tensors["labels"] = torch.from_numpy(ordinary(48, seed=3))
    if architecture == "bert":
        tensors["pair_labels"] = torch.tensor([1, 0, IGNORED, 1])
    losses, gradients = [], []
    for compiled in (False, True):
        made = model(architecture)
        sums = Objective(made, compiled)(**tensors)
        sums.sum().backward()
        losses.append(sums.detach())
        gradients.append([parameter.grad for parameter in made.parameters()])
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)


def test_the_configuration_knows_the_architectures_that_there_are():
    assert configured.ARCHITECTURES.keys() == models.CLASSES.keys()


def test_a_first_model_that_lacks_weights_is_refused(tmp_path):
    transformers.BertForMaskedLM(models.config_of("bert", sizes("bert"), PIECES, 24)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"which has no .*cls\.seq_relationship\.weight; .* take its results/pretrain"):
        models.start_from(str(tmp_path), "bert", sizes("bert"), PIECES, 24)
