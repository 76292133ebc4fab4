import io
import json
import random

import numpy as np
import pytest
import sentencepiece

from jalm.formats import documents, normaliser
from jalm.stages import train_tokenizer_report
from jalm.stages.train_tokenizer_report import NothingToMeasure, measure, pieces, script, table


@pytest.mark.parametrize(
    ("piece", "kind"),
    [
        ("という", "hiragana"),
        ("こーひー", "hiragana"),
        ("コーヒー", "katakana"),
        ("ー", "katakana"),
        ("ﾊﾟﾝ", "katakana"),
        ("東京々", "kanji"),
        ("〇〆", "kanji"),
        ("𠮷", "kanji"),
        ("食べる", "kanji + hiragana"),
        ("か\u3099", "hiragana"),
        ("the", "Latin"),
        ("Ｚé", "Latin"),
        ("▁the", "mixed"),
        ("サ行", "mixed"),
        ("第3回", "mixed"),
        ("2", "digits"),
        ("½²", "digits"),
        ("▁▁", "white space"),
        ("\u3000", "white space"),
        ("。」", "punctuation and symbols"),
        ("・", "punctuation and symbols"),
        ("🍣", "punctuation and symbols"),
        ("\u3099", "punctuation and symbols"),
        ("한국", "other letters"),
        ("Ж", "other letters"),
    ],
)
def test_a_piece_is_counted_with_the_script_it_is_written_in(piece, kind):
    assert script(piece) == kind


@pytest.fixture(scope="module")
def spm():
    """A model with the pieces 東京, 京都, 。 and single characters, trained by SentencePiece alone."""
    draw, model = random.Random(1), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=("".join(draw.choices(["東京", "京都", "猫が", "。"], k=9)) for _ in range(500)),
        model_writer=model,
        vocab_size=3 + 256 + 11,
        hard_vocab_limit=False,
        byte_fallback=True,
        add_dummy_prefix=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def test_figures_are_of_the_raw_text_and_of_its_tokens(spm):
    texts = [{"paragraphs": [["東京。", "㍿"], [], ["龘"]]}, {"paragraphs": [["東京"]]}]
    figures, uses = measure(texts, spm, normaliser.build("nfkc").normalize_str)
    assert spm.encode("東京", out_type=str) == ["東京"]
    tokens = 2 + 4 * 3 + 2 + 3 + 1  # 東京 。, 株式会社 and 龘 in bytes, two line ends, 東京
    assert figures == {
        "documents": 2,
        "sentences": 4,
        "characters": 9,
        "bytes": 3 * 7 + 2,
        "tokens": tokens,
        "unknown": 0,
        "byte_pieces": 15,
        "line_ends": 2,
        "characters_per_token": 9 / tokens,
        "bytes_per_token": 23 / tokens,
    }
    assert uses.sum() == tokens
    assert uses[spm.piece_to_id("東京")] == 2


def test_unknown_characters_of_a_model_without_bytes_are_counted():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["東京京都"] * 9),
        model_writer=model,
        vocab_size=20,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    figures, _ = measure([{"paragraphs": [["東龘京"], ["猫"]]}], processor, str)
    assert figures["unknown"] == 2
    assert (figures["byte_pieces"], figures["line_ends"]) == (0, 0)


def test_a_side_without_text_is_an_error(spm):
    with pytest.raises(NothingToMeasure, match="valid has 1 documents and no text"):
        measure([{"paragraphs": [[]]}], spm, str)


def test_pieces_are_described_by_script_length_score_and_use(spm):
    uses = np.zeros(spm.get_piece_size(), dtype=np.int64)
    uses[spm.piece_to_id("東京")] = 5
    found = pieces(spm, uses)
    normal = [spm.id_to_piece(n) for n in range(3 + 256, spm.get_piece_size())]
    assert (found["special"], found["bytes"]) == (3, 256)
    assert sum(found["scripts"].values()) == len(normal)
    assert found["unused"] == len(normal) - 1
    long = [piece for piece in normal if len(piece) > 1]
    assert {p["piece"] for p in found["longest"]} == {p["piece"] for p in found["rarest"]} == set(long)
    lengths = [len(p["piece"]) for p in found["longest"]]
    assert lengths == sorted(lengths, reverse=True)
    scores = [p["score"] for p in found["rarest"]]
    assert scores == sorted(scores)
    assert [p["uses"] for p in found["rarest"] if p["piece"] == "東京"] == [5]


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """The report of the tiny corpus's tokenizer, and the same for reading."""
    folder = tmp_path_factory.mktemp("report")
    files = {**tiny.tokenizer, "sample": tiny.root / "sample.json", "report": folder / "json", "table": folder / "md"}
    argv = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    valid = map(str, tiny.documents["valid"])
    train_tokenizer_report.main([*argv, "--name", "unigram-2k", "--documents", "wiki", *valid])
    return json.loads((folder / "json").read_text(encoding="utf-8")), (folder / "md").read_text(encoding="utf-8")


def test_the_report_has_the_tokens_that_shard_makes(made, tiny):
    report, _ = made
    shards = json.loads(tiny.shards["valid"].read_text(encoding="utf-8"))
    valid = report["valid"]["wiki"]
    assert valid["documents"] == shards["documents"]
    assert (valid["characters"], valid["bytes"]) == (shards["characters"], shards["bytes"])
    assert valid["tokens"] == shards["tokens"] - 2 * shards["documents"]  # <s> and </s>
    assert valid["line_ends"] == sum(
        documents.text(d).count("\n") for path in tiny.documents["valid"] for d in documents.read(path)
    )
    assert sum(report["pieces"]["scripts"].values()) == 2000 - 7 - 256
    assert report["sample"] == json.loads((tiny.root / "sample.json").read_text(encoding="utf-8"))


def test_the_table_says_the_same_for_reading(made):
    report, text = made
    valid, found = report["valid"]["wiki"], report["pieces"]
    assert text.startswith("# unigram-2k\n")
    assert f"| {valid['tokens']:,} | {valid['characters_per_token']:.3f} | {valid['bytes_per_token']:.3f} |" in text
    assert (
        f"2,000 pieces: 7 special, 256 bytes, and 1,737 of text, of which valid never uses {found['unused']:,}." in text
    )
    assert f"| hiragana | {found['scripts']['hiragana']:,} |" in text


def test_no_piece_breaks_the_table():
    piece = {"piece": "|`*▁", "score": -1.5, "uses": 3}
    found = {"special": 7, "bytes": 0, "scripts": {}, "unused": 0, "longest": [piece], "rarest": []}
    text = table({"tokenizer": "t", "vocab_size": 9, "sample": {"corpora": {}}, "valid": {}, "pieces": found})
    assert "| \\|\\`\\*▁ | -1.50 | 3 |" in text
