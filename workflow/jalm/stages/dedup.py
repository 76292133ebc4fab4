"""Find the documents that repeat others: equal after normalisation, or similar by their MinHash.

A corpus is compared with itself and with what stayed of those before it in the configuration, so that adding a corpus
never changes an earlier one. Of two that are alike the one stays that comes first in this order: an earlier corpus, then test before
valid before train, then the smaller id. So train loses what is near valid or test, and neither the number of parts nor
their order matters. Texts are compared when they share a band of their MinHash; whatever is left after the last band
was compared in each band it shares, so that no two that stay are alike.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jalm import Fault, cli
from jalm.config import Dedup, Deduplication, Split
from jalm.formats import documents, sides

RANKS = {"test": 0, "valid": 1, "train": 2}


class SignatureError(Fault):
    """Signatures that were not made with the knobs of this run."""


class Signatures:
    """Signatures of documents, in the order in which they stay.

    Attributes:
        ids: of the documents.
        own: which belong to the corpus at hand, bool.
        ranks: of their sides, uint8.
        digests: of their texts, 16 bytes.
        minhashes: uint16, shape (documents, num_perm).
    """

    def __init__(self, corpora: list[list[Path]], drops: list[Path], num_perm: int, split: Split) -> None:
        """Read the signatures of some corpora, the one at hand last; of the others, less the ids in their `drops`."""
        keys, digests, minhashes = [], bytearray(), bytearray()
        shares = dict(split)
        for number, paths in enumerate(corpora):
            gone = {entry["id"] for path in drops[number : number + 1] for entry in documents.read(path)}
            for path in cli.progress(paths, unit=" parts", total=len(paths)):
                for entry in documents.read(path):
                    if entry["id"] in gone:
                        continue
                    if len(entry["minhash"]) != 4 * num_perm:
                        raise SignatureError(f"{path} has MinHashes of {len(entry['minhash']) // 4}, not {num_perm}")
                    keys.append((number, RANKS[sides.side(entry, **shares)], entry["id"]))
                    digests += bytes.fromhex(entry["digest"])
                    minhashes += bytes.fromhex(entry["minhash"])
        order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
        self.ids = [keys[i][2] for i in order]
        self.own = np.array([keys[i][0] == len(corpora) - 1 for i in order], dtype=bool)
        self.ranks = np.array([keys[i][1] for i in order], dtype=np.uint8)
        self.digests = np.frombuffer(digests, "<u8").reshape(-1, 2)[order]
        self.minhashes = np.frombuffer(minhashes, "<u2").reshape(-1, num_perm)[order]

    def buckets(self, band: slice | None, among: np.ndarray) -> Iterator[np.ndarray]:
        """Groups of documents, of those at the places `among`, with one band of their MinHashes, or their digests, equal."""
        columns = self.digests if band is None else self.minhashes[:, band]
        keys = np.zeros(len(among), np.uint64)
        for column in columns.T:
            keys = (keys ^ column[among].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
            keys ^= keys >> np.uint64(32)
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]))
        lengths = np.diff(starts, append=len(order))
        for start, length in zip(starts[lengths > 1], lengths[lengths > 1], strict=True):
            yield among[order[start : start + length]]

    def alike(self, one: int, others: np.ndarray, threshold: float | None) -> np.ndarray:
        """Which of some documents are similar to one, or equal if there is no threshold."""
        if threshold is None:
            return (self.digests[others] == self.digests[one]).all(axis=1)
        return (self.minhashes[others] == self.minhashes[one]).mean(axis=1) >= threshold


def bands(config: Dedup) -> list[slice]:
    """Columns of each band."""
    rows = config.num_perm // config.bands
    return [slice(start, start + rows) for start in range(0, config.num_perm, rows)]


def repeats(signatures: Signatures, config: Dedup) -> tuple[np.ndarray, np.ndarray]:
    """For each document: the place of the one that it repeats, -1 if it stays; and whether it is equal to that one."""
    source, equal = np.full(len(signatures.ids), -1), np.zeros(len(signatures.ids), bool)
    passes = [(None, None)] * config.exact + [(band, config.threshold) for band in bands(config) * config.near]
    for band, threshold in passes:
        for bucket in signatures.buckets(band, np.flatnonzero(source < 0)):
            rest = bucket[signatures.own[bucket]]  # what stayed of an earlier corpus stays
            for first in bucket:
                rest = rest[rest > first]
                if not len(rest):
                    break
                if source[first] < 0:
                    alike = signatures.alike(first, rest, threshold)
                    source[rest[alike]], equal[rest[alike]] = first, threshold is None
                    rest = rest[~alike]
    return source, equal


def contamination(signatures: Signatures, stays: np.ndarray, config: Dedup) -> dict[str, int]:
    """Documents of the corpus near one of a side that evaluates what they teach: train near valid or test, valid near test."""
    near = np.zeros(len(signatures.ids), bool)
    for band in bands(config):
        for bucket in signatures.buckets(band, np.flatnonzero(stays)):
            for one in bucket[signatures.ranks[bucket] < RANKS["train"]]:
                later = bucket[(signatures.ranks[bucket] > signatures.ranks[one]) & ~near[bucket]]
                near[later] |= signatures.alike(one, later, config.threshold)
    return {
        side: int(np.count_nonzero(near & signatures.own & (signatures.ranks == RANKS[side])))
        for side in ("train", "valid")
    }


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, Deduplication, "dedup")
    parser.add_argument("--input", type=Path, nargs="+", required=True, metavar="FILE", help="signatures of the corpus")
    parser.add_argument(
        "--earlier", type=Path, nargs="*", default=[], metavar="FILE", help="signatures of earlier corpora"
    )
    parser.add_argument(
        "--earlier-drop", type=Path, nargs="*", default=[], metavar="FILE", help="ids dropped from each of these"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="ids to drop, and what each repeats")
    parser.add_argument("--counts", type=Path, required=True, metavar="FILE", help="what was found (.json)")
    args, config = cli.parse(parser, argv)
    split = Split(**{name: getattr(config, name) for name in Split.model_fields})
    earlier: dict[Path, list[Path]] = {}
    for path in args.earlier:
        earlier.setdefault(path.parent, []).append(path)
    if len(earlier) != len(args.earlier_drop):
        parser.error(f"--earlier has {len(earlier)} folders, --earlier-drop {len(args.earlier_drop)} files")
    signatures = Signatures([*earlier.values(), args.input], args.earlier_drop, config.num_perm, split)
    source, equal = repeats(signatures, config)
    stays = source < 0
    before = contamination(signatures, np.ones_like(stays), config)
    after = contamination(signatures, stays, config)
    reasons: Counter[str] = Counter()
    with cli.writing(args.output, args.counts) as paths:
        with documents.writing(paths[0]) as drop:
            for place in np.flatnonzero(~stays & signatures.own):
                first = source[place]
                held = signatures.ranks[first] < signatures.ranks[place]
                reason = f"{'equal to' if equal[place] else 'near'} {'valid or test' if held else 'another'}"
                reasons[reason] += 1
                drop.write({"id": signatures.ids[place], "repeats": signatures.ids[first], "reason": reason})
        counts = {"contamination": {"before": before, "after": after}}
        paths[1].write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    count = int(np.count_nonzero(signatures.own))
    cli.closing("dedup", f"{count:,} documents", f"{count - drop.count:,} documents", reasons)
