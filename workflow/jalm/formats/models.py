"""The models: plain Hugging Face classes, what they are fed, and the loss that they are trained and judged by.

Tensor names carry their axes: B sequences, T tokens, V pieces.
"""

from dataclasses import dataclass

import numpy as np
import torch
import transformers
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, RobertaConfig, RobertaForMaskedLM

from jalm.formats.shards import Shards
from jalm.formats.tokenizer import BOS, EOS, IDS, MASK, PAD, SPECIAL

transformers.logging.disable_progress_bar()  # its bars are a line each in a log file

IGNORED = -100  # label of a token that is not predicted
MASKED = {"roberta"}  # architectures that predict masked tokens; the others predict the next one


def build(architecture: str, sizes: dict, vocab_size: int, block_size: int) -> PreTrainedModel:
    """A model with new weights, drawn from torch's current random state.

    Args:
        architecture: gpt2 or roberta.
        sizes: by the names of the architecture's transformers config.
        vocab_size: pieces of the tokenizer.
        block_size: tokens of a sequence in training, and the model's positions.
    """
    common = {
        "vocab_size": vocab_size,
        "bos_token_id": IDS[BOS],
        "eos_token_id": IDS[EOS],
        "pad_token_id": IDS[PAD],
        **sizes,
    }
    if architecture == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_positions=block_size, **common))
    # RoBERTa counts positions from pad_token_id + 1
    positions = block_size + IDS[PAD] + 1
    return RobertaForMaskedLM(RobertaConfig(max_position_embeddings=positions, type_vocab_size=1, **common))


def architecture(model: PreTrainedModel) -> str:
    """Name of the architecture of a model."""
    return model.config.model_type


def block_size(model: PreTrainedModel) -> int:
    """Tokens that a model takes at once."""
    first_position = IDS[PAD] + 1 if architecture(model) == "roberta" else 0
    return model.config.max_position_embeddings - first_position


def parameter_groups(model: PreTrainedModel, weight_decay: float) -> list[dict]:
    """Parameters for AdamW: matrices and embeddings decay, biases and norms do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


@dataclass
class Batch:
    """What a model is fed, and what it has to predict.

    Attributes:
        inputs: int64, shape (B, T).
        labels: int64, shape (B, T), IGNORED where nothing is predicted.
        count: tokens to predict.
        documents: int64, shape (B, T), number of the document in its block; None for models that predict the next token.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    count: int
    documents: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        documents = None if self.documents is None else self.documents.to(device)
        return Batch(self.inputs.to(device), self.labels.to(device), self.count, documents)


def next_token_batch(blocks: np.ndarray) -> Batch:
    """Predict each token from those before it.

    Args:
        blocks: int64, shape (B, T + 1); <pad> is not predicted.
    """
    tokens = torch.from_numpy(blocks)
    labels = tokens[:, 1:].masked_fill(tokens[:, 1:] == IDS[PAD], IGNORED)
    # what follows the last token is seen by none; transformers warns of a <pad> there
    inputs = tokens[:, :-1].masked_fill(tokens[:, :-1] == IDS[PAD], IDS[EOS])
    return Batch(inputs, labels, int((labels != IGNORED).sum()))


def masked_batch(blocks: np.ndarray, seeds: list[tuple[int, ...]], probability: float, vocab_size: int) -> Batch:
    """Predict a share of the tokens; of these 80 % become [MASK], 10 % another piece, 10 % stay.

    Args:
        blocks: int64, shape (B, T + 1), of which the last column is not used.
        seeds: one for each row; decides its mask.
        probability: share of the tokens that are predicted; special tokens never are.
        vocab_size: pieces to draw other pieces from.

    Source: BERT (Devlin et al. 2019, section 3.1).
    """
    inputs, labels = blocks[:, :-1].copy(), np.full_like(blocks[:, :-1], IGNORED)
    for row, seed in enumerate(seeds):
        rng = np.random.default_rng(seed)
        chosen = (rng.random(inputs.shape[1]) < probability) & (inputs[row] >= len(SPECIAL))
        fate = rng.random(inputs.shape[1])
        other = rng.integers(len(SPECIAL), vocab_size, inputs.shape[1])
        labels[row, chosen] = inputs[row, chosen]
        inputs[row, chosen & (fate < 0.8)] = IDS[MASK]
        replaced = chosen & (fate >= 0.8) & (fate < 0.9)
        inputs[row, replaced] = other[replaced]
    starts = (blocks[:, :-1] == IDS[BOS]) | (blocks[:, :-1] == IDS[PAD])  # a <pad> is a document of its own
    documents = torch.from_numpy(np.cumsum(starts, axis=1))
    return Batch(torch.from_numpy(inputs), torch.from_numpy(labels), int((labels != IGNORED).sum()), documents)


