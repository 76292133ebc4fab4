"""Raw text as a stream of tokens in memory: what `shards` is for text that a model's own tokenizer cuts when it is judged.

A document is what its tokenizer begins a text with, the text, and what it ends one with: `<s> text </s>` for ours, so that the
stream is that of the shards. Text that spells a special token is text.
"""

import bisect
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import orjson
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from jalm import Fault
from jalm.formats import documents, models, tokenizer
from jalm.formats.documents import Document
from jalm.formats.ids import BOS, CLS, EOS, IDS, MASK, PAD, SEP, SPECIAL, UNK

KINDS = (".txt", ".jsonl", ".jsonl.zst")
AT_ONCE = 100  # documents handed to a tokenizer
BYTE = re.compile("<0x[0-9A-F]{2}>")
VOCABULARIES = ("tokenizer.json", "tokenizer_config.json", "vocab.*", "*.model", "*.tiktoken")


class TextError(Fault):
    """Text that no model can be judged on, or a tokenizer that cannot cut it."""


def files_of(path: Path) -> list[Path]:
    """The files of documents that a path stands for: itself, or those of a folder.

    Raises:
        TextError: it has none.
    """
    if not path.exists():
        raise TextError(f"{path} is not there; give {', '.join(KINDS)} files, or folders of such")
    found = sorted(p for p in path.rglob("*") if p.name.endswith(KINDS)) if path.is_dir() else [path]
    if not found or not found[0].name.endswith(KINDS):
        raise TextError(f"{path} {'has' if path.is_dir() else 'is'} no {', '.join(KINDS)} file")
    return found


def read(paths: Iterable[Path]) -> Iterator[Document]:
    """Documents of files and folders: lines of .jsonl and .jsonl.zst, stretches between blank lines of a .txt.

    A .txt of a folder is one document.

    Raises:
        TextError: a path is none of these, or has a line without text.
    """
    for path in paths:
        for file in files_of(path):
            if file.name.endswith(".txt"):
                try:
                    text = file.read_text(encoding="utf-8")
                except UnicodeDecodeError as error:
                    raise TextError(f"{file} is no UTF-8 ({error}); convert it with iconv") from None
                whole = [text] if path.is_dir() else re.split(r"\n(?:[^\S\n]*\n)+", text)
                yield from ({"text": part.strip("\n")} for part in whole if part.strip())
            else:
                yield from _records(file)


def _records(file: Path) -> Iterator[Document]:
    for number, document in enumerate(documents.read(file) if file.suffix == ".zst" else _parsed(file), 1):
        if not isinstance(document, dict) or not _has_text(document):
            raise TextError(
                f"{file}: line {number} has no text; a line is an object with a key text, or paragraphs that are lists of sentences"
            )
        yield document


def _has_text(document: Document) -> bool:
    """Whether the text of a document can be told: `paragraphs`, where there are any, go before `text`."""
    if "paragraphs" not in document:
        return isinstance(document.get("text"), str)
    lines = document["paragraphs"]
    return isinstance(lines, list) and all(
        isinstance(line, list) and all(isinstance(sentence, str) for sentence in line) for line in lines
    )


def _parsed(file: Path) -> Iterator[object]:
    with open(file, "rb") as lines:
        for line in lines:
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError:
                yield None


