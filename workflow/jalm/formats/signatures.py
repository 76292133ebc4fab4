"""The signature of a document: what tells equal and similar texts without reading them again.

`digest` is that of the normalised text; `minhash` are `num_perm` numbers of 16 bits, of which two texts share about as
many as their sets of character n-grams have in common (Jaccard). Integer arithmetic only, so that every machine makes
the same. In a file of signatures a line also has the document's `id`, and its `side` if it came with one.

Source: one permutation hashing (Li, Owen, Zhang 2012), with a second round for empty bins (Dahlgaard, Knudsen, Thorup
2017, "Fast Similarity Sketching"); 16 bits kept of each value (Li, König 2010).
"""

import hashlib
import unicodedata

import numpy as np

from jalm.formats import documents

EMPTY = np.uint32(2**32 - 1)


def normalised(text: str) -> str:
    """A text without what a reader does not see: width, compatibility forms, white space."""
    lines = text.split("\n")  # most are normal already, which is told faster than made
    normal = (
        line if unicodedata.is_normalized("NFKC", line) else unicodedata.normalize("NFKC", line) for line in lines
    )
    return "".join("".join(line.split()) for line in normal)


def digest(text: str) -> str:
    """Digest of a normalised text, 128 bits in hexadecimal."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def minhash(text: str, ngram: int, num_perm: int) -> np.ndarray:
    """MinHash of a normalised text, uint16 array of shape (num_perm,)."""
    hashes = _mixed(_grams(text, ngram))
    bins = ((hashes >> np.uint64(32)) * np.uint64(num_perm)) >> np.uint64(32)
    least = np.full(num_perm, EMPTY)
    np.minimum.at(least, bins.astype(np.intp), hashes.astype(np.uint32))
    if len(empty := np.flatnonzero(least == EMPTY)):  # these see all n-grams, each in an order of its own
        salts = _mixed(empty.astype(np.uint64) + np.uint64(1))
        least[empty] = _mixed(np.unique(hashes)[:, None] ^ salts).min(axis=0).astype(np.uint32)
    return (least * np.uint32(0x9E3779B1) >> np.uint32(16)).astype(np.uint16)


def entry(document: documents.Document, ngram: int, num_perm: int) -> documents.Document:
    """Line of a file of signatures."""
    text = normalised(documents.text(document))
    own = {"side": document["side"]} if "side" in document else {}
    signed = {"digest": digest(text), "minhash": minhash(text, ngram, num_perm).astype("<u2").tobytes().hex()}
    return {"id": document["id"], **own, **signed}


def _grams(text: str, ngram: int) -> np.ndarray:
    """One number for each n-gram; a text shorter than that is one, with zeros after it."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    codes = np.pad(codes, (0, max(0, ngram - len(codes))))
    count = len(codes) - ngram + 1
    hashes = np.zeros(count, np.uint64)
    for place in range(ngram):
        hashes *= np.uint64(0x100000001B3)
        hashes += codes[place : place + count]
    return hashes


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Numbers of 64 bits, each scattered over all of them (the finaliser of SplitMix64)."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
