import hashlib
import json
import tracemalloc
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


def part(folder, name, *texts: list[list[int]], kind="<u2"):
    """The files of a part: documents as lists of sentences as lists of tokens."""
    ids = [number for text in texts for sentence in text for number in sentence]
    np.array(ids, dtype=kind).tofile(folder / f"{name}.bin")
    lengths = [(sum(map(len, text)), len(text)) for text in texts]
    np.array(lengths, dtype="<u4").tofile(folder / f"{name}.index")
    np.array([len(sentence) for text in texts for sentence in text], dtype="<u4").tofile(folder / f"{name}.sentences")
    (folder / f"{name}.words").write_bytes(b"")
    return folder / f"{name}.bin"


def describe(tiny, folder, files, **counts):
    """Run the stage with the same files and sizes for each side; the manifest of train."""
    text = {"characters": 9, "bytes": 27, **counts}
    (folder / "summary.json").write_text(json.dumps(dict.fromkeys(SIDES, text)), encoding="utf-8")
    manifests = {f"{side}_manifest": folder / side / "manifest.json" for side in SIDES}
    options = manifests | {"summary": folder / "summary.json", "model": tiny.tokenizer["model"]}
    shard_manifest.main(Tiny.arguments(NoKnobs(), **dict.fromkeys(SIDES, files), **options))
    return folder / "train" / "manifest.json"


@pytest.mark.parametrize("side", SIDES)
def test_the_index_holds_where_each_document_ends_in_tokens_and_sentences(tiny, spm, side):
    lengths = [len(ids) + 2 for ids in ids_of(tiny, spm, side)]
    found = [document for path in tiny.documents[side] for document in documents.read(path)]
    sentences = [sum(map(len, document["paragraphs"])) for document in found]
    index = np.load(tiny.shards[side].parent / "index.npy")
    assert index.dtype == np.int64
    assert index.tolist() == list(map(list, zip(np.cumsum(lengths), np.cumsum(sentences), strict=True)))
    lengths = np.load(tiny.shards[side].parent / "sentences.npy")
    assert lengths.dtype == np.dtype("<u4")
    assert lengths.sum() == index[-1, 0]


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
        assert {key: manifest[key] for key in ("documents", "sentences", "characters", "bytes")} == summary[side]


