import hashlib
import json
import unicodedata

import numpy as np
import pytest
import sentencepiece
from tiny import Tiny

from jalm.config import SIDES, NoKnobs
from jalm.formats import documents
from jalm.formats.shards import ShardError, Shards
from jalm.stages import shard_manifest


@pytest.fixture
def spm(tiny):
    return sentencepiece.SentencePieceProcessor(model_file=str(tiny.tokenizer["model"]))


def ids_of(tiny, spm, side: str) -> list[list[int]]:
    """Ids of each document of a side, by SentencePiece."""
    texts = [documents.text(document) for path in tiny.documents[side] for document in documents.read(path)]
    return [spm.encode(unicodedata.normalize("NFKC", text.replace("～", "〜"))) for text in texts]


def describe(tiny, folder, files, counts):
    """Run the stage with the same files and number of documents for each side; the manifest of train."""
    (folder / "summary.json").write_text(json.dumps(dict.fromkeys(SIDES, counts)), encoding="utf-8")
    options = dict.fromkeys(SIDES, files)
    options |= {f"{side}_{kind}": folder / f"{side}.{kind}" for side in SIDES for kind in ("index", "manifest")}
    options |= {"summary": folder / "summary.json", "model": tiny.tokenizer["model"]}
    shard_manifest.main(Tiny.arguments(NoKnobs(), **options))
    return folder / "train.manifest"


@pytest.mark.parametrize("side", SIDES)
def test_the_index_holds_where_each_document_ends_in_the_whole_stream(tiny, spm, side):
    lengths = [len(ids) + 2 for ids in ids_of(tiny, spm, side)]
    index = np.load(tiny.shards[side].parent / "index.npy")
    assert index.dtype == np.int64
    assert index.tolist() == np.cumsum(lengths).tolist()


@pytest.mark.parametrize("side", SIDES)
def test_the_manifest_counts_tokens_and_byte_pieces(tiny, spm, side):
    manifest = json.loads(tiny.shards[side].read_text(encoding="utf-8"))
    ids = ids_of(tiny, spm, side)
    assert manifest["tokens"] == sum(len(document) + 2 for document in ids)
    assert manifest["byte_tokens"] == sum(spm.is_byte(number) for document in ids for number in document) > 0
    assert manifest["unknown_tokens"] == 0
    assert (manifest["vocab_size"], manifest["dtype"]) == (2000, "<u2")


def test_the_manifest_carries_the_sizes_of_the_raw_text(tiny):
    summary = json.loads((tiny.root / "summary.json").read_text(encoding="utf-8"))
    for side in SIDES:
        manifest = json.loads(tiny.shards[side].read_text(encoding="utf-8"))
        assert {key: manifest[key] for key in ("documents", "characters", "bytes")} == summary[side]


def test_the_manifest_has_the_digests_of_shards_and_tokenizer(tiny):
    manifest = json.loads(tiny.shards["test"].read_text(encoding="utf-8"))
    assert manifest["tokenizer"] == hashlib.sha256(tiny.tokenizer["model"].read_bytes()).hexdigest()
    for entry in manifest["files"]:
        content = (tiny.shards["test"].parent / entry["name"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["tokens"] == len(content) / 2


def test_a_lost_document_is_noticed(tiny, tmp_path):
    np.array([2, 300, 3, 2, 3], dtype="<u2").tofile(tmp_path / "000.bin")
    with pytest.raises(ShardError, match="train shards have 2 documents, split counted 3"):
        describe(tiny, tmp_path, [tmp_path / "000.bin"], {"documents": 3, "characters": 9, "bytes": 9})
    assert not (tmp_path / "train.manifest").exists()


def test_a_part_without_documents_is_no_hindrance(tiny, tmp_path):
    for number, ids in enumerate(([2, 300, 3], [], [2, 3])):
        np.array(ids, dtype="<u2").tofile(tmp_path / f"{number}.bin")
    files = [tmp_path / f"{number}.bin" for number in range(3)]
    manifest = describe(tiny, tmp_path, files, {"documents": 2, "characters": 1, "bytes": 3})
    assert np.load(tmp_path / "train.index").tolist() == [3, 5]
    assert Shards(manifest).read(0, 5).tolist() == [2, 300, 3, 2, 3]
