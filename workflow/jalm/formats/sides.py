"""The side of a document: train, valid or test.

It depends on the document's id and the salt only, so that the next dump keeps every article it shares with this one on
the same side. A document that came with a side of its own (`side`, from a folder cut by others) keeps it.
"""

import hashlib
from typing import Any

from jalm import Fault
from jalm.formats.documents import Document


class UnknownSide(Fault):
    """A document whose own side is none of ours."""


def drawn(document_id: int | str, *, valid_fraction: float, test_fraction: float, salt: str) -> str:
    """Side that the hash of an id falls on."""
    digest = hashlib.blake2b(f"{salt}:{document_id}".encode(), digest_size=8).digest()
    u = int.from_bytes(digest, "big") / 2**64
    if u < valid_fraction:
        return "valid"
    if u < valid_fraction + test_fraction:
        return "test"
    return "train"


def side(document: Document, **shares: Any) -> str:
    """Side of a document: its own if it has one, else the one drawn with `shares`.

    Raises:
        UnknownSide: its own is none of train, valid and test.
    """
    own = document.get("side")
    if own is None:
        return drawn(document["id"], **shares)
    if own not in ("train", "valid", "test"):
        raise UnknownSide(f"document {document['id']!r} has the side {own!r}, which is not train, valid or test")
    return own