def predict(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of the predicted tokens, shapes (N, V) and (N,); masked models compute no others."""
    if batch.documents is None:
        return model(input_ids=batch.inputs, use_cache=False).logits.flatten(0, 1), batch.labels.flatten()
    same_BTT = batch.documents[:, :, None] == batch.documents[:, None, :]
    place_T = torch.arange(batch.inputs.shape[1], device=batch.inputs.device)
    begins_BT = torch.ones_like(same_BTT[:, 0])
    begins_BT[:, 1:] = batch.documents[:, 1:] != batch.documents[:, :-1]
    start_BT = torch.where(begins_BT, place_T, 0).cummax(dim=1).values
    hidden_BTE = model.base_model(
        input_ids=batch.inputs,
        position_ids=place_T - start_BT + IDS[PAD] + 1,
        attention_mask=same_BTT[:, None],
    ).last_hidden_state
    chosen = batch.labels != IGNORED
    return model.lm_head(hidden_BTE[chosen]), batch.labels[chosen]


def loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Negative log-likelihood in nats, summed over the predicted tokens."""
    logits, labels = predict(model, batch)
    return functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")


class Objective(torch.nn.Module):
    """A model together with its loss: processes that share a training exchange gradients of one module's forward."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> torch.Tensor:
        """As `loss`."""
        return loss(self.model, batch)


def blocks_of(shards: Shards, block_size: int, limit: int | None = None) -> list[range]:
    """The stream as disjoint blocks of T + 1 tokens, the last token of one being the first of the next.

    The last block is shorter. `limit` is a number of blocks.
    """
    starts = range(0, shards.tokens - 1, block_size)[:limit]
    return [range(start, min(start + block_size + 1, shards.tokens)) for start in starts]


@dataclass
class Score:
    """Sums over the predicted tokens of a text.

    Attributes:
        nats: negative log-likelihood.
        tokens: predicted tokens.
        correct: those whose piece is the likeliest of all.
    """

    nats: float = 0.0
    tokens: int = 0
    correct: int = 0


@torch.no_grad()
def score(
    model: PreTrainedModel,
    shards: Shards,
    block_size: int,
    batch_size: int,
    mlm_probability: float,
    limit: int | None = None,
    process: int = 0,
    processes: int = 1,
) -> Score:
    """Score of a model on a stream of tokens; a masked model's masks are the same each time.

    Several processes share the batches, and each has the sums of its own.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    total = Score()
    blocks = blocks_of(shards, block_size, limit)
    for row in range(process * batch_size, len(blocks), processes * batch_size):
        tokens = np.full((len(blocks[row : row + batch_size]), block_size + 1), IDS[PAD], dtype=np.int64)
        for place, block in zip(tokens, blocks[row:], strict=False):
            place[: len(block)] = shards.read(block.start, len(block))
        if architecture(model) in MASKED:
            seeds = [(0, row + number) for number in range(len(tokens))]
            batch = masked_batch(tokens, seeds, mlm_probability, model.config.vocab_size)
        else:
            batch = next_token_batch(tokens)
        logits, labels = predict(model, batch.to(device))
        total.nats += functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum").item()
        total.correct += int((logits.argmax(dim=1) == labels).sum())
        total.tokens += batch.count
    model.train(was_training)
    return total


def load(folder: str) -> PreTrainedModel:
    """A model from a folder written by `save_pretrained`, ready for evaluation."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    masked = AutoConfig.from_pretrained(folder).model_type in MASKED
    return (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_pretrained(folder).eval()
