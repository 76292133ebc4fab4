"""The normaliser: what happens to text before it is cut into pieces.

It lives in the exported tokenizer.json, and the same object is applied before SentencePiece is trained and before text
is turned into tokens: Python's own NFKC differs from it on dozens of code points.
"""

import json

import numpy as np
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, normalizers

NFKC = (normalizers.Replace("～", "〜"), normalizers.NFKC())  # NFKC alone would make ～ an ASCII tilde
STEPS = {"none": (), "nfkc": NFKC, "nfkc_lower": (*NFKC, normalizers.Lowercase(), normalizers.NFKC())}

BLOCK = 1 << 14  # characters normalised at once when a table is made
AT_ONCE = 1 << 18  # characters looked up at once
ASK = 0xD800  # in a table: the object has to be asked; a surrogate, which no text has
YPOGEGRAMMENI = "\u0345"  # the one mark that every other mark moves before
DECOMPOSING = 0x30000  # nothing from here on combines with what stands before it


def build(name: str) -> normalizers.Normalizer:
    """The normaliser of a name.

    `nfkc` turns ～ into 〜 first; `nfkc_lower` lower-cases too, and joins again what that took apart (İ).
    """
    return normalizers.Sequence(list(STEPS[name]))


def carried(model: bytes) -> normalizers.Normalizer:
    """What a SentencePiece model does to text before it cuts it, as well as tokenizers can.

    Its table of characters (nmt_nfkc and the like) is applied here to each letter with its marks, there to the longest
    match; NFC mends most of the difference.
    """
    spec = sentencepiece_model_pb2.ModelProto.FromString(model).normalizer_spec
    steps = []
    if spec.precompiled_charsmap:
        steps += [normalizers.Precompiled(spec.precompiled_charsmap), normalizers.NFC()]
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(Regex(r" \z"), "")]
        if not spec.add_dummy_prefix:  # else see `tokenizer.build`
            steps.append(normalizers.Replace(Regex(r"\A "), ""))
    return normalizers.Sequence(steps)


def by_character(normalizer: normalizers.Normalizer) -> bool:
    """Whether a normaliser looks at no more than a character and its marks, so that `Fast` can stand for it."""
    steps = [json.loads(normalizer.__getstate__())]
    while any("normalizers" in step for step in steps):
        steps = [part for step in steps for part in step.get("normalizers", [step])]
    replaced = [(step["pattern"].get("String", ""), step["content"]) for step in steps if step["type"] == "Replace"]
    others = {step["type"] for step in steps} - {"Replace"}
    return others <= {"NFKC", "Lowercase"} and all(len(old) == len(new) == 1 for old, new in replaced)


def _each(normalizer: normalizers.Normalizer, characters: list[str], before: str = "") -> list[str]:
    """What becomes of each of some characters alone, `before` put before it; a line break keeps them apart."""
    made = []
    for begin in range(0, len(characters), BLOCK):
        block = characters[begin : begin + BLOCK]
        lines = normalizer.normalize_str("\n".join(before + character for character in block)).split("\n")
        assert len(lines) == len(block)
        made += lines
    return made


class Fast:
    """A normaliser that works character by character, made as fast as a table: the same text, several times as fast.

    A character that becomes another one, whatever stands beside it, is looked up. The object itself gets the others
    with the character before them: those that combine with it or change places (marks, jamo), that become more than one, or
    none, and those beyond U+FFFF. Which they are, the object and its sisters NFD and NFKD say, not Python's tables, which
    are of another version of Unicode. Between two characters of which the second combines with nothing, a text can be cut
    and its pieces normalised alone.

    Attributes:
        combining: the characters that may combine with what stands before them.
    """

    def __init__(self, normalizer: normalizers.Normalizer) -> None:
        self._normalize = normalizer.normalize_str
        all_ = [chr(code) for code in range(DECOMPOSING) if chr(code) != "\n" and not 0xD800 <= code < 0xE000]
        nfd, nfkd = normalizers.NFD(), normalizers.NFKD()
        second = {character for made in _each(nfd, all_) for character in made[1:]} | {YPOGEGRAMMENI}
        behind = dict(zip(all_, _each(nfkd, all_, before=YPOGEGRAMMENI), strict=True))
        self.combining = frozenset(
            character
            for character, made in behind.items()
            # a mark moves before it, and what begins with a mark when it is decomposed does too
            if not made.startswith(YPOGEGRAMMENI) or character in second or made[1:2] in second
        )
        plain = [character for character in all_ if character <= "\uffff"]
        self._table = np.full(0x10000, ASK, dtype="<u4")
        self._table[ord("\n")] = ord("\n")
        for character, made in zip(plain, _each(normalizer, plain), strict=True):
            if len(made) == 1 and made <= "\uffff" and not {character, made} & self.combining:
                self._table[ord(character)] = ord(made)
        self._table[0xFFFF] = ASK  # stands for all beyond

    def __call__(self, texts: list[str]) -> list[str]:
        """Each text as the normaliser makes it."""
        # apart from each other by line breaks, with which nothing combines
        codes = np.frombuffer("\n".join(texts).encode("utf-32-le"), dtype="<u4")
        ends = np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)) + 1)
        longer = np.zeros(len(texts) + 1, dtype=np.int64)
        made, begin = [], 0
        while begin < len(codes):
            end = begin + AT_ONCE
            while end < len(codes) and self._table.take(codes[end], mode="clip") == ASK:
                end += 1
            pieces, places, grown = self._look_up(codes[begin:end])
            made.append(pieces)
            np.add.at(longer, np.searchsorted(ends, np.array(places, dtype=np.int64) + begin, side="right"), grown)
            begin = end
        text = "".join(made)
        ends = (ends + np.cumsum(longer[:-1])).tolist()
        return [text[begin : end - 1] for begin, end in zip([0, *ends], ends, strict=False)]

    def _look_up(self, codes: np.ndarray) -> tuple[str, list[int], list[int]]:
        """What becomes of some characters; the places where it has more or less of them, and how many."""
        made = self._table.take(codes, mode="clip")
        ask = np.flatnonzero(made == ASK)
        if not len(ask):
            return made.tobytes().decode("utf-32-le"), [], []
        # runs of them, each with the character before it
        first = np.flatnonzero(np.diff(ask, prepend=-2) > 1)
        stops = np.append(ask[first[1:] - 1], ask[-1]) + 1
        pieces, places, grown, done = [], [], [], 0
        for begin, end in zip(ask[first].tolist(), stops.tolist(), strict=True):
            begin = max(begin - 1, 0)
            asked = self._normalize(codes[begin:end].tobytes().decode("utf-32-le"))
            pieces += [made[done:begin].tobytes().decode("utf-32-le"), asked]
            places.append(end - 1)
            grown.append(len(asked) - (end - begin))
            done = end
        return "".join([*pieces, made[done:].tobytes().decode("utf-32-le")]), places, grown
