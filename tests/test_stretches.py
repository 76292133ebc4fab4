import math

import numpy as np
import pytest
import torch
from tiny import model
from transformers import PreTrainedTokenizerFast

from jalm.formats import stretches, texts
from jalm.formats.batches import Masking
from jalm.formats.shards import Shards

BOS, EOS, CLS, SEP, MASK = 2, 3, 4, 5, 6

torch.set_num_threads(1)


@pytest.fixture
def three(stream) -> Shards:
    """Three documents of 30, no and 5 tokens between <s> and </s>."""
    bodies = [np.random.default_rng(size).integers(7, 400, size) for size in (30, 0, 5)]
    manifest = stream(np.concatenate([[BOS, *body, EOS] for body in bodies]))
    np.save(manifest.parent / "index.npy", np.array([[32, 0], [34, 0], [41, 0]]))
    return Shards(manifest)


@pytest.mark.parametrize(
    ("architecture", "around"), [("roberta", (BOS, EOS)), ("bert", (CLS, SEP)), ("modernbert", (BOS, EOS))]
)
def test_the_pseudo_likelihood_is_that_of_each_token_masked_alone(architecture, around, three):
    made, total, correct = model(architecture, 16), 0.0, 0
    room = 14
    for begin, size in ((1, 30), (35, 5)):
        for start in range(begin, begin + size, room):
            body = three.read(start, min(room, begin + size - start))
            for place, token in enumerate(body):
                inputs = torch.tensor([[around[0], *body, around[1]]])
                inputs[0, place + 1] = MASK
                with torch.no_grad():
                    logits = made(input_ids=inputs)[0][0, place + 1]
                total -= logits.log_softmax(0)[token].item()
                correct += int(logits.argmax() == token)
    wrapping = stretches.ours(architecture)
    for most, processes in ((1000, 1), (20, 1), (40, 3)):  # padding and the number of processes change nothing
        parts = [
            stretches.score(
                made, wrapping, stretches.alone(three, (1, 1), room, wrapping, 41), most, process, processes
            )
            for process in range(processes)
        ]
        assert sum(part.count for part in parts) == 35
        assert sum(part.nats for part in parts) == pytest.approx(total, rel=1e-5)
        assert sum(part.correct for part in parts) == correct


def test_a_sample_is_taken_at_even_distances(three):
    found = list(stretches.alone(three, (1, 1), 14, stretches.ours("roberta"), 4))
    # of 41 tokens number 5, 15, 25 and 35
    assert [stretch.tokens[stretch.places].item() for stretch in found] == three.read(0, 41)[[5, 15, 25, 35]].tolist()
    assert all((stretch.inputs == MASK).sum() == 1 for stretch in found)
    assert [len(stretch.tokens) for stretch in found] == [14, 14, 14, 5]


def test_a_share_of_each_stretch_is_masked_the_same_each_time(stream):
    tokens = np.random.default_rng(0).integers(7, 400, 6000)
    manifest = stream([BOS, *tokens, EOS])
    np.save(manifest.parent / "index.npy", np.array([[6002, 0]]))
    what = (Shards(manifest), (1, 1), 100, stretches.ours("roberta"), Masking(0.15), 400)
    first, second = (list(stretches.masked(*what)) for _ in range(2))
    assert all((one.inputs == two.inputs).all() for one, two in zip(first, second, strict=True))
    assert np.array_equal(np.concatenate([stretch.tokens for stretch in first]), tokens)
    places = [stretch.places for stretch in first]
    assert all(len(some) == 15 for some in places)
    inputs = np.concatenate([stretch.inputs[stretch.places] for stretch in first])
    labels = np.concatenate([stretch.tokens[stretch.places] for stretch in first])
    assert np.mean(inputs == MASK) == pytest.approx(0.8, abs=0.04)
    assert np.mean(inputs == labels) == pytest.approx(0.1, abs=0.04)
    others = np.concatenate([np.delete(s.inputs == s.tokens, s.places) for s in first])
    assert others.all()


def test_special_tokens_are_never_asked(three):
    found = stretches.masked(three, (0, 0), 8, stretches.ours("roberta"), Masking(0.9), 400)
    assert all((stretch.tokens[stretch.places] >= 7).all() for stretch in found)


@pytest.mark.parametrize(("architecture", "around"), [("roberta", (BOS, EOS)), ("bert", (CLS, SEP))])
def test_the_wrapping_is_what_the_tokenizer_puts_around_a_text(tiny, architecture, around):
    cut = texts.cutter(tiny.tokenizer["tokenizer"], architecture)
    made = stretches.of(cut)
    assert (made.before, made.behind, made.mask, made.pad) == ([around[0]], [around[1]], MASK, 0)
    assert (made.before, made.behind) == (stretches.ours(architecture).before, stretches.ours(architecture).behind)


def test_a_tokenizer_without_a_mask_is_refused(tiny):
    cut = texts.cutter(tiny.tokenizer["tokenizer"], "gpt2")
    bare = PreTrainedTokenizerFast(tokenizer_object=cut.backend_tokenizer)
    with pytest.raises(stretches.MaskError, match="has no mask token"):
        stretches.of(bare)


def test_a_model_that_knows_nothing_has_the_size_of_its_vocabulary_for_a_pseudo_perplexity(three):
    made = model("roberta", 16)
    torch.nn.init.zeros_(made.lm_head.decoder.weight)
    torch.nn.init.zeros_(made.lm_head.decoder.bias)
    wrapping = stretches.ours("roberta")
    total = stretches.score(made, wrapping, stretches.alone(three, (1, 1), 14, wrapping, 1000), 100)
    assert math.exp(total.loss) == pytest.approx(400, rel=1e-5)
