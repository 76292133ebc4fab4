"""The special tokens and their ids, the same for every tokenizer, and what architectures make of them."""

# all are control symbols, so that no article can spell one
PAD, UNK, BOS, EOS, CLS, SEP, MASK = SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "[CLS]", "[SEP]", "[MASK]")
IDS = {piece: number for number, piece in enumerate(SPECIAL)}
BYTES = range(len(SPECIAL), len(SPECIAL) + 256)  # of the pieces <0x00> … <0xFF>, with byte fallback
IGNORED = -100  # label of what is not predicted, in transformers too


def first_position(architecture: str) -> int:
    """Position of the first token; RoBERTa counts from the one after that of <pad>."""
    return IDS[PAD] + 1 if architecture == "roberta" else 0
