"""The normaliser: what happens to text before it is cut into pieces.

It lives in the exported tokenizer.json, and the same object is applied before SentencePiece is trained and before text
is turned into tokens: Python's own NFKC differs from it on dozens of code points.
"""

from tokenizers import normalizers


def build(name: str) -> normalizers.Normalizer:
    """The normaliser of a name; `nfkc` turns ～ into 〜 first, which NFKC would make an ASCII tilde."""
    steps = {"nfkc": [normalizers.Replace("～", "〜"), normalizers.NFKC()], "none": []}
    return normalizers.Sequence(steps[name])
