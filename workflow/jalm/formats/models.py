"""The models: plain Hugging Face classes, and the loss that they are trained and judged by.

Tensor names carry their axes: B sequences, T tokens, E numbers for each, N predicted tokens, P pairs, V pieces.
"""

import json
import re
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model
from torch.nn import functional
from transformers import (
    AutoConfig,
    BertConfig,
    BertForPreTraining,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from jalm import Fault
from jalm.formats import attention, objectives
from jalm.formats.ids import BOS, EOS, IDS, IGNORED, PAD, first_position
from jalm.formats.shards import digest

transformers.logging.disable_progress_bar()  # its bars are a line each in a log file

CLASSES: dict[str, tuple[type[PreTrainedConfig], type[PreTrainedModel]]] = {
    "gpt2": (GPT2Config, GPT2LMHeadModel),
    "gpt_neo": (GPTNeoConfig, GPTNeoForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "roberta": (RobertaConfig, RobertaForMaskedLM),
    "bert": (BertConfig, BertForPreTraining),
    "modernbert": (ModernBertConfig, ModernBertForMaskedLM),
}
HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?", re.ASCII)
# what transformers raises over a folder that it cannot make a model or a tokenizer of
UNLOADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError)
NEXT_SENTENCE = "next_sentence_head.safetensors"  # of an exported BERT: what its BertForMaskedLM does without


class ModelError(Fault):
    """A folder that is no model, or not one that can be used for this."""


def reason(error: Exception) -> str:
    """The first line of what an error says; its kind if it says nothing, and in words where it says what helps nobody."""
    said = str(error)
    if "ignore_mismatched_sizes" in said:
        return "its weights have other sizes than its config.json says"
    if "MetadataIncompleteBuffer" in said or "incomplete metadata" in said:
        return "its weights are cut short; copy them again"
    return (said.strip().splitlines() or [type(error).__name__])[0]


def config_of(architecture: str, sizes: dict, vocab_size: int, block_size: int) -> PreTrainedConfig:
    """The transformers config of a model.

    Args:
        architecture: a name of CLASSES.
        sizes: by the names of the architecture's transformers config.
        vocab_size: pieces of the tokenizer.
        block_size: tokens of a sequence in training, and the model's positions.
    """
    sizes = dict(sizes)
    positions = block_size + first_position(architecture)
    common = {"vocab_size": vocab_size, "max_position_embeddings": positions, "pad_token_id": IDS[PAD]}
    common |= {"bos_token_id": IDS[BOS], "eos_token_id": IDS[EOS]}
    match architecture:
        case "gpt2":
            common["n_positions"] = common.pop("max_position_embeddings")
        case "gpt_neo":  # global, local, global, …
            layers = sizes["num_layers"]
            common["attention_types"] = [[["global", "local"], layers // 2]] + [[["global"], 1]] * (layers % 2)
        case "llama":
            common["rope_parameters"] = {"rope_type": "default", "rope_theta": sizes.pop("rope_theta")}
        case "roberta":
            common["type_vocab_size"] = 1
        case "modernbert":  # trained on <s> … </s>, like a RoBERTa
            common |= {"cls_token_id": IDS[BOS], "sep_token_id": IDS[EOS]}
    return CLASSES[architecture][0](**common, **sizes)


def build(architecture: str, sizes: dict, vocab_size: int, block_size: int) -> PreTrainedModel:
    """A model with new weights, drawn from torch's current random state; arguments as of `config_of`."""
    return CLASSES[architecture][1](config_of(architecture, sizes, vocab_size, block_size))


def start_from(folder: str, architecture: str, sizes: dict, vocab_size: int, block_size: int) -> PreTrainedModel:
    """A trained model to train on, with the dropout of `sizes`.

    The other arguments are those of `config_of`; `folder` is as `save_pretrained` writes it, or a name on the Hub, with
    @ and a revision behind it where it is not to be the newest.

    Raises:
        ModelError: it is no such model, has other sizes, or lacks weights.
    """
    wanted, kind = config_of(architecture, sizes, vocab_size, block_size), CLASSES[architecture][1]
    on_hub, name, revision = not Path(folder).is_dir(), folder, ""
    if on_hub:
        name, _, revision = folder.partition("@")
        if "/" not in name or not HUB_NAME.fullmatch(name):
            raise ModelError(
                f"init_model is {folder!r}, but there is no such folder (seen from {Path.cwd()}); a name on the Hub is "
                "OWNER/NAME or OWNER/NAME@REVISION"
            )
    hub = {"revision": revision or "main"}
    try:
        if differences := _differences(AutoConfig.from_pretrained(name, trust_remote_code=False, **hub), wanted):
            raise ModelError(
                f"init_model is {folder!r}, which has {', '.join(differences)}; the entry must say what it is"
            )
        model, loaded = kind.from_pretrained(name, config=wanted, dtype=torch.float32, output_loading_info=True, **hub)
    except ModelError:
        raise
    except UNLOADABLE as error:
        where = (
            f"is no folder (seen from {Path.cwd()}), and cannot be loaded from the Hub"
            if on_hub
            else "cannot be loaded"
        )
        raise ModelError(f"init_model is {folder!r}, which {where}: {reason(error)}") from None
    if loaded["missing_keys"]:
        raise ModelError(
            f"init_model is {folder!r}, which has no {', '.join(sorted(loaded['missing_keys']))}; an exported BERT keeps these "
            "apart: take its results/pretrain/<model>"
        )
    return model.train()


def _differences(found: PreTrainedConfig, wanted: PreTrainedConfig) -> list[str]:
    """Where configs differ in what decides what the weights are or mean: all but dropout and how the model is run."""
    if found.model_type != wanted.model_type:
        return [f"model_type {found.model_type}, not {wanted.model_type}"]
    there, here = (
        config.to_dict() | {"block_size": config.max_position_embeddings - first_position(config.model_type)}
        for config in (found, wanted)
    )
    free = {"architectures", "dtype", "transformers_version", "use_cache", "is_decoder", "initializer_range"}
    free |= {"n_positions", "max_position_embeddings"}  # the user knows them as block_size
    names = [name for name in here if name not in free and "drop" not in name and not name.startswith(("_", "summary"))]
    return [f"{name} {there.get(name)}, not {here[name]}" for name in names if there.get(name) != here[name]]


def load(folder: str | Path) -> PreTrainedModel:
    """A model of ours from a folder written by `save_pretrained`, as the class that it says, ready for evaluation.

    Raises:
        ModelError: it is none of CLASSES.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.model_type not in CLASSES:
        raise ModelError(f"{folder} is a {config.model_type}, which is not one of: {', '.join(CLASSES)}")
    return getattr(transformers, config.architectures[0]).from_pretrained(folder, trust_remote_code=False).eval()


def whole(folder: str | Path) -> PreTrainedModel:
    """A model with all its heads, ready for evaluation: trained, exported, in a checkpoint of a training, or of other people.

    It is in full precision, in whatever it was saved, so that models are judged alike.

    Raises:
        ModelError: it cannot be loaded, lacks weights, or predicts no tokens.
    """
    folder = Path(folder)
    if not folder.is_dir() and not HUB_NAME.fullmatch(str(folder)):
        raise ModelError(f"{folder} is no folder (seen from {Path.cwd()})")
    in_training = (folder / "random_states_0.pkl").is_file()  # as accelerate saves it
    if in_training and not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is a checkpoint without config.json; copy there that of results/pretrain/<model>")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if in_training:
            objective = Objective(CLASSES[config.model_type][1](config))
            load_model(objective, folder / "model.safetensors")
            return objective.model.eval()
        name = (config.architectures or [config.model_type])[0]
        if not objectives.of_class(name) or not hasattr(transformers, name):
            raise ModelError(f"{folder} is a {name}, which is none of transformers' ...ForCausalLM and ...ForMaskedLM")
        options = {"dtype": torch.float32, "output_loading_info": True, "trust_remote_code": False}
        model, loaded = getattr(transformers, name).from_pretrained(folder, **options)
        if lacking := sorted(loaded["missing_keys"]) + [key for key, *_ in loaded["mismatched_keys"]]:
            raise ModelError(
                f"{folder} has no {', '.join(lacking)} of the right size; its weights are not those of a {name}"
            )
        if name == "BertForMaskedLM" and (folder / NEXT_SENTENCE).is_file():
            weights = model.state_dict() | load_file(folder / NEXT_SENTENCE)
            model = BertForPreTraining(config)
            model.load_state_dict(weights)
    except ModelError:
        raise
    except UNLOADABLE as error:
        raise ModelError(f"{folder} cannot be loaded as a model: {reason(error)}") from None
    return model.eval()


def tokenizer_of(folder: Path) -> str:
    """SHA-256 of the SentencePiece model of a trained or exported model or a tokenizer of ours; empty of others."""
    if (folder / "spm.model").is_file():
        return digest(folder / "spm.model")
    if (folder / "training.json").is_file():
        return json.loads((folder / "training.json").read_text(encoding="utf-8")).get("tokenizer", "")
    return ""


def belong(pieces: int, rows: int) -> bool:
    """Whether a tokenizer of so many pieces can be that of a model with so many rows.

    Rows to spare, up to a round number, and a few tokens without one are common.
    """
    return abs(rows - pieces) <= 0.1 * rows


def masked(model: PreTrainedModel) -> bool:
    """Whether a model predicts masked tokens, not the next one."""
    return objectives.of_class(type(model).__name__) == objectives.MASKED_TOKENS


def architecture(model: PreTrainedModel) -> str:
    """Name of the architecture of a model."""
    return model.config.model_type


def block_size(model: PreTrainedModel) -> int:
    """Tokens that a model takes at once."""
    return model.config.max_position_embeddings - first_position(architecture(model))


def positions(model: PreTrainedModel) -> int | None:
    """Tokens that a model of other people takes at once; None if that is not said."""
    config = model.config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len")
    found = next((size for name in names if (size := getattr(config, name, None))), None)
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)  # of those that count from behind it, as a RoBERTa does
    return found if found is None or padding is None else found - padding - 1


def flops_per_token(model: PreTrainedModel, block_size: int, predicted: float) -> float:
    """Floating-point operations that a token costs in training, forward and backward.

    Six for each weight of a matrix that the token goes through, and those of the attention over T tokens; the last
    layer counts for the share of the tokens that is predicted.

    Source: PaLM (Chowdhery et al. 2022, appendix B).
    """
    head = model.get_output_embeddings().weight.numel()
    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    body = sum(p.numel() for p in model.parameters() if p.ndim == 2 and id(p) not in tables)
    body -= 0 if id(model.get_output_embeddings().weight) in tables else head
    return 6 * (body + predicted * head) + 12 * model.config.num_hidden_layers * model.config.hidden_size * block_size


class Objective(torch.nn.Module):
    """A model together with its loss: it is compiled as one, and processes exchange the gradients of its forward.

    The model gets the attention of `formats/attention`, with which it cannot generate.
    """

    def __init__(self, model: PreTrainedModel, compiled: bool = False) -> None:
        super().__init__()
        if architecture(model) in CLASSES and architecture(model) != "gpt_neo":  # which has an attention of its own
            model.set_attn_implementation(attention.NAME)
        self.model = model
        self._sums = torch.compile(self.sums, dynamic=False) if compiled else self.sums

    def predict(
        self,
        inputs: torch.Tensor,
        places: torch.Tensor | None = None,
        documents: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        token_types: torch.Tensor | None = None,
        pair_places: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """Logits of the predicted tokens, shape (N, V); of the pairs too of a model with a head for them, shape (P, 2).

        Args:
            inputs: int64, shape (B, T).
            places: int64, shape (N,): which of the B * T tokens are predicted, or predict the next; None: each the next.
            documents: int64, shape (B, T): number of the document in its block.
            positions: int64, shape (B, T).
            token_types: int64, shape (B, T).
            pair_places: int64, shape (P,): where pairs begin, of the B * T tokens.
        """
        model = self.model
        if places is None:
            return [model(input_ids=inputs, use_cache=False).logits.flatten(0, 1)]
        given = {"position_ids": positions, "token_type_ids": token_types, "documents": documents}
        given = {name: tensor for name, tensor in given.items() if tensor is not None}
        hidden_BTE = model.base_model(input_ids=inputs, **given).last_hidden_state
        hidden_NE = hidden_BTE.flatten(0, 1)[places]
        match architecture(model):
            case "gpt2" | "gpt_neo" | "llama" | "roberta":
                return [model.lm_head(hidden_NE)]
            case "modernbert":
                return [model.decoder(model.head(hidden_NE))]
        if model.bert.pooler is None:  # a BertForMaskedLM
            return [model.cls.predictions(hidden_NE)]
        pooled_PE = model.bert.pooler(hidden_BTE.flatten(0, 1)[pair_places][:, None])
        return [model.cls.predictions(hidden_NE), model.cls.seq_relationship(pooled_PE)]

    def sums(
        self, labels: torch.Tensor, pair_labels: torch.Tensor | None = None, **tensors: torch.Tensor
    ) -> torch.Tensor:
        """As `forward`, not compiled."""
        wanted = [labels] if pair_labels is None else [labels, pair_labels]
        nats = [
            functional.cross_entropy(logits.float(), told, ignore_index=IGNORED, reduction="sum")
            for logits, told in zip(self.predict(**tensors), wanted, strict=True)
        ]
        return torch.stack(nats)

    def forward(self, **tensors: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood in nats, summed over the predicted tokens, and over the pairs; shape (1,) or (2,).

        Args:
            tensors: those of `batches.Batch`: labels, int64, shape (N,); pair_labels, shape (P,); the others as of
                `predict`.
        """
        return self._sums(**tensors)
