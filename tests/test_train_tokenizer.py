import json
import random
import unicodedata

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tiny import DIFFICULT, Tiny

from jalm.config import ConfigError, TrainTokenizer
from jalm.formats import documents, normaliser, tokenizer
from jalm.stages import train_tokenizer
from jalm.stages.train_tokenizer import VocabularyError, last_rank, rank, sample, sentences, train

CHARACTERS = "いうかきくけこさしすたちてとなにのはまもらりるれをん京都山川日本人年大ーアトスｶﾞﾊﾟＡＢ"


def written(count: int) -> list[str]:
    """Sentences of made-up words, the first words of the language more often than the last; the same each time."""
    draw = random.Random(1)
    words = ["".join(draw.choices(CHARACTERS, k=draw.randint(1, 4))) for _ in range(200)]
    words[10:20] = ["猫", "𠮷野家", "1,234円", "港町～坂の上", "娘。", "「え？」", "[CLS]", "👨‍👩‍👧", "㌖", "　"]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    return ["".join(draw.choices(words, weights, k=draw.randint(3, 20))) + "。" for _ in range(count)]


LINES = written(600)

# for each RECIPE, the pieces of more than one character that it gave, and the scores of the first of them
RECORDED = {
    1: (
        "んア 大りはす うトも大 人た゚ 人れ ?」 👨‍👩‍👧 ううを ゚をに日 𠮷野家 をス 坂の上 ゚ハまハ りのにを んアんア こ人さ本 "
        "キロメートル とさち らてを らうた ちち れん 川川 ましく ちんア 年まち 本んア んアち 大りはすんア",
        [-3.301, -4.027, -4.309, -4.313, -4.385, -4.662, -4.684, -4.740],
    )
}


def config(**knobs) -> TrainTokenizer:
    return TrainTokenizer(**{"vocab_size": 420, "character_coverage": 0.9995, "num_threads": 1} | knobs)


def write(path, lines, size=10):
    """Documents of `size` sentences each."""
    with documents.writing(path) as writer:
        for start in range(0, len(lines), size):
            writer.write({"id": start, "title": "", "paragraphs": [lines[start : start + size]]})
    return path


def pieces_of(model: bytes) -> list[tuple[str, float]]:
    return [(piece.piece, piece.score) for piece in sentencepiece_model_pb2.ModelProto.FromString(model).pieces]


# ---- the sample


def test_documents_are_drawn_until_the_limit_is_reached():
    sizes = [(50, 10), (10, 40), (30, 30), (20, 20)]  # in order of rank: 40, 20, 30, 10 bytes
    assert last_rank(sizes, 1000) == 50
    assert last_rank(sizes, 100) == 50
    assert last_rank(sizes, 99) == 30
    assert last_rank(sizes, 89) == 20
    assert last_rank(sizes, 60) == 20
    assert last_rank(sizes, 59) == 10


def test_at_least_one_document_is_drawn():
    assert last_rank([(7, 100), (9, 1)], 5) == 7


def test_the_sample_does_not_depend_on_the_order_of_the_files(tiny):
    parts = tiny.documents["train"]
    there = [document["id"] for document in sample(parts, config(sample_mb=0.05))]
    back = [document["id"] for document in sample(parts[::-1], config(sample_mb=0.05))]
    everything = [document["id"] for path in parts for document in documents.read(path)]
    assert set(there) == set(back) < set(everything)
    assert len(there) > 5


def test_the_sample_fills_its_megabytes_and_no_more(tiny):
    taken = sum(len(documents.text(d).encode()) for d in sample(tiny.documents["train"], config(sample_mb=0.05)))
    longest = max(len(documents.text(d).encode()) for path in tiny.documents["train"] for d in documents.read(path))
    assert 50_000 - longest < taken <= 50_000


def test_another_seed_draws_other_documents(tiny):
    drawn = [
        {document["id"] for document in sample(tiny.documents["train"], config(sample_mb=0.05, seed=seed))}
        for seed in ("1", "2")
    ]
    assert drawn[0] - drawn[1]
    assert drawn[1] - drawn[0]


def test_a_document_keeps_its_rank_when_others_come():
    ranks = {number: rank(number, "jalm") for number in range(1000)}
    assert len(set(ranks.values())) == 1000
    assert max(ranks.values()) < 2**64
    assert rank("12", "jalm") == ranks[12] != rank(12, "other")


# ---- what SentencePiece is given


@pytest.mark.parametrize("text", ["㌖" * 20_000, "🍣" * 40_000, "あ" * 16_384, "短い。"], ids=lambda text: text[0])
def test_no_line_is_long_enough_to_be_dropped_by_sentencepiece(text):
    lines = list(sentences({"paragraphs": [[text]]}, normaliser.build("nfkc").normalize_str))
    assert max(len(line.encode()) for line in lines) <= 65_536
    assert "".join(lines) == text.replace("㌖", "キロメートル")


def test_a_sentence_with_the_block_that_sentencepiece_reserves_is_kept():
    document = {"paragraphs": [["▁▂▃▄▅▆▇█と並ぶ。", "次の文。"]]}
    assert list(sentences(document, lambda text: text)) == ["▁▂▃▄▆▇█と並ぶ。", "次の文。"]


def test_a_paragraph_without_sentences_gives_no_line():
    assert list(sentences({"paragraphs": [[], ["「」"], []]}, str)) == ["「」"]


# ---- training


