import numpy as np
import pytest
import torch

from jalm.formats import models
from jalm.formats.shards import Shards

SIZES = {
    "gpt2": {"n_layer": 2, "n_head": 2, "n_embd": 32},
    "roberta": {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64},
}
PIECES = 400
BOS, EOS, MASK = 2, 3, 6

torch.set_num_threads(1)  # what is this small only gets slower with more


def model(architecture: str, block_size: int, seed: int = 0):
    """A model with random weights, large enough that every logit depends on what it is fed."""
    torch.manual_seed(seed)
    return models.build(architecture, SIZES[architecture] | {"initializer_range": 0.3}, PIECES, block_size).eval()


def ordinary(*shape: int, seed: int = 0) -> np.ndarray:
    """Tokens that are not special."""
    return np.random.default_rng(seed).integers(7, PIECES, shape)


def documents(lengths: list[int]) -> np.ndarray:
    """A stream of documents with their marks."""
    bodies = [ordinary(length, seed=length) for length in lengths]
    return np.concatenate([[BOS, *body, EOS] for body in bodies])


# ---- next token


def test_the_loss_of_gpt2_is_that_of_transformers_summed():
    blocks = ordinary(3, 17)
    gpt2 = model("gpt2", 17)
    tokens = torch.from_numpy(blocks)
    with torch.no_grad():
        mean = gpt2(input_ids=tokens, labels=tokens).loss.item()
        total = models.loss(gpt2, models.next_token_batch(blocks)).item()
    assert total == pytest.approx(mean * 3 * 16, rel=1e-5)


def test_padding_is_not_predicted_and_changes_no_other_loss():
    blocks = ordinary(1, 17)
    padded = np.concatenate([blocks, np.zeros((1, 8), dtype=np.int64)], axis=1)
    gpt2 = model("gpt2", 24)
    batch = models.next_token_batch(padded)
    assert batch.count == 16
    with torch.no_grad():
        alone = models.loss(gpt2, models.next_token_batch(blocks)).item()
        assert models.loss(gpt2, batch).item() == pytest.approx(alone, rel=1e-5)


def test_the_blocks_of_a_stream_predict_each_token_once_but_the_first(stream):
    for length in (2, 9, 10, 11, 27):
        shards = Shards(stream(range(10, 10 + length), name=str(length)))
        blocks = models.blocks_of(shards, 8)
        assert [place for block in blocks for place in block[1:]] == list(range(1, length))
        assert all(block[0] == 8 * n for n, block in enumerate(blocks))


def test_a_limit_takes_the_first_blocks(stream):
    shards = Shards(stream(range(10, 60)))
    assert models.blocks_of(shards, 8, limit=2) == [range(9), range(8, 17)]


# ---- masked tokens


def test_shares_of_masked_replaced_and_kept_tokens_are_those_of_the_paper():
    blocks = ordinary(200, 1001)
    batch = models.masked_batch(blocks, [(0, row) for row in range(200)], 0.15, PIECES)
    chosen = (batch.labels != models.IGNORED).numpy()
    inputs, original = batch.inputs.numpy()[chosen], blocks[:, :-1][chosen]
    assert chosen.mean() == pytest.approx(0.15, abs=0.003)  # 3 standard deviations: 0.0024
    assert (batch.labels.numpy()[chosen] == original).all()
    assert (inputs == MASK).mean() == pytest.approx(0.8, abs=0.01)  # 3 standard deviations: 0.007
    assert (inputs == original).mean() == pytest.approx(0.1, abs=0.01)
    assert ((inputs != original) & (inputs != MASK)).mean() == pytest.approx(0.1, abs=0.01)
    assert (batch.inputs.numpy()[~chosen] == blocks[:, :-1][~chosen]).all()


def test_replacements_are_drawn_from_all_pieces_that_are_not_special():
    blocks = np.full((100, 1001), 300)
    batch = models.masked_batch(blocks, [(0, row) for row in range(100)], 0.5, PIECES)
    replaced = set(batch.inputs.unique().tolist()) - {MASK}
    assert replaced == set(range(7, PIECES))


