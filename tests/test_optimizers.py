import itertools
import math

import pytest
import torch
from tiny import model

from jalm.formats import optimizers
from jalm.formats.models import CLASSES

torch.set_num_threads(1)


def rates(course: str, max_steps: int, warmup_steps: int = 0, decay_fraction: float = 0.2) -> list[float]:
    """Learning rates of a training whose maximum is 1."""
    knobs = (course, max_steps, warmup_steps, decay_fraction)
    return [optimizers.learning_rate(step, 1.0, *knobs) for step in range(max_steps)]


def built(made, optim: str, lr: float = 0.1, weight_decay: float = 0.1) -> list[torch.optim.Optimizer]:
    return optimizers.build(made, optim, lr, weight_decay, (0.9, 0.95), 1e-8)


def in_block(name: str) -> bool:
    """Whether the name of a parameter is that of one in a block: a number is part of it."""
    return any(part.isdigit() for part in name.split("."))


# ---- the course of the learning rate


def test_the_learning_rate_warms_up_in_equal_steps_and_then_stays():
    assert rates("constant", 6, warmup_steps=4) == [0.25, 0.5, 0.75, 1, 1, 1]


def test_the_linear_course_falls_to_zero_after_the_last_step():
    assert rates("linear", 7, warmup_steps=2) == pytest.approx([0.5, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_the_cosine_course_is_a_half_wave():
    assert rates("cosine", 6) == pytest.approx([(1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)])
    assert rates("cosine", 6)[3] == pytest.approx(0.5)


def test_warmup_stable_decay_falls_linearly_at_the_end_only():
    assert rates("warmup_stable_decay", 20, 2, 0.2) == pytest.approx([0.5, 1] + [1] * 15 + [0.75, 0.5, 0.25])


@pytest.mark.parametrize("course", ["constant", "linear", "cosine", "warmup_stable_decay"])
def test_a_training_of_nothing_but_warm_up_has_no_decay_left(course):
    assert rates(course, 3, warmup_steps=3) == pytest.approx([1 / 3, 2 / 3, 1])


@pytest.mark.parametrize("course", ["constant", "warmup_stable_decay"])
@pytest.mark.parametrize("decay_fraction", [0.01, 0.2, 0.33, 0.5, 1])
def test_a_longer_training_begins_as_the_shorter_one_as_far_as_is_said(course, decay_fraction):
    for steps in range(1, 40):
        short = rates(course, steps, decay_fraction=decay_fraction)
        shared = [
            sum(itertools.takewhile(bool, (a == b for a, b in zip(short, longer, strict=False))))
            for longer in (rates(course, more, decay_fraction=decay_fraction) for more in range(steps + 1, 100))
        ]
        assert optimizers.stable_until(course, steps, decay_fraction) == min(shared)


@pytest.mark.parametrize("course", ["linear", "cosine"])
def test_a_longer_training_shares_nothing_where_the_rate_falls_from_the_beginning(course):
    assert rates(course, 50)[1] != rates(course, 51)[1]
    assert optimizers.stable_until(course, 50, 0.2) == 0


# ---- the parameters


@pytest.mark.parametrize("optim", ["adamw", "muon"])
@pytest.mark.parametrize("architecture", CLASSES)
def test_matrices_and_embeddings_decay_and_biases_and_norms_do_not(architecture, optim):
    made = model(architecture)
    names = {parameter: name for name, parameter in made.named_parameters()}
    groups = [group for optimizer in built(made, optim) for group in optimizer.param_groups]
    given = [(names[p], group["weight_decay"]) for group in groups for p in group["params"]]
    assert sorted(name for name, _ in given) == sorted(names.values())  # each once
    for name, decay in given:
        norm = "norm" in name.lower() or ".ln_" in name
        assert decay == (0.0 if name.endswith("bias") or norm else 0.1)


@pytest.mark.parametrize("architecture", CLASSES)
def test_muon_has_the_matrices_of_the_blocks_and_nothing_else(architecture):
    made = model(architecture)
    names = {parameter: name for name, parameter in made.named_parameters()}
    adamw, muon = built(made, "muon")
    assert (type(adamw), type(muon)) == (torch.optim.AdamW, torch.optim.Muon)
    turned = {names[p] for group in muon.param_groups for p in group["params"]}
    assert turned == {name for name, p in made.named_parameters() if in_block(name) and p.ndim == 2}
    # a block has four matrices in its attention and two or three behind it; some libraries fuse the first three
    attention = 2 if architecture in ("gpt2", "modernbert") else 4
    assert len(turned) == 2 * (attention + (3 if architecture == "llama" else 2))


def test_without_muon_there_is_adamw_alone():
    (adamw,) = built(model("gpt2"), "adamw")
    assert type(adamw) is torch.optim.AdamW
    assert [(group["lr"], group["betas"], group["eps"]) for group in adamw.param_groups] == [
        (0.1, (0.9, 0.95), 1e-8)
    ] * 2


@pytest.mark.parametrize("size", [1e-6, 1.0])
def test_a_step_of_muon_is_a_fifth_of_the_learning_rate_whatever_the_gradient_and_the_shape(size):
    llama = model("llama", hidden_size=64, intermediate_size=192)
    _, muon = built(llama, "muon", lr=0.01, weight_decay=0.0)
    torch.manual_seed(0)
    parameters = muon.param_groups[0]["params"]
    before = [parameter.detach().clone() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = size * torch.randn_like(parameter)
    muon.step()
    steps = [(parameter - old).square().mean().sqrt().item() for parameter, old in zip(parameters, before, strict=True)]
    assert {tuple(parameter.shape) for parameter in parameters} > {(64, 64), (192, 64), (64, 192)}
    # Newton-Schulz brings the singular values near 1 only (Jordan et al. 2024: 0.7 to 1.2)
    assert steps == pytest.approx([0.2 * 0.01] * len(steps), rel=0.3)
    assert max(steps) < 1.25 * min(steps)


def test_the_first_step_of_adamw_is_the_learning_rate():
    gpt2 = model("gpt2")
    (adamw,) = built(gpt2, "adamw", lr=0.01, weight_decay=0.0)
    before = gpt2.lm_head.weight.detach().clone()
    gpt2.lm_head.weight.grad = torch.full_like(before, -3.0)
    adamw.step()
    torch.testing.assert_close(gpt2.lm_head.weight.detach(), before + 0.01)
