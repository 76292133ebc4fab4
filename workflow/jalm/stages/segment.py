"""Cut the paragraphs of every document into sentences.

Rules decide by what stands around a terminal (。！？) or a closing bracket; what stands inside brackets is never cut.
Where the next word may be a particle that carries the sentence on (「え？」と言った, モーニング娘。の曲), fugashi decides.
Joining the sentences gives the text back: white space stays with the sentence before it, an empty line becomes a
paragraph without sentences, and no sentence is dropped or cut for its length. With `words` a document also has the
length of each word of each sentence, where words are the dictionary's and what it takes for white space between them.
"""

import re
from pathlib import Path

from jalm import cli
from jalm.config import Segment
from jalm.formats import documents, words

TERMINALS = "。｡．！？!?‼⁇⁈⁉"
BRACKETS = {  # both widths are one kind: wikis close （ with )
    "「｢": "」｣", "『": "』", "（(": "）)", "【": "】", "〈": "〉", "《": "》",
    "〔": "〕", "［[": "］]", "｛{": "｝}", "“": "”", "〝": "〟〞",
}  # fmt: skip
OPENING = {bracket: kind for kind in BRACKETS for bracket in kind}
CLOSING = {bracket: kind for kind in BRACKETS for bracket in BRACKETS[kind]}

_opening, _closing = re.escape("".join(OPENING)), re.escape("".join(CLOSING))
_plain = rf"[^{TERMINALS}{_opening}{_closing}\n]"
_plain_pair = "|".join(rf"[{re.escape(a)}]{_plain}*[{re.escape(b)}]" for a, b in BRACKETS.items())

# Text without a mark, then the mark. Whatever the first part takes, a mark follows: nothing is ever given back, and the
# time is linear. (A possessive group would save memory, but Python 3.11.2 matches those wrongly.)
_MARK = re.compile(rf"(?:{_plain}+|{_plain_pair})*(?:[{TERMINALS}]+|[{_opening}{_closing}\n])")
_trail = rf"{_closing}♪\uFE0F\u200D\U0001F000-\U0001FAFF"  # lone brackets, emoji and what they are made with
_REST = re.compile(rf"[{_trail}]*[^\S\n]*")
_NO_BEGINNING = re.compile(rf"[{TERMINALS}{_closing}、，､…‥]|・・")
_UNSURE_AFTER_FULL_STOP = re.compile(  # names end in one: モーニング娘。の曲
    rf"{_NO_BEGINNING.pattern}|[{_trail}とっ]|(?<=[^\Wぁ-ん][。｡])[のはがをにでもへ]"
)
_NO_TERMINAL = re.compile(
    r"(?<=[\dA-Za-zＡ-Ｚａ-ｚ．])．"  # 3．14, Ｊ．Ｓ．バッハ, １．概要, ．．．
    rf"|(?<=[0-9A-Za-z])[！？!?](?=[^\s{_opening}])"  # Yahoo!ニュース
    r"|(?<=[A-Za-z])[!?] (?=[A-Za-z])"  # Hey! Say! JUMP
    r"|(?:(?<=\d年)|(?<=\d年[)）]))[？?]"  # 1590年?
)
_NOTE = re.compile(r"[（(][^（）()\n]{,200}[。｡．][)）]")  # a whole sentence in brackets
_CONNECTIVE = re.compile(  # made of particles and auxiliaries, yet the beginning of a sentence
    "だ(?:が|から|けど|って)|で(?:は|も|すが|すから|すので|したら)|が、|にも[か拘関]|のみならず|なの[でに]"
    "|と(?:、|同時|は[いう言]|も(?:あれ|かく|に|すれば|すると)|い(?:うの[はも]|うこと|うわけ|うより|っても)|言っても"
    "|すれば|すると|な(?:ると|れば))"
)
_WINDOW = re.compile(r".{,12}")  # what fugashi sees of the text after a mark