def test_too_many_pieces_are_refused_with_the_number_that_would_do():
    with pytest.raises(VocabularyError, match=r"vocab_size 30000 is too large .* (\d+) pieces at most") as error:
        train(iter(LINES), config(vocab_size=30000))
    most = int(str(error.value).split(" pieces at most")[0].split()[-1])
    assert 420 < most < 30000
    assert len(pieces_of(train(iter(LINES), config(vocab_size=most)))) == most
    with pytest.raises(VocabularyError):
        train(iter(LINES), config(vocab_size=most + 1))


def test_too_few_pieces_are_refused_with_the_number_that_would_do():
    with pytest.raises(VocabularyError, match=r"vocab_size 310 has no room for the (\d+) characters") as error:
        train(iter(LINES), config(vocab_size=310))
    needed = int(str(error.value).split(" characters")[0].split()[-1])
    characters = set("".join(LINES).replace(" ", "▁")) | set(tokenizer.SPELLING)
    assert needed == 7 + 256 + len(characters)
    with pytest.raises(VocabularyError):
        train(iter(LINES), config(vocab_size=needed - 1))


def test_a_coverage_that_sentencepiece_refuses_is_refused_before():
    with pytest.raises(ConfigError, match="--character-coverage"):
        train_tokenizer.main(["--character-coverage=0.97", "--input=a", "--model=b", "--tokenizer=c", "--report=d"])
    assert train(iter(LINES), config(character_coverage=0.98))


@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_text_gives_the_same_pieces_and_scores_twice(threads):
    first, second = (pieces_of(train(iter(LINES * 5), config(num_threads=threads))) for _ in range(2))
    assert first == second
    assert len(first) == 420


def test_special_tokens_and_bytes_come_first_and_sentencepiece_changes_no_text():
    model = train(iter(LINES), config())
    spm = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert tuple(spm.id_to_piece(list(range(7)))) == tokenizer.SPECIAL
    for text in DIFFICULT:
        assert spm.decode(spm.encode(text)) == text
    assert spm.encode("東京", out_type=str)[0] != "▁"


def test_digits_have_pieces_of_their_own_only():
    model = train(iter([f"{line}{1900 + number % 30}年" for number, line in enumerate(LINES)]), config())
    assert {piece for piece, _ in pieces_of(model)[7 + 256 :] if set(piece) & set("0123456789")} == set("0123456789")
    spm = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert spm.encode("1940年", out_type=str)[:4] == ["1", "9", "4", "0"]


def test_runs_of_spaces_can_be_one_piece():
    lines = [f"{' ' * (number % 3 * 4)}{line}" for number, line in enumerate(LINES)]
    spm = sentencepiece.SentencePieceProcessor(model_proto=train(iter(lines), config()))
    assert len(spm.encode("        猫")) < 9


def test_a_character_below_the_coverage_becomes_bytes_and_comes_back():
    lines = [*LINES * 5, "龘"]
    spm = sentencepiece.SentencePieceProcessor(model_proto=train(iter(lines), config()))
    assert spm.encode("龘", out_type=str) == ["<0xE9>", "<0xBE>", "<0x98>"]
    assert spm.decode(spm.encode("龘の寺")) == "龘の寺"


def test_every_character_that_special_tokens_are_spelt_with_has_a_piece():
    spm = sentencepiece.SentencePieceProcessor(model_proto=train(iter(LINES), config()))
    for piece in (*tokenizer.SPECIAL, "<0x0123456789ABCDEF>"):
        assert not any(spm.is_byte(number) or number < 7 for number in spm.encode(piece)), piece


# ---- the stage


def test_the_report_counts_what_was_trained_on(tmp_path):
    paths = [write(tmp_path / "0.jsonl.zst", LINES[:100]), write(tmp_path / "1.jsonl.zst", LINES[100:])]
    made = {"model": tmp_path / "m", "tokenizer": tmp_path / "t", "report": tmp_path / "r"}
    train_tokenizer.main(Tiny.arguments(config(), input=paths, **made))
    normalised = unicodedata.normalize("NFKC", "".join(LINES).replace("～", "〜"))
    report = json.loads(made["report"].read_text(encoding="utf-8"))
    assert report == {"documents": 60, "sentences": 600, "characters": len(normalised), "pieces": 420}


def test_a_failed_training_leaves_no_file(tmp_path):
    path = write(tmp_path / "0.jsonl.zst", LINES)
    made = {name: tmp_path / "made" / name for name in ("model", "tokenizer", "report")}
    with pytest.raises(VocabularyError):
        train_tokenizer.main(Tiny.arguments(config(vocab_size=30000), input=[path], **made))
    assert not (tmp_path / "made").exists()


def test_what_comes_out_is_what_was_recorded_for_this_recipe(tmp_path):
    """Where the pieces are meant to change, raise RECIPE and record what it gives."""
    path = write(tmp_path / "0.jsonl.zst", LINES)
    made = {"model": tmp_path / "m", "tokenizer": tmp_path / "t", "report": tmp_path / "r"}
    knobs = {"normalization": "nfkc", "split_digits": True, "seed": "jalm", "sample_mb": 0.03}
    train_tokenizer.main(Tiny.arguments(config(vocab_size=400, **knobs), input=[path], **made))
    longer = [(piece, score) for piece, score in pieces_of(made["model"].read_bytes())[7 + 256 :] if len(piece) > 1]
    pieces, scores = RECORDED[train_tokenizer.RECIPE]
    assert {piece for piece, _ in longer} == set(pieces.split())
    assert [score for _, score in longer[: len(scores)]] == pytest.approx(scores, abs=0.005)