def test_the_manifest_has_the_digests_of_shards_and_tokenizer(tiny):
    manifest = json.loads(tiny.shards["test"].read_text(encoding="utf-8"))
    assert manifest["tokenizer"] == hashlib.sha256(tiny.tokenizer["model"].read_bytes()).hexdigest()
    for entry in manifest["files"]:
        content = (tiny.shards["test"].parent / entry["name"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["tokens"] == len(content) / 2


def test_the_manifest_has_the_digests_of_both_indexes(tiny):
    manifest = json.loads(tiny.shards["test"].read_text(encoding="utf-8"))
    digests = {entry["name"]: entry["sha256"] for entry in manifest["indexes"]}
    assert set(digests) == {"index.npy", "sentences.npy"}
    for name, found in digests.items():
        assert found == hashlib.sha256((tiny.shards["test"].parent / name).read_bytes()).hexdigest()


@pytest.mark.parametrize(("name", "count"), [("documents", 3), ("sentences", 4)])
def test_what_split_counted_and_the_shards_have_not_is_noticed(tiny, tmp_path, name, count):
    path = part(tmp_path, "000", [[2, 300], [301, 3]], [[2, 3]])
    counts = {"documents": 2, "sentences": 3} | {name: count}
    with pytest.raises(ShardError, match=f"train shards have {count - 1} {name}, split counted {count} .*summary.json"):
        describe(tiny, tmp_path, [path], **counts)
    assert not list((tmp_path / "train").glob("*.npy")) + list((tmp_path / "train").glob("*.json"))


@pytest.mark.parametrize(
    ("kind", "numbers", "message"),
    [
        ("bin", [2, 300, 3, 3, 2, 301], r"index\.npy does not say where the documents of 000\.bin end"),
        ("bin", [2, 300, 301, 3, 2, 3, 2, 3], r"index\.npy does not say"),
        ("bin", [2, 300, 301, 3, 2, 2000], r"has a token 2000, its tokenizer 2,000 pieces"),
        ("index", [4, 2], r"index\.npy does not say"),
        ("index", [4, 2, 2, 1, 2, 1], r"index\.npy has 3 documents, the tokens have 2"),
        ("index", [4, 1, 2, 2], r"sentences\.npy do not make up the documents of index\.npy"),
        ("sentences", [3, 1, 3], r"sentences\.npy do not make up"),
        ("sentences", [2, 2, 2, 1], r"sentences\.npy has 4 sentences, index\.npy 3"),
    ],
)
def test_files_of_a_part_that_do_not_fit_together_are_refused(tiny, tmp_path, kind, numbers, message):
    path = part(tmp_path, "000", [[2, 300], [301, 3]], [[2, 3]])
    np.array(numbers, dtype="<u2" if kind == "bin" else "<u4").tofile(path.with_suffix(f".{kind}"))
    with pytest.raises(ShardError, match=message):
        describe(tiny, tmp_path, [path], documents=2, sentences=3)


def test_words_of_all_parts_are_recorded_with_their_digests(tiny, tmp_path):
    files = [part(tmp_path, "0", [[2, 300], [301, 3]]), part(tmp_path, "1"), part(tmp_path, "2", [[2, 3]])]
    (tmp_path / "0.words").write_bytes(bytes([0b1011]))
    (tmp_path / "2.words").write_bytes(bytes([0b11]))
    record = json.loads(describe(tiny, tmp_path, files, documents=2, sentences=3).read_text())
    assert record["word_starts"] is True
    digests = {entry["name"]: entry["sha256"] for entry in record["indexes"]}
    assert digests["0.words"] == hashlib.sha256(b"\x0b").hexdigest()
    assert digests.keys() == {"index.npy", "sentences.npy", "0.words", "2.words"}


def test_no_words_are_recorded_where_documents_carried_none(tiny):
    record = json.loads(tiny.shards["test"].read_text(encoding="utf-8"))
    assert record["word_starts"] is False
    assert len(record["indexes"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [b"\x0b", b""],
            r"2\.words has 0 bytes, where words of all parts are known 1, else none; remove it and 2\.bin",
        ),
        ([b"\x0b\0", b"\3"], r"0\.words has 2 bytes"),
        ([b"\x0b", b"\1"], r"2\.words has special tokens of 2\.bin inside words"),
    ],
)
def test_words_of_some_parts_only_or_of_other_tokens_are_refused(tiny, tmp_path, words, message):
    files = [part(tmp_path, "0", [[2, 300], [301, 3]]), part(tmp_path, "2", [[2, 3]])]
    for path, content in zip(files, words, strict=True):
        path.with_suffix(".words").write_bytes(content)
    with pytest.raises(ShardError, match=message):
        describe(tiny, tmp_path, files, documents=2, sentences=3)


def test_parts_without_documents_and_documents_without_sentences_are_no_hindrance(tiny, tmp_path):
    files = [part(tmp_path, "0", [[2, 300], [301, 3]]), part(tmp_path, "1"), part(tmp_path, "2", [[2, 3]])]
    np.array([[2, 0]], dtype="<u4").tofile(tmp_path / "2.index")
    np.array([], dtype="<u4").tofile(tmp_path / "2.sentences")
    for path in files:  # shards lie beside their manifest
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / "train" / path.name).symlink_to(path)
    opened = Shards(describe(tiny, tmp_path, files, documents=2, sentences=2))
    assert opened.read(0, 6).tolist() == [2, 300, 301, 3, 2, 3]
    assert [opened.document(number).tolist() for number in range(len(opened))] == [[2, 300, 301, 3], [2, 3]]
    assert [sentence.tolist() for sentence in opened.sentences(0)] == [[2, 300], [301, 3]]
    assert opened.sentences(1) == []


def test_no_part_is_ever_in_memory(tiny, tmp_path):
    document = [[2, *[300] * 99], [*[301] * 99, 3]]
    path = part(tmp_path, "000", *[document] * 40_000)
    assert path.stat().st_size == 16_000_000
    tracemalloc.start()
    describe(tiny, tmp_path, [path], documents=40_000, sentences=80_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16_000_000
