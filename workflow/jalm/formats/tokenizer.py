"""The exported tokenizer: a SentencePiece model as tokenizer.json, the same ids for any text.

Why it is exact (and why the converters of transformers are not): the normaliser is part of tokenizer.json; scores are
multiples of 2^-9, because SentencePiece adds them in 32 bits and tokenizers in 64; control and byte pieces get a score
so low that text spelling "<0x41>" or "[MASK]" cannot match them, as long as each of the characters they are spelt with
has a piece.
"""

import json
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import Unigram

from jalm.formats import normaliser

# ids are the same for every architecture; all are control symbols, so that no article can spell one
PAD, UNK, BOS, EOS, CLS, SEP, MASK = SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "[CLS]", "[SEP]", "[MASK]")
IDS = {piece: number for number, piece in enumerate(SPECIAL)}
BYTES = range(len(SPECIAL), len(SPECIAL) + 256)  # ids of the pieces <0x00> … <0xFF>

NEVER = -1000.0  # a score that no path through known characters can be as bad as
# a path with one unknown character is worse still, so what spells the pieces above, and the space, is always known
SPELLING = "".join(sorted({*"".join(SPECIAL), *"<0x123456789ABCDEF>", "▁"}))
STEPS = 2**9  # scores are multiples of 1 / STEPS

# what a text is wrapped in at inference: the same as in training
WRAPPING = {"gpt2": (BOS, ""), "roberta": (BOS, EOS)}
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # SentencePiece's types of pieces


def rounded(model: bytes) -> bytes:
    """A serialised SentencePiece model with its scores rounded to what both libraries add up alike."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    for piece in proto.pieces:
        if piece.type == NORMAL:
            piece.score = round(piece.score * STEPS) / STEPS
    return proto.SerializeToString()


def build(model: bytes, normalization: str) -> Tokenizer:
    """The tokenizer of a serialised SentencePiece unigram model, without wrapping of texts.

    Args:
        model: trained with the identity normalisation, without dummy prefix, with byte fallback.
        normalization: name of the normaliser that was applied to its training text.
    """
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    assert [piece.piece for piece in proto.pieces[: len(SPECIAL)]] == list(SPECIAL)
    assert set(SPELLING) <= {piece.piece for piece in proto.pieces if piece.type == NORMAL}
    vocabulary = [(piece.piece, piece.score if piece.type == NORMAL else NEVER) for piece in proto.pieces]
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=IDS[UNK], byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normaliser.build(normalization), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in SPECIAL])
    assert tokenizer.get_vocab_size() == len(proto.pieces)
    return tokenizer


def wrap(tokenizer: Tokenizer, architecture: str) -> None:
    """Let the tokenizer put around a text what the architecture saw around it in training."""
    begin, end = WRAPPING[architecture]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}".strip(),
        pair=f"{begin} $A {end} $B:1 {end}:1" if end else f"{begin} $A $B:1",
        special_tokens=[(piece, IDS[piece]) for piece in (begin, end) if piece],
    )


def save(tokenizer: Tokenizer, folder: Path, architecture: str, positions: int) -> None:
    """Write tokenizer.json and tokenizer_config.json, which plain AutoTokenizer reads.

    Args:
        tokenizer: changed in place by `wrap`.
        folder: where to.
        architecture: of the model the tokenizer is for.
        positions: tokens that the model can take.
    """
    wrap(tokenizer, architecture)
    tokenizer.save(str(folder / "tokenizer.json"))
    _, end = WRAPPING[architecture]
    config = {
        # transformers 5 would write its own class, which 4.4x refuses
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": positions,
        "clean_up_tokenization_spaces": False,
        # transformers 4 would add token_type_ids, which GPT-2 embeds as if they were tokens
        "model_input_names": ["input_ids", "attention_mask"],
        "bos_token": BOS,
        "eos_token": EOS,
        "unk_token": UNK,
        "pad_token": PAD,
        "mask_token": MASK,
        "cls_token": BOS if end else CLS,
        "sep_token": EOS if end else SEP,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
