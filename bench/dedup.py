"""Signing documents, ours against rensa and datasketch; and dedup over many synthetic signatures.

usage: bench/dedup.py signing DOCUMENTS.jsonl.zst      (needs: pip install rensa==0.5.0 datasketch==2.0.0 scipy)
       bench/dedup.py memory COUNT
"""

import resource
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from jalm.formats import documents, signatures
from jalm.stages import dedup

NGRAM, NUM_PERM = 5, 128
MEGABYTES = 10  # of text


def grams(text: str) -> list[str]:
    return [text[i : i + NGRAM] for i in range(max(1, len(text) - NGRAM + 1))]


def by_rensa(text: str) -> list[int]:
    from rensa import RMinHash

    made = RMinHash(NUM_PERM, 42)
    made.update(grams(text))
    return made.digest()


def by_datasketch(text: str) -> np.ndarray:
    from datasketch import MinHash

    made = MinHash(NUM_PERM, seed=1)
    made.update_batch([gram.encode() for gram in grams(text)])
    return made.digest()


def ours(text: str) -> np.ndarray:
    return signatures.minhash(text, NGRAM, NUM_PERM)


def signing(path: Path) -> None:
    """Speed on normalised text, and the error of the similarity of each text with itself cut and mended."""
    texts, size = [], 0
    for document in documents.read(path):
        if size > MEGABYTES * 10**6:
            break
        texts.append(documents.text(document))
        size += len(texts[-1].encode())
    start = time.process_time()
    texts = [signatures.normalised(text) for text in texts]
    print(f"normalising: {size / 1e6 / (time.process_time() - start):.1f} MB/s")
    size = sum(len(text.encode()) for text in texts)
    others = [text[: len(text) * 17 // 20] + other[: len(text) // 10] for text, other in pairwise(texts)]
    pairs = [(set(grams(a)), set(grams(b))) for a, b in zip(texts[:500], others, strict=False)]
    true = np.array([len(a & b) / len(a | b) for a, b in pairs])
    for sign in (ours, by_rensa, by_datasketch):
        start = time.process_time()
        signed = [sign(text) for text in texts]
        speed = size / 1e6 / (time.process_time() - start)
        pairs = [(np.array(a), np.array(sign(b))) for a, b in zip(signed[:500], others, strict=False)]
        found = np.array([(a == b).mean() for a, b in pairs])
        error = np.sqrt(((found - true) ** 2).mean())
        print(f"{sign.__name__}: {speed:.1f} MB/s, error {error:.3f} (bias {(found - true).mean():+.4f})")


def memory(count: int) -> None:
    """Time and memory of the dedup stage: an eighth are copies with a tenth of their n-grams changed, 20,000 are stubs of
    one kind with 0.56 in common."""
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        base = rng.integers(0, 2**16, NUM_PERM, np.uint16)
        for part in range(10):
            files.append(f"{folder}/{part}.jsonl.zst")
            made = rng.integers(0, 2**16, (count // 10, NUM_PERM), np.uint16)
            stubs = rng.random((2000, NUM_PERM)) < 0.75
            made[:2000][stubs] = np.broadcast_to(base, stubs.shape)[stubs]
            copies = count // 80
            changed = rng.random((copies, NUM_PERM)) < 0.1
            made[-copies:] = np.where(changed, made[-copies:], made[-2 * copies : -copies])
            with documents.writing(Path(files[-1])) as writer:
                for number, row in enumerate(made, part * count):
                    writer.write({"id": number, "digest": rng.bytes(16).hex(), "minhash": row.tobytes().hex()})
        del made
        start = time.perf_counter()
        dedup.main(["--input", *files, "--output", f"{folder}/drop.jsonl.zst", "--counts", f"{folder}/counts.json"])
        dropped = sum(1 for _ in documents.read(Path(f"{folder}/drop.jsonl.zst")))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        seconds = time.perf_counter() - start
        print(
            f"{count:,} signatures, {count // 80 * 10:,} copies: {dropped:,} dropped in {seconds:.0f} s, peak {peak:.2f} GiB"
        )
        print(Path(f"{folder}/counts.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    if sys.argv[1] == "signing":
        signing(Path(sys.argv[2]))
    else:
        memory(int(sys.argv[2]))
