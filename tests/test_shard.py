import unicodedata

import numpy as np
import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tiny import DIFFICULT, Tiny

from jalm.config import SIDES, NoKnobs
from jalm.formats import documents
from jalm.stages import shard


@pytest.fixture
def spm(tiny):
    return sentencepiece.SentencePieceProcessor(model_file=str(tiny.tokenizer["model"]))


def written(path, paragraphs: list[list[list[str]]]):
    """A file of documents with these paragraphs."""
    with documents.writing(path) as writer:
        for number, lines in enumerate(paragraphs):
            writer.write({"id": number, "title": "", "paragraphs": lines})
    return path


def run(folder, path, tokenizer, cpus=1):
    """Tokens of the train side when `path` is every side."""
    options = dict.fromkeys(SIDES, path) | {f"{side}_tokens": folder / f"{side}.bin" for side in SIDES}
    shard.main(Tiny.arguments(NoKnobs(), cpus=cpus, **options, **tokenizer))
    return folder / "train.bin"


def split_at_ends(ids: list[int]) -> list[list[int]]:
    """Tokens of each document, with its <s> and </s>."""
    ends = [place + 1 for place, number in enumerate(ids) if number == 3]
    assert not ids or ends[-1] == len(ids)
    return [ids[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def test_documents_stand_between_their_marks_and_decode_to_the_normalised_text(tiny, spm, tmp_path):
    texts = [*DIFFICULT, "\n".join(DIFFICULT), "一行目。\n\n三行目。二文目"]
    paragraphs = [[[line] if line else [] for line in text.split("\n")] for text in texts]
    ids = np.fromfile(run(tmp_path, written(tmp_path / "d", paragraphs), tiny.tokenizer), dtype="<u2").tolist()
    made = split_at_ends(ids)
    assert len(made) == len(texts)
    for text, (first, *body, last) in zip(texts, made, strict=True):
        assert (first, last) == (2, 3)
        assert spm.decode(body) == unicodedata.normalize("NFKC", text.replace("～", "〜"))


def test_text_that_spells_a_special_token_stays_text(tiny, tmp_path):
    text = "本文に<s>、</s>、[MASK]、<pad>、<unk>、[CLS]、[SEP]と書く。"
    ids = np.fromfile(run(tmp_path, written(tmp_path / "d", [[[text]]]), tiny.tokenizer), dtype="<u2")
    assert (ids[1:-1] >= 7).all()


def test_a_document_without_text_is_its_two_marks(tiny, tmp_path):
    path = run(tmp_path, written(tmp_path / "d", [[[]], [["猫"]], [[]]]), tiny.tokenizer)
    ids = np.fromfile(path, dtype="<u2").tolist()
    assert ids[:3] == [2, 3, 2]
    assert ids[-2:] == [2, 3]


def test_a_part_without_documents_is_an_empty_shard(tiny, tmp_path):
    assert run(tmp_path, written(tmp_path / "d", []), tiny.tokenizer).read_bytes() == b""


def test_the_number_of_threads_changes_nothing(tiny, tmp_path):
    made = []
    for cpus in (1, 3):
        (tmp_path / str(cpus)).mkdir()
        path = run(tmp_path / str(cpus), tiny.documents["test"][0], tiny.tokenizer, cpus)
        made.append(path.read_bytes())
    assert made[0] == made[1] != b""


def test_each_side_goes_to_its_own_file(tiny):
    sizes = {side: sum(1 for _ in documents.read(tiny.documents[side][0])) for side in SIDES}
    for side, manifest in tiny.shards.items():
        ids = np.fromfile(manifest.parent / "000.bin", dtype="<u2").tolist()
        assert len(split_at_ends(ids)) == sizes[side]


def test_more_than_65536_pieces_take_four_bytes_each(tiny, tmp_path):
    proto = sentencepiece_model_pb2.ModelProto.FromString(tiny.tokenizer["model"].read_bytes())
    while len(proto.pieces) < 65_536:
        proto.pieces.add(piece=f"長い名{len(proto.pieces)}", score=-20, type=1)
    proto.pieces.add(piece="寿限無", score=0, type=1)
    large = tmp_path / "large.model"
    large.write_bytes(proto.SerializeToString())
    path = written(tmp_path / "d", [[["寿限無"]]])
    assert run(tmp_path, path, {**tiny.tokenizer, "model": large}).read_bytes() == (b"\x02\0\0\0\0\0\x01\0\x03\0\0\0")