def cutter(path: Path, architecture: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder, or of a tokenizer.json of ours for an architecture.

    Raises:
        TextError: there is none.
    """
    if path.is_file():
        ours = tokenizer.read_exported(path)
        tokenizer.wrap(ours, architecture)
        begin, end = tokenizer.WRAPPING[architecture]
        names = {"bos_token": BOS, "eos_token": EOS, "unk_token": UNK, "pad_token": PAD, "mask_token": MASK}
        return PreTrainedTokenizerFast(
            tokenizer_object=ours, cls_token=begin if end else CLS, sep_token=end or SEP, **names
        )
    if path.is_dir() and not any(next(path.glob(name), None) for name in VOCABULARIES):
        raise TextError(
            f"{path} has no tokenizer; give --tokenizer (results/train_tokenizer/<tokenizer>/tokenizer.json, or a folder with one)"
        )
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except models.UNLOADABLE as error:
        raise TextError(f"the tokenizer of {path} cannot be loaded: {models.reason(error)}") from None


def ours(made: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer has our special tokens, with our ids."""
    return made.convert_tokens_to_ids(list(SPECIAL)) == list(IDS.values())


def size(text: str) -> tuple[int, int]:
    """Characters and bytes of a text."""
    return len(text), len(text.encode())


class Texts:
    """Documents as a stream of tokens, with what of `shards.Shards` a model is judged by.

    Attributes:
        path: where the text is from, for messages.
        tokens: length of the stream.
        manifest: counts, by the names of a manifest.
        marks: tokens before the text of a document and behind it, 0 or 1 each.
        first: the one before it, if there is one.
        sizes: int64, shape (documents, 2): characters and bytes of the raw text.
        largest: of the tokens.
    """

    def __init__(self, found: Iterable[Document], cut: PreTrainedTokenizerBase, path: Path) -> None:
        """Cut documents into tokens.

        Raises:
            TextError: there is no text.
        """
        self.path = path
        first = cut.eos_token_id if cut.bos_token_id is None else cut.bos_token_id
        begin = [] if first is None else [first]
        end = [] if cut.eos_token_id in (None, first) else [cut.eos_token_id]
        self.marks, self.first = (len(begin), len(end)), cut.convert_ids_to_tokens(first) if begin else None
        found, ids, lengths, sizes, self._sentences = iter(found), [np.empty(0, dtype=np.int32)], [], [], []
        while some := list(islice(found, AT_ONCE)):
            texts = [documents.text(document) for document in some]
            sizes += map(size, texts)
            made = cut(
                texts,
                add_special_tokens=False,
                split_special_tokens=True,
                return_offsets_mapping=cut.is_fast,
                return_attention_mask=False,
                verbose=False,
            )
            for number, document in enumerate(some):
                body = made["input_ids"][number]
                ids.append(np.array([*begin, *body, *end], dtype=np.int32))
                lengths.append(len(ids[-1]))
                if cut.is_fast:
                    self._sentences.append(self._ends(document, made["offset_mapping"][number]))
        self._ids, self._stops = np.concatenate(ids), np.cumsum(lengths, dtype=np.int64)
        self.sizes = np.array(sizes, dtype=np.int64).reshape(-1, 2)
        characters, in_bytes = self.sizes.sum(axis=0).tolist()
        if not characters:
            raise TextError(f"{path} has no text, which leaves nothing to judge a model on")
        self.tokens, self.largest = len(self._ids), int(self._ids.max())
        byte_ids = [number for piece, number in cut.get_vocab().items() if BYTE.fullmatch(piece)]
        unknown = 0 if cut.unk_token_id is None else int(np.count_nonzero(self._ids == cut.unk_token_id))
        self.manifest = {
            "documents": len(self),
            "characters": characters,
            "bytes": in_bytes,
            "tokens": self.tokens,
            "vocab_size": len(cut),
            "byte_fallback": len(byte_ids) == 256,
            "unknown_tokens": unknown,
            "byte_tokens": int(np.isin(self._ids, byte_ids).sum()),
        }

    def _ends(self, document: Document, offsets: list[tuple[int, int]]) -> np.ndarray:
        """Tokens of a document up to the end of each of its sentences; a line of raw text counts as one."""
        lines = document.get("paragraphs") or [[line] if line else [] for line in documents.text(document).split("\n")]
        sizes, leading = [], 0  # characters of sentences, with the line breaks behind them
        for line in lines:
            sizes += map(len, line)
            if sizes:
                sizes[-1] += 1
            else:
                leading += 1
        if not sizes:
            return np.empty(0, dtype=np.int64)
        sizes[0] += leading
        wanted = np.cumsum(sizes)
        ends = np.maximum.accumulate(np.array([0, *(stop for _, stop in offsets)], dtype=np.int64))
        whole = np.searchsorted(ends, wanted, side="right") - 1
        # a piece that reaches across the end of a sentence belongs to it
        counts = np.minimum(whole + (ends[whole] < wanted), len(offsets)) + self.marks[0]
        counts[-1] = len(offsets) + sum(self.marks)
        return counts

    def read(self, start: int, length: int) -> np.ndarray:
        """Tokens from `start` on, int64, shape (length,); a ring, as shards are."""
        return self._ids.take(np.arange(start, start + length), mode="wrap").astype(np.int64)

    def __len__(self) -> int:
        """Number of documents."""
        return len(self._stops)

    def span(self, number: int) -> range:
        """Where the tokens of a document lie in the stream, with its marks."""
        return range(int(self._stops[number - 1]) if number else 0, int(self._stops[number]))

    def document_at(self, position: int) -> int:
        """Number of the document that a token belongs to."""
        return bisect.bisect_right(self._stops, position)

    def sentence_ends(self, number: int) -> np.ndarray:
        """Where each sentence of a document ends in the stream, int64."""
        return self.span(number).start + self._sentences[number]
