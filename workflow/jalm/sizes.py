"""Sizes of the models, by the names of each architecture's transformers config."""

from typing import Annotated, Literal

from pydantic import model_validator

from jalm.knobs import Section, knob

Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "relu2", "silu"]  # of transformers' ACT2FN


class GPT2(Section):
    """Sizes of a GPT-2."""

    n_layer: Annotated[int, knob("blocks", ge=1)] = 12
    n_head: Annotated[int, knob("attention heads", ge=1)] = 12
    n_embd: Annotated[int, knob("width", ge=1)] = 768
    n_inner: Annotated[int | None, knob("width inside the feed-forward layers; null: 4 x n_embd", ge=1)] = None
    activation_function: Annotated[Activation, knob("of the feed-forward layers")] = "gelu_new"
    resid_pdrop: Annotated[float, knob("dropout after each sublayer", ge=0, lt=1)] = 0.0
    embd_pdrop: Annotated[float, knob("dropout of the embeddings", ge=0, lt=1)] = 0.0
    attn_pdrop: Annotated[float, knob("dropout of the attention weights", ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def heads_divide_width(self) -> "GPT2":
        """Refuse heads of unequal width."""
        return _equal_heads(self, "n_embd", "n_head")


class GPTNeo(Section):
    """Sizes of a GPT-Neo; every second block attends to the last window_size tokens only."""

    num_layers: Annotated[int, knob("blocks", ge=1)] = 12
    num_heads: Annotated[int, knob("attention heads", ge=1)] = 12
    hidden_size: Annotated[int, knob("width", ge=1)] = 768
    intermediate_size: Annotated[
        int | None, knob("width inside the feed-forward layers; null: 4 x hidden_size", ge=1)
    ] = None
    window_size: Annotated[int, knob("tokens that a local block attends to", ge=1)] = 256
    activation_function: Annotated[Activation, knob("of the feed-forward layers")] = "gelu_new"
    resid_dropout: Annotated[float, knob("dropout after each sublayer", ge=0, lt=1)] = 0.0
    embed_dropout: Annotated[float, knob("dropout of the embeddings", ge=0, lt=1)] = 0.0
    attention_dropout: Annotated[float, knob("dropout of the attention weights", ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def heads_divide_width(self) -> "GPTNeo":
        """Refuse heads of unequal width."""
        return _equal_heads(self, "hidden_size", "num_heads")


class _Layers(Section):
    num_hidden_layers: Annotated[int, knob("blocks", ge=1)] = 12
    num_attention_heads: Annotated[int, knob("attention heads", ge=1)] = 12
    hidden_size: Annotated[int, knob("width", ge=1)] = 768

    @model_validator(mode="after")
    def heads_divide_width(self) -> "_Layers":
        """Refuse heads of unequal width."""
        return _equal_heads(self, "hidden_size", "num_attention_heads")


class Llama(_Layers):
    """Sizes of a Llama: rotary positions, RMSNorm, gated feed-forward layers, no biases."""

    num_key_value_heads: Annotated[int | None, knob("heads of keys and values; null: all have their own", ge=1)] = None
    intermediate_size: Annotated[int, knob("width inside the feed-forward layers", ge=1)] = 2048
    hidden_act: Annotated[Activation, knob("of the feed-forward layers")] = "silu"
    rope_theta: Annotated[float, knob("base of the rotary positions", gt=0)] = 10000.0
    tie_word_embeddings: Annotated[bool, knob("one matrix for the first and the last layer")] = True
    attention_dropout: Annotated[float, knob("dropout of the attention weights", ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def heads_share_keys(self) -> "Llama":
        """Refuse groups of unequal size, and odd heads, which rotary positions cannot turn."""
        if self.num_key_value_heads and self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is no multiple of num_key_value_heads "
                f"{self.num_key_value_heads}"
            )
        return _even_heads(self)


class Roberta(_Layers):
    """Sizes of a RoBERTa."""

    intermediate_size: Annotated[int, knob("width inside the feed-forward layers", ge=1)] = 3072
    hidden_act: Annotated[Activation, knob("of the feed-forward layers")] = "gelu"
    hidden_dropout_prob: Annotated[float, knob("dropout of embeddings and sublayers", ge=0, lt=1)] = 0.0
    attention_probs_dropout_prob: Annotated[float, knob("dropout of the attention weights", ge=0, lt=1)] = 0.0


class Bert(Roberta):
    """Sizes of a BERT, which also learns whether a segment follows another."""


class ModernBert(_Layers):
    """Sizes of a ModernBERT: rotary positions, gated feed-forward layers, norms first, local and global attention."""

    intermediate_size: Annotated[int, knob("width inside the feed-forward layers", ge=1)] = 1152
    hidden_activation: Annotated[Activation, knob("of the feed-forward layers")] = "gelu"
    global_attn_every_n_layers: Annotated[int, knob("every so many blocks one attends to all tokens", ge=1)] = 3
    local_attention: Annotated[int, knob("tokens around each that the other blocks attend to", ge=2)] = 128
    embedding_dropout: Annotated[float, knob("dropout of the embeddings", ge=0, lt=1)] = 0.0
    mlp_dropout: Annotated[float, knob("dropout inside the feed-forward layers", ge=0, lt=1)] = 0.0
    attention_dropout: Annotated[float, knob("dropout of the attention weights", ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def heads_turn(self) -> "ModernBert":
        """Refuse odd heads, which rotary positions cannot turn."""
        return _even_heads(self)


def _equal_heads(sizes: Section, width: str, heads: str) -> Section:
    if getattr(sizes, width) % getattr(sizes, heads):
        raise ValueError(f"{width} {getattr(sizes, width)} is no multiple of {heads} {getattr(sizes, heads)}")
    return sizes


def _even_heads(sizes: _Layers) -> _Layers:
    if (width := sizes.hidden_size // sizes.num_attention_heads) % 2:
        raise ValueError(
            f"heads are {width} wide (hidden_size / num_attention_heads); rotary positions need an even number"
        )
    return sizes


Sizes = GPT2 | GPTNeo | Llama | Bert | Roberta | ModernBert
ARCHITECTURES: dict[str, type[Section]] = {
    "gpt2": GPT2,
    "gpt_neo": GPTNeo,
    "llama": Llama,
    "roberta": Roberta,
    "bert": Bert,
    "modernbert": ModernBert,
}
MASKED = {"roberta", "bert", "modernbert"}  # architectures that predict masked tokens; the others predict the next one
