"""The exported tokenizer: a SentencePiece model as tokenizer.json, the same ids for any text.

Why it is exact (and why the converters of transformers are not):

- The normaliser is part of tokenizer.json, and SentencePiece itself changes nothing.
- Unigram: scores are multiples of 2^-6, because SentencePiece adds them in 32 bits and tokenizers in 64 (it keeps the sums
  of long texts small enough for that, but not for 2^-8). Control and byte pieces get a score so low that text spelling
  "<0x41>" or "[MASK]" cannot match them, as long as each of the characters they are spelt with has a piece.
- BPE: SentencePiece merges the two neighbours that make the best piece, the leftmost first. Merges inside a piece come
  in the order in which they come when the piece stands alone, so it is only ever made of one pair of pieces; these
  pairs, by score, are the merges of tokenizers. Every character of a piece has to be a piece.
"""

import json
import re
from itertools import pairwise
from pathlib import Path

from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram

from jalm import Fault
from jalm.formats.ids import BOS, CLS, EOS, IDS, MASK, PAD, SEP, SPECIAL, UNK

NEVER = -1000.0  # a score that no path through known characters can be as bad as
# a path with one unknown character is worse still, so what spells the pieces above, and the space, is always known
SPELLING = "".join(sorted({*"".join(SPECIAL), *"<0x123456789ABCDEF>", "▁"}))
STEPS = 2**6  # scores are multiples of 1 / STEPS
TAKEN_FOR_A_BYTE = re.compile("<0x[+0-9A-Fa-f][0-9A-Fa-f]>")  # by the decoder of tokenizers, which reads <0x4a> too

# what a text is wrapped in at inference: the same as in training
WRAPPING = dict.fromkeys(("gpt2", "gpt_neo", "llama"), (BOS, ""))
WRAPPING |= dict.fromkeys(("roberta", "modernbert"), (BOS, EOS)) | {"bert": (CLS, SEP)}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # SentencePiece's types of pieces
ALGORITHMS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


class TokenizerError(Fault):
    """A file that is no tokenizer, or one that cannot be exported."""


def read(path: Path) -> bytes:
    """A serialised SentencePiece model from its file.

    Raises:
        TokenizerError: the file is none.
    """
    model = path.read_bytes()
    try:
        pieces = SentencePieceProcessor(model_proto=model).get_piece_size()
    except RuntimeError:
        pieces = 0
    if not pieces:
        raise TokenizerError(
            f"{path} is no SentencePiece model; give the .model file that SentencePiece's trainer wrote"
        )
    return model


def read_exported(path: Path) -> Tokenizer:
    """A tokenizer from its tokenizer.json.

    Raises:
        TokenizerError: the file is none.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # tokenizers has no type of its own
        raise TokenizerError(f"{path} is no tokenizer.json: {error}; remove it, and it is made again") from None


def exact(model: bytes) -> bytes:
    """A serialised SentencePiece model with what tokenizers would do otherwise taken out of it.

    Scores of a unigram model are rounded to what both add up alike, and a piece that the decoder would take for a byte is
    matched by no text any more.
    """
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    for piece in proto.pieces:
        if piece.type == NORMAL:
            piece.score = round(piece.score * STEPS) / STEPS
            piece.type = CONTROL if TAKEN_FOR_A_BYTE.fullmatch(piece.piece) else NORMAL
    return proto.SerializeToString()


def adopt(model: bytes) -> bytes:
    """A SentencePiece model of a user's, laid over our ids: as like it as can be exported.

    Our special tokens come first, in place of its own; then its bytes, then its other pieces in their order. What the
    user defined as symbols become pieces like others. Each character of a piece becomes a piece too, and those that
    special tokens are spelt with. `normaliser.carried` normalises in its place. Where it put ▁ before a text, it still
    does, and takes away the spaces at both ends.

    Raises:
        TokenizerError: it is neither unigram nor BPE, or marks the end of words.
    """
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    algorithm = ALGORITHMS[proto.trainer_spec.model_type]
    if algorithm not in ("unigram", "bpe"):
        raise TokenizerError(f"its model_type is {algorithm}; it can be unigram or bpe")
    if proto.trainer_spec.treat_whitespace_as_suffix:
        raise TokenizerError("it was trained with treat_whitespace_as_suffix, which tokenizer.json cannot express")
    found = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}
    best, worst = max(found.values(), default=0.0), min(found.values(), default=0.0)
    for piece in proto.pieces:
        if piece.type == USER_DEFINED:  # the score that SentencePiece gives them: length in bytes
            found[piece.piece] = best + 1 if algorithm == "bpe" else len(piece.piece.encode()) * best - 0.1
    for character in sorted({*"".join(found), *SPELLING}):
        found.setdefault(character, worst)
    if algorithm == "bpe":  # no two alike, because tokenizers knows no leftmost of two merges
        found = {piece: -float(rank) for rank, piece in enumerate(sorted(found, key=found.get, reverse=True))}
    ranked = [(piece, score, NORMAL) for piece, score in found.items() if piece not in SPECIAL]
    in_bytes = [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256) if proto.trainer_spec.byte_fallback]
    special = [(piece, 0.0, UNKNOWN if piece == UNK else CONTROL) for piece in SPECIAL]
    del proto.pieces[:]
    for piece, score, kind in special + in_bytes + ranked:
        proto.pieces.add(piece=piece, score=score, type=kind)
    trainer = proto.trainer_spec
    trainer.vocab_size = len(proto.pieces)
    for name, piece in (("pad", PAD), ("unk", UNK), ("bos", BOS), ("eos", EOS)):
        setattr(trainer, f"{name}_id", IDS[piece])
        setattr(trainer, f"{name}_piece", piece)
    trainer.unk_surface = UNK
    trainer.control_symbols[:] = [CLS, SEP, MASK]
    del trainer.user_defined_symbols[:]
    prefix = proto.normalizer_spec.add_dummy_prefix
    for spec in (proto.normalizer_spec, proto.denormalizer_spec):
        spec.Clear()
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = prefix
    proto.normalizer_spec.remove_extra_whitespaces = prefix  # those in front: see `build`
    return exact(proto.SerializeToString())


def last_merge(piece: str, scores: dict[str, float]) -> tuple[str, str] | None:
    """The two pieces that SentencePiece's BPE makes `piece` of; None if it never does, or it is one character."""
    symbols = list(piece)
    while len(symbols) > 2:
        made = [left + right for left, right in pairwise(symbols)]
        best = max(range(len(made)), key=lambda n: (scores.get(made[n], -float("inf")), -n))
        if made[best] not in scores:
            return None
        symbols[best : best + 2] = [made[best]]
    return tuple(symbols) if len(symbols) == 2 else None


