"""Documents of an earlier dump, from which those of unchanged articles are taken over.

Beside each file of documents lies a note (`000.jsonl.zst` has `000.made.json`) with the digest of all that made it but
the wikitext, and the file's own. Files without a note that fits, of other code or damaged, are passed over.
"""

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import orjson

from jalm.formats import documents

log = logging.getLogger("jalm")


class _Part(NamedTuple):
    first: int  # smallest and largest id in it
    last: int
    path: Path
    sha256: str


class Earlier:
    """A reader of earlier documents that is asked for them in about the order of their ids.

    Both dumps are read once, side by side: no more than one document is in memory. Where ids do not ascend, some
    documents are not found, which costs time only.
    """

    def __init__(self, folder: Path | None, made_by: str) -> None:
        self.reused = 0
        self._parts = sorted(_parts(folder, made_by)) if folder else []
        self._wanted = -1
        self._documents = self._read()
        self._document: documents.Document | None = {"id": -1}

    def text(self, id: int, sha1: str, title: str) -> str | None:
        """Text of the earlier document of an article, None unless its wikitext and title are the same."""
        self._wanted = id
        while self._document is not None and self._document["id"] < id:
            self._document = next(self._documents, None)
        found = self._document
        if found is None or (found["id"], found["sha1"], found["title"]) != (id, sha1, title):
            return None
        self.reused += 1
        return found["text"]

    def _read(self) -> Iterator[documents.Document]:
        for part in self._parts:
            if part.last < self._wanted:
                continue
            try:
                if _sha256(part.path) == part.sha256:
                    yield from documents.read(part.path)
                else:
                    log.info("%s is not the file that its note is about; nothing is taken over from it", part.path)
            except OSError as error:
                log.info("%s; nothing is taken over from it", error)


def _parts(folder: Path, made_by: str) -> Iterator[_Part]:
    for path in sorted(folder.glob("*.jsonl.zst")):
        try:
            note = orjson.loads(_note(path).read_bytes())
            part = _Part(note["first"], note["last"], path, note["sha256"])
            same = note["made_by"] == made_by
        except (OSError, ValueError, KeyError, TypeError):
            log.info("%s has no note of what made it; nothing is taken over from it", path)
            continue
        if same:
            yield part
        else:
            log.info("%s was made by other code or with other knobs; nothing is taken over from it", path)


def forget(path: Path) -> None:
    """Remove the note about a file that is to be made again."""
    _note(path).unlink(missing_ok=True)


def note(path: Path, made_by: str, ids: list[int]) -> None:
    """Write the note about a finished file of documents with these ids."""
    bounds = {"first": min(ids, default=0), "last": max(ids, default=0)}
    values = {"made_by": made_by, "sha256": _sha256(path)} | bounds
    _note(path).write_bytes(orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE))


def _note(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".jsonl.zst") + ".made.json")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
