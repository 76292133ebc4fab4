"""The optimizers of a training, and the course of its learning rate."""

import math
import re

import torch
from transformers import PreTrainedModel

BLOCKS = re.compile(r"\.(?:h|layers?)\.\d+\.")  # in the names of what belongs to a model's blocks


def learning_rate(
    step: int, maximum: float, course: str, max_steps: int, warmup_steps: int = 0, decay_fraction: float = 0.2
) -> float:
    """Learning rate of an optimizer step, counted from 0.

    Args:
        step: which.
        maximum: its largest value.
        course: by transformers' name of the scheduler: constant, linear, cosine or warmup_stable_decay.
        max_steps: steps of the training.
        warmup_steps: steps in which it rises from 0 in equal steps, whatever the course.
        decay_fraction: share of the steps at the end of warmup_stable_decay in which it falls to 0.
    """
    if step < warmup_steps:
        return maximum * (step + 1) / warmup_steps
    left = max_steps - step
    after_warmup = max(1, max_steps - warmup_steps)
    match course:
        case "linear":
            return maximum * left / after_warmup
        case "cosine":
            return maximum * (1 - math.cos(math.pi * left / after_warmup)) / 2
        case "warmup_stable_decay":
            return maximum * min(1.0, left / decay_steps(max_steps, decay_fraction))
    return maximum


def decay_steps(max_steps: int, decay_fraction: float) -> int:
    """Steps at the end of warmup_stable_decay in which the learning rate falls."""
    return max(1, round(max_steps * decay_fraction))


def stable_until(course: str, max_steps: int, decay_fraction: float) -> int:
    """Steps from the beginning whose learning rates stay what they are if the training is made longer."""
    match course:
        case "constant":
            return max_steps
        case "warmup_stable_decay":
            return max_steps - decay_steps(max_steps, decay_fraction) + 1  # the first of the decay is still the maximum
    return 0


def build(
    model: PreTrainedModel, optim: str, lr: float, weight_decay: float, betas: tuple[float, float], eps: float
) -> list[torch.optim.Optimizer]:
    """The optimizers of a model's parameters; matrices and embeddings decay, biases and norms do not.

    With `optim` muon the matrices of the blocks have Muon, whose updates are scaled to the size of AdamW's, so that one
    learning rate serves both.

    Source: Muon (Jordan et al. 2024), its scale Moonlight (Liu et al. 2025, section 2.2).
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    turned = {name for name, p in named if optim == "muon" and p.ndim == 2 and BLOCKS.search(name)}
    rest = [parameter for name, parameter in named if name not in turned]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)]
    if turned:
        matrices = [parameter for name, parameter in named if name in turned]
        made.append(torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    return made