def test_special_tokens_are_never_masked():
    blocks = ordinary(50, 101)
    blocks[:, ::3] = np.random.default_rng(1).integers(0, 7, blocks[:, ::3].shape)
    special = blocks[:, :-1] < 7
    batch = models.masked_batch(blocks, [(0, row) for row in range(50)], 0.99, PIECES)
    assert (batch.labels.numpy()[special] == models.IGNORED).all()
    assert (batch.inputs.numpy()[special] == blocks[:, :-1][special]).all()
    assert (batch.labels.numpy()[~special] != models.IGNORED).mean() > 0.9


def test_a_mask_depends_on_seed_step_and_row_only():
    blocks = ordinary(4, 101)
    seeds = [(42, 7, row) for row in range(4)]
    together = models.masked_batch(blocks, seeds, 0.3, PIECES)
    for row in range(4):
        alone = models.masked_batch(blocks[row : row + 1], seeds[row : row + 1], 0.3, PIECES)
        assert torch.equal(alone.inputs[0], together.inputs[row])
        assert torch.equal(alone.labels[0], together.labels[row])
    same = np.tile(blocks[:1], (4, 1))
    others = models.masked_batch(same, [(42, 7, 0), (42, 7, 1), (42, 8, 0), (43, 7, 0)], 0.3, PIECES)
    assert len({tuple(row.tolist()) for row in others.labels}) == 4


def test_packed_documents_have_the_logits_that_each_has_alone():
    # the end of a document, two whole ones, the beginning of a fourth, <pad>
    tokens = np.concatenate([[*ordinary(5), EOS], documents([9, 1]), [BOS, *ordinary(6)], [0, 0, 0]])
    bounds = [(0, 6), (6, 17), (17, 20), (20, 27)]
    roberta = model("roberta", len(tokens) - 1)
    batch = models.masked_batch(tokens[None], [(0,)], 0.7, PIECES)
    with torch.no_grad():
        logits, labels = models.predict(roberta, batch)
        alone = [roberta(input_ids=batch.inputs[:, begin:end]).logits[0] for begin, end in bounds]
    chosen = batch.labels[0, :27] != models.IGNORED
    assert [bool(chosen[begin:end].any()) for begin, end in bounds] == [True] * 4
    assert torch.equal(labels, batch.labels[batch.labels != models.IGNORED])
    torch.testing.assert_close(logits, torch.cat(alone)[chosen], rtol=1e-4, atol=1e-4)


def test_the_loss_of_roberta_is_that_of_transformers_summed():
    blocks = np.concatenate([np.full((3, 1), BOS), ordinary(3, 20)], axis=1)
    roberta = model("roberta", 20)
    batch = models.masked_batch(blocks, [(0, row) for row in range(3)], 0.3, PIECES)
    with torch.no_grad():
        mean = roberta(input_ids=batch.inputs, labels=batch.labels).loss.item()
        assert models.loss(roberta, batch).item() == pytest.approx(mean * batch.count, rel=1e-5)


def test_a_batch_without_anything_to_predict_has_no_loss():
    for batch in (
        models.masked_batch(np.full((1, 9), EOS), [(0,)], 0.9, PIECES),
        models.masked_batch(np.full((2, 9), BOS), [(0,), (1,)], 0.9, PIECES),
    ):
        assert batch.count == 0
        loss = models.loss(model("roberta", 8).train(), batch)
        loss.backward()
        assert loss.item() == 0


# ---- the models themselves


@pytest.mark.parametrize("architecture", SIZES)
def test_a_model_takes_as_many_tokens_as_it_was_built_for(architecture):
    made = model(architecture, 24)
    assert models.block_size(made) == 24
    assert made(input_ids=torch.from_numpy(ordinary(1, 24))).logits.shape == (1, 24, PIECES)
    with pytest.raises((IndexError, RuntimeError)):
        made(input_ids=torch.from_numpy(ordinary(1, 25)))