class Splitter:
    """Cuts text into sentences; where it cuts depends on the paragraph alone."""

    def __init__(self, dictionary: str) -> None:
        self._tagger = words.tagger(dictionary)

    def paragraphs(self, text: str) -> list[list[str]]:
        """Sentences of every line of a text, white space included."""
        text += "\n"
        marks = [match.end() for match in _MARK.finditer(text)]
        closing = _pairs(text, marks)
        paragraphs, sentences = [], []
        start = i = 0
        while i < len(marks):
            opening = marks[i] - 1
            i = closing.get(i, i)  # nothing inside brackets is cut
            end = marks[i]
            i += 1
            if text[end - 1] == "\n":
                if start < end - 1:
                    sentences.append(text[start : end - 1])
                paragraphs.append(sentences)
                sentences, start = [], end
            elif self._ends(text, start, opening, end):
                end = _REST.match(text, end).end()
                if text[end] != "\n":
                    sentences.append(text[start:end])
                    start = end
        return paragraphs

    def _ends(self, text: str, start: int, opening: int, end: int) -> bool:
        """Whether the sentence from `start` ends at `end`: with a terminal, or with the bracket opened at `opening`."""
        if text[end - 1] in TERMINALS:
            return self._ends_at_terminal(text, end)
        if opening == end - 1 or text[end - 2] not in TERMINALS:  # a lone bracket is text
            return False
        return self._ends_at_bracket(text, end, opening == start + text[start].isspace())

    def _ends_at_terminal(self, text: str, end: int) -> bool:
        if text[end - 1] in "。｡":
            if not _UNSURE_AFTER_FULL_STOP.match(text, end):
                return True
        elif _NO_TERMINAL.match(text, end - 1):
            return False
        if text[end].isspace():
            return True
        after = _REST.match(text, end).end()
        if _NO_BEGINNING.match(text, after):
            return False
        if after == end and _CONNECTIVE.match(text, after):
            return True
        return not self._carries_on(text, end, after)

    def _ends_at_bracket(self, text: str, end: int, is_whole: bool) -> bool:
        """Whether a bracket closed after a terminal, 。」, ends a sentence; `is_whole` if it began the sentence too."""
        after = _REST.match(text, end).end()
        if _NO_BEGINNING.match(text, after):
            return False
        if text[end - 1] in BRACKETS["（("]:
            if text[after] in "（(" or (is_whole and _CONNECTIVE.match(text, after)):
                return True
            if not is_whole:
                return False
        elif text[end - 2] not in "。｡．" and not is_whole:  # a title: 「新選組!」では
            return False
        elif text[after] in "（(":
            return _NOTE.match(text, after) is not None
        return not self._carries_on(text, end, after)

    def _carries_on(self, text: str, end: int, after: int) -> bool:
        """Whether the word at `after` is a particle or auxiliary of the sentence before it, so that no other begins here."""
        if not "ぁ" <= text[after] <= "ん":
            return False
        found = self._tagger(text[end - 1] + _WINDOW.match(text, after).group())
        return len(found) > 1 and found[1].feature[0] in ("助詞", "助動詞") and found[1].feature[1] != "接続助詞"


def _pairs(text: str, marks: list[int]) -> dict[int, int]:
    """Brackets that belong together: index in `marks` of the opening one to that of the closing one."""
    closing = {}
    waiting, count = [], {}
    for i, end in enumerate(marks):
        mark = text[end - 1]
        if mark in OPENING:
            kind = OPENING[mark]
            waiting.append((kind, i))
            count[kind] = count.get(kind, 0) + 1
        elif mark in CLOSING and count.get(CLOSING[mark]):
            kind = None
            while kind != CLOSING[mark]:  # brackets opened since then stay open: they are text
                kind, opening = waiting.pop()
                count[kind] -= 1
            closing[opening] = i
        elif mark == "\n" and waiting:
            waiting, count = [], {}
    return closing


def main(argv: list[str] | None = None) -> None:
    """Segment one file of documents."""
    parser = cli.parser(__doc__, Segment, "segment")
    parser.add_argument("--input", type=Path, required=True, help="documents with text")
    parser.add_argument("--output", type=Path, required=True, help="the documents with paragraphs of sentences instead")
    args, config = cli.parse(parser, argv)
    splitter = Splitter(config.dictionary)
    wakati = words.wakati(config.dictionary) if config.words else None
    count = 0
    with cli.writing(args.output) as (output,), documents.writing(output) as writer:
        for document in cli.progress(documents.read(args.input), unit=" documents"):
            paragraphs = splitter.paragraphs(document["text"])
            count += sum(map(len, paragraphs))
            segmented = document | {"text": paragraphs}  # in the place of the text
            if wakati:
                segmented["words"] = [[words.lengths(s, wakati) for s in sentences] for sentences in paragraphs]
            writer.write({"paragraphs" if key == "text" else key: value for key, value in segmented.items()})
    cli.closing("segment", f"{writer.count:,} documents", f"{writer.count:,} documents, {count:,} sentences")