def build(model: bytes, normalizer: normalizers.Normalizer) -> Tokenizer:
    """The tokenizer of a serialised SentencePiece model, without wrapping of texts.

    Args:
        model: unigram or BPE, out of `exact` or `adopt`, with our ids; it normalises nothing itself.
        normalizer: what was applied to its training text.
    """
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}
    assert [piece.piece for piece in proto.pieces[: len(SPECIAL)]] == list(SPECIAL)
    assert {*"".join(scores), *SPELLING} <= scores.keys()
    in_bytes = proto.trainer_spec.byte_fallback
    if ALGORITHMS[proto.trainer_spec.model_type] == "bpe":
        vocabulary = {piece.piece: number for number, piece in enumerate(proto.pieces)}
        merges = [last_merge(piece, scores) for piece in sorted(scores, key=scores.get, reverse=True)]
        merges = [pair for pair in merges if pair]
        tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token=UNK, fuse_unk=True, byte_fallback=in_bytes))
    else:
        vocabulary = [(piece.piece, scores.get(piece.piece, NEVER)) for piece in proto.pieces]
        tokenizer = Tokenizer(Unigram(vocabulary, unk_id=IDS[UNK], byte_fallback=in_bytes))
    steps = [normalizer, normalizers.Replace(" ", "▁")]
    decoding = [decoders.Replace("▁", " "), *([decoders.ByteFallback()] if in_bytes else []), decoders.Fuse()]
    if proto.normalizer_spec.add_dummy_prefix:  # put before the text only, not after each special token in it
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
        # which it does not do where there is a ▁; SentencePiece takes a space away there, and ▁ at the end
        steps += [normalizers.Replace(Regex(r"▁+\z"), ""), normalizers.Replace(Regex(r"\A▁+"), " ")]
        decoding.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(decoding)
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in SPECIAL])
    assert tokenizer.get_vocab_size() == len(proto.pieces)
    return tokenizer


def agreement(own: bytes, tokenizer: Tokenizer, lines: list[str]) -> int:
    """How many of the lines the tokenizer cuts into the same pieces as the SentencePiece model that it was adopted from."""
    original = SentencePieceProcessor(model_proto=own)
    same = 0
    for line in lines:
        ids = original.encode(line)
        pieces = [UNK if original.is_unknown(number) else original.id_to_piece(number) for number in ids]
        made = tokenizer.encode(line, add_special_tokens=False).ids
        same += pieces == [tokenizer.id_to_token(number) for number in made]
    return same


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
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    begin, end = WRAPPING[architecture]
    pairs = ["token_type_ids"] if architecture == "bert" else []
    config = {
        # transformers 5 would write its own class, which 4.4x refuses
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": positions,
        "clean_up_tokenization_spaces": False,
        # transformers 4 would always add token_type_ids, which GPT-2 embeds as if they were tokens
        "model_input_names": ["input_ids", *pairs, "attention_mask"],
        "bos_token": BOS,
        "eos_token": EOS,
        "unk_token": UNK,
        "pad_token": PAD,
        "mask_token": MASK,
        "cls_token": begin if end else CLS,
        "sep_token": end or SEP,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
