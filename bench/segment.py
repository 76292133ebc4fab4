"""Cutting Japanese text into sentences: jalm, a fugashi loop, and the splitters konoha, hasami and sentencex.

usage: bench/segment.py DOCUMENTS [MEGABYTES]    (.jsonl.zst with text; how much of it, 10 unless told)

The three splitters are no part of the environment; one that is not there is passed over:
pip install --target=others konoha hasami sentencex; PYTHONPATH=workflow:others bench/segment.py …
"""

import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from jalm.formats import documents, words
from jalm.stages import segment

DICTIONARY = "unidic-lite"
ROUNDS = 3


def jalm() -> Callable[[str], int]:
    """What the stage does."""
    splitter = segment.Splitter(DICTIONARY)
    return lambda text: sum(map(len, splitter.paragraphs(text)))


def jalm_with_words() -> Callable[[str], int]:
    """What the stage does with `words`."""
    splitter, wakati = segment.Splitter(DICTIONARY), words.wakati(DICTIONARY)

    def cut(text: str) -> int:
        sentences = [sentence for sentences in splitter.paragraphs(text) for sentence in sentences]
        return sum(1 for sentence in sentences if words.lengths(sentence, wakati))

    return cut


def fugashi_loop() -> Callable[[str], int]:
    """The loop of rinna's japanese-pretrained-models: words of a line, put together until one is a 句点."""
    tagger = words.tagger(DICTIONARY)

    def cut(text: str) -> int:
        sentences = []
        for line in text.split("\n"):
            sentence = ""
            for word in tagger(line):
                sentence += word.surface
                if word.surface == "。":
                    sentences.append(sentence)
                    sentence = ""
            if sentence:
                sentences.append(sentence)
        return len(sentences)

    return cut


def konoha() -> Callable[[str], int]:
    """Its SentenceTokenizer, line by line."""
    from konoha import SentenceTokenizer

    tokenize = SentenceTokenizer().tokenize
    return lambda text: sum(len(tokenize(line)) for line in text.split("\n"))


def hasami() -> Callable[[str], int]:
    """Its segment_sentences."""
    from hasami import segment_sentences

    return lambda text: len(segment_sentences(text))


def sentencex() -> Callable[[str], int]:
    """Its segment, line by line."""
    from sentencex import segment

    return lambda text: sum(len(list(segment("ja", line))) for line in text.split("\n"))


def sample(path: Path, size: float) -> list[str]:
    """The first texts of a file, `size` bytes together."""
    texts = []
    for document in documents.read(path):
        texts.append(document["text"])
        size -= len(texts[-1].encode())
        if size <= 0:
            break
    return texts


if __name__ == "__main__":
    texts = sample(Path(sys.argv[1]), float(sys.argv[2] if len(sys.argv) > 2 else 10) * 1e6)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    contenders = {}
    for make in (jalm, jalm_with_words, fugashi_loop, konoha, hasami, sentencex):
        if make in (konoha, hasami, sentencex) and not importlib.util.find_spec(make.__name__):
            print(f"{make.__name__:<16} not installed")
        else:
            contenders[make.__name__] = make()
    seconds = {name: [] for name in contenders}
    counts = {}
    for _ in range(ROUNDS):  # one after another, so that a busy machine slows all of them
        for name, cut in contenders.items():
            begun = time.process_time()
            counts[name] = sum(map(cut, texts))
            seconds[name].append(time.process_time() - begun)
    loop = statistics.median(seconds["fugashi_loop"])
    for name, times in seconds.items():
        took = statistics.median(times)
        speed, spread = megabytes / took, f"{megabytes / max(times):.1f}–{megabytes / min(times):.1f}"
        print(f"{name:<16} {speed:6.1f} MB/s ({spread}), {loop / took:5.2f} x the loop, {counts[name]:,} sentences")
