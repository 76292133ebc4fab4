"""The attention of a training: causal over the whole block, or inside each document of a block.

Registered with transformers under a name that has no mask function, so that models compile into one graph without a
dense mask; nothing of it stays in what is exported.
"""

import torch
from torch.nn import functional
from transformers import AttentionInterface

NAME = "jalm"


def attention(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    _: None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    documents: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **__: object,
) -> tuple[torch.Tensor, None]:
    """What transformers asks of an attention function.

    Args:
        module: the layer; says whether it is causal.
        query_BHTD: B sequences, H heads, T tokens, D numbers each.
        key_BHTD: of as many heads, or of fewer that are shared.
        value_BHTD: likewise.
        dropout: of the attention weights.
        scaling: of the scores; by default 1 / sqrt(D).
        documents: int64, shape (B, T); a token attends to those of its own number only.
        sliding_window: one more than the tokens on each side that a token attends to.

    Returns:
        Shape (B, T, H, D), and no weights.
    """
    mask_BHTT = None
    if documents is not None:
        mask_BHTT = (documents[:, :, None] == documents[:, None, :])[:, None]
        if sliding_window is not None:
            place_T = torch.arange(documents.shape[1], device=documents.device)
            mask_BHTT = mask_BHTT & ((place_T[:, None] - place_T).abs() < sliding_window)
    made = functional.scaled_dot_product_attention(
        query_BHTD,
        key_BHTD,
        value_BHTD,
        attn_mask=mask_BHTT,
        dropout_p=dropout,
        is_causal=module.is_causal and mask_BHTT is None,
        scale=scaling,
        enable_gqa=query_BHTD.shape[1] != key_BHTD.shape[1],
    )
    return made.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention)
