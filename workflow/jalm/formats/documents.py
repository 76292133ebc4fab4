"""The document format: one JSON object a line, zstandard-compressed (`.jsonl.zst`).

A document has `id`, `title` and either `text` (paragraphs, headings and list items on lines of their own) or, once it is
segmented, `paragraphs` (a list of lists of sentences), perhaps with `words` (in the same shape, for each sentence the
list of its words' lengths in characters, which add up to the sentence's); a document from a wiki also has `revision` and `sha1` (of its
wikitext, base 36), one that came in a train, valid or test folder its `side`. Equal documents give equal bytes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import zstandard

from jalm import Fault

LEVEL = 3  # 36 % of the text's size at 93 MB/s; higher levels cost more than they save
CHUNK = 1 << 20  # bytes read at once

Document = dict[str, Any]


class DocumentError(Fault):
    """A file of documents that is truncated or corrupt."""


def read(path: Path) -> Iterator[Document]:
    """Documents of a file, in order.

    Raises:
        DocumentError: the file ends before its end, fails its checksum, or a line of it is no JSON.
    """
    for number, line in enumerate(lines(path), 1):
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise DocumentError(f"{path}: line {number} is no JSON ({error})") from None


def lines(path: Path, advice: str = "remove it, so that it is made again") -> Iterator[bytes]:
    """Lines of a zstandard-compressed file, without their ends; `advice` is what to do when it is not whole."""
    rest = b""
    with open(path, "rb") as file:
        for chunk in _decompressed(file, path, advice):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
    if rest:
        yield rest


def _decompressed(file: BinaryIO, path: Path, advice: str) -> Iterator[bytes]:
    # zstandard's own readers end silently in the middle of a truncated frame
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    begun = True  # a file of no bytes at all is a truncated one too
    while data := file.read(CHUNK):
        while data:
            try:
                yield decompressor.decompress(data)
            except zstandard.ZstdError as error:
                raise DocumentError(f"{path} is corrupt ({error}); {advice}") from None
            begun = True
            data = decompressor.unused_data
            if decompressor.eof:
                decompressor, begun = zstandard.ZstdDecompressor().decompressobj(), False
    if begun:
        raise DocumentError(f"{path} ends in the middle; {advice}")


class Writer:
    """Writes documents to an open file and counts them."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.count = 0

    def write(self, document: Document) -> None:
        """Append one document."""
        self._stream.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))
        self.count += 1


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """A writer of documents to `path`; the file is whole when the block ends."""
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
    with open(path, "wb") as file, compressor.stream_writer(file) as stream:
        yield Writer(stream)


def text(document: Document) -> str:
    """Text of a document, before or after segmentation."""
    if "paragraphs" in document:
        return "\n".join("".join(sentences) for sentences in document["paragraphs"])
    return document["text"]
