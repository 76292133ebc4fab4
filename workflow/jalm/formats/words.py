"""Words of UniDic: the dictionary's words of a sentence, and the white space between them, which fugashi drops."""

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from jalm import Fault

if TYPE_CHECKING:
    from fugashi import GenericTagger

CALL = 100_000  # characters that fugashi is given at once; several times as many crash it


def lengths(sentence: str, wakati: Callable[[str], str]) -> list[int]:
    """Length of each word of a sentence, in characters; `wakati` puts spaces between words and drops white space."""
    total = []
    for begin in range(0, len(sentence), CALL):
        text = sentence[begin : begin + CALL].replace("\0", " ")  # where a C string ends
        words = wakati(text).split()
        found = list(map(len, words))
        if sum(found) != len(text):
            found, place = [], 0
            for word in words:
                at = text.index(word, place)
                found += [at - place, len(word)]
                place = at + len(word)
            found = [length for length in (*found, len(text) - place) if length]
        total += found
    return total


def tagger(dictionary: str, options: str = "") -> "GenericTagger":
    """A fugashi tagger with the dictionary `unidic`, `unidic-lite` or the compiled one in a folder.

    Raises:
        Fault: there is no such dictionary.
    """
    import fugashi

    folder, remedy = dictionary, "give the folder of a compiled UniDic, unidic or unidic-lite"
    if dictionary == "unidic":
        import unidic

        folder, remedy = unidic.DICDIR, "run `python -m unidic download`, or set segment.dictionary to unidic-lite"
    elif dictionary == "unidic-lite":
        import unidic_lite

        folder = unidic_lite.DICDIR
    try:
        return fugashi.GenericTagger(f"{options} -d {shlex.quote(folder)} -r /dev/null")
    except RuntimeError:  # its message is a page about fugashi
        raise Fault(f"segment.dictionary is {dictionary!r}, but {folder} is no compiled dictionary; {remedy}") from None


def wakati(dictionary: str) -> Callable[[str], str]:
    """A function that puts spaces between the words of a text and drops its white space; `lengths` asks it.

    Raises:
        Fault: there is no such dictionary.
    """
    return tagger(dictionary, "-Owakati").parse