@pytest.mark.parametrize("architecture", SIZES)
def test_weights_depend_on_the_random_state_only(architecture):
    first, again, other = (model(architecture, 8, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("architecture", SIZES)
def test_matrices_and_embeddings_decay_and_biases_and_norms_do_not(architecture):
    made = model(architecture, 8)
    decaying, others = models.parameter_groups(made, weight_decay=0.1)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    names = {parameter: name for name, parameter in made.named_parameters()}
    assert sorted(names.values()) == sorted(names[p] for p in [*decaying["params"], *others["params"]])
    for parameter in others["params"]:
        assert names[parameter].endswith(".bias") or ".ln_" in names[parameter] or "norm" in names[parameter].lower()
    for parameter in decaying["params"]:
        assert names[parameter].endswith(".weight") and "norm" not in names[parameter].lower()


@pytest.mark.parametrize("architecture", SIZES)
def test_a_saved_model_comes_back_as_its_class(architecture, tmp_path):
    made = model(architecture, 8)
    made.save_pretrained(tmp_path)
    loaded = models.load(str(tmp_path))
    assert type(loaded) is type(made)
    assert not loaded.training
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in made.state_dict().items())


# ---- scores


def test_the_score_of_gpt2_is_the_sum_over_all_tokens(stream):
    tokens = documents([30, 1, 12, 0, 9])
    gpt2 = model("gpt2", 16)
    nats, correct = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, 16):
            window = torch.from_numpy(tokens[start : start + 17])
            logits = gpt2(input_ids=window[None, :-1]).logits[0]
            nats -= sum(logits.log_softmax(1)[place, token].item() for place, token in enumerate(window[1:]))
            correct += int((logits.argmax(1) == window[1:]).sum())
    total = models.score(gpt2, Shards(stream(tokens[:20], tokens[20:])), 16, 4, mlm_probability=0.15)
    assert total.nats == pytest.approx(nats, rel=1e-5)
    assert (total.tokens, total.correct) == (len(tokens) - 1, correct)


@pytest.mark.parametrize("architecture", SIZES)
def test_a_score_does_not_depend_on_the_batch_size(architecture, stream):
    shards, made = Shards(stream(documents([30, 1, 12, 0, 9, 200]))), model(architecture, 16)
    scores = [models.score(made, shards, 16, batch_size, mlm_probability=0.3) for batch_size in (1, 3, 16, 100)]
    for score in scores[1:]:
        assert score.nats == pytest.approx(scores[0].nats, rel=1e-5)
        assert (score.tokens, score.correct) == (scores[0].tokens, scores[0].correct)
    assert scores[0].tokens > 40


def test_a_score_counts_right_predictions(stream):
    roberta = model("roberta", 16)
    torch.nn.init.zeros_(roberta.lm_head.decoder.weight)
    with torch.no_grad():
        roberta.lm_head.bias[300] = 5.0  # always says 300
    tokens = np.where(np.arange(400) % 4 == 0, 300, 301)
    total = models.score(roberta, Shards(stream(tokens)), 16, 8, mlm_probability=0.9)
    assert total.correct / total.tokens == pytest.approx(1 / 4, abs=0.03)
    expected = total.tokens * np.log(np.exp(5) + PIECES - 1) - 5 * total.correct
    assert total.nats == pytest.approx(expected, rel=1e-5)


def test_scoring_turns_dropout_off_and_on_again(stream):
    torch.manual_seed(0)
    gpt2 = models.build("gpt2", SIZES["gpt2"] | {"resid_pdrop": 0.5}, PIECES, 16).train()
    shards = Shards(stream(documents([50])))
    first, second = (models.score(gpt2, shards, 16, 4, mlm_probability=0.15).nats for _ in range(2))
    assert first == second
    assert gpt2.training
