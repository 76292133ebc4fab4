import json
import re

import numpy as np
import pytest
from tiny import others
from transformers import PreTrainedTokenizerFast

from jalm.formats import documents, texts
from jalm.formats.shards import Shards

LINES = ["「え？」と彼は言った。", "<s>と</s>を書いた人がいる。", "ﾊﾝｶｸ 1,234円👨‍👩‍👧‍👦", ""]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A tokenizer whose only special token, with the id 0, stands between texts, as GPT-2's does."""
    return texts.cutter(others(tmp_path_factory.mktemp("gpt2"), False, LINES), "gpt2")


def test_documents_come_from_files_and_folders(tmp_path):
    (tmp_path / "a.txt").write_text("一つ目。\n続き。\n \n\n二つ目。\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(
        json.dumps({"text": "三つ目"}) + "\n" + json.dumps({"text": ""}), encoding="utf-8"
    )
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "d.txt").write_text("四つ目。\n\n同じ文書。", encoding="utf-8")
    (tmp_path / "c" / "画像.png").write_bytes(b"\x89")
    with documents.writing(tmp_path / "c" / "e.jsonl.zst") as writer:
        writer.write({"id": 5, "paragraphs": [["五つ目。", "文。"], [], ["段落。"]]})
    found = texts.read([tmp_path / "a.txt", tmp_path / "b.jsonl", tmp_path / "c"])
    assert [documents.text(document) for document in found] == [
        "一つ目。\n続き。",
        "二つ目。",
        "三つ目",
        "",
        "四つ目。\n\n同じ文書。",
        "五つ目。文。\n\n段落。",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pdf", b"%PDF", "is no .txt, .jsonl, .jsonl.zst file"),
        ("a.txt", "シフトジス".encode("shift_jis"), "is no UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "line 2 has no text"),
        ("a.jsonl", b'{"text": "a"}\nb\n', "line 2 has no text"),
        ("a.jsonl", b"[1]\n", "line 1 has no text"),
        ("a.jsonl", b'{"paragraphs": "abc"}\n', "line 1 has no text"),
        ("a.jsonl", b'{"text": "a", "paragraphs": null}\n', "line 1 has no text"),
        ("a.jsonl", b'{"paragraphs": [["a"], "b"]}\n', "line 1 has no text"),
        ("a.jsonl", b'{"paragraphs": [["a", 1]]}\n', "line 1 has no text"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(texts.TextError, match=message):
        list(texts.read([tmp_path / name]))


def test_a_path_that_is_not_there_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(texts.TextError, match=r"文章\.txt is not there"):
        list(texts.read([tmp_path / "文章.txt"]))
    with pytest.raises(texts.TextError, match=r"has no \.txt"):
        list(texts.read([tmp_path]))


@pytest.mark.parametrize("architecture", ["gpt2", "roberta", "bert"])
def test_our_tokenizer_makes_the_stream_of_the_shards(tiny, architecture):
    shards = Shards(tiny.shards["test"])
    cut = texts.cutter(tiny.tokenizer["tokenizer"], architecture)
    assert texts.ours(cut)
    made = texts.Texts(texts.read(tiny.documents["test"]), cut, tiny.documents["test"][0])
    assert (made.tokens, len(made), made.marks, made.first) == (shards.tokens, len(shards), (1, 1), "<s>")
    assert (made.read(0, made.tokens) == shards.read(0, shards.tokens)).all()
    assert [made.span(n) for n in range(len(made))] == [shards.span(n) for n in range(len(shards))]
    for number in range(len(made)):
        assert made.sentence_ends(number).tolist() == shards.sentence_ends(number).tolist()
    counts = (
        "documents",
        "characters",
        "bytes",
        "tokens",
        "vocab_size",
        "byte_fallback",
        "unknown_tokens",
        "byte_tokens",
    )
    assert {name: made.manifest[name] for name in counts} == {name: shards.manifest[name] for name in counts}
    for place in (0, 5, shards.tokens - 1):
        assert made.document_at(place) == shards.document_at(place)
    ring = (made.tokens - 3, 7)
    assert (made.read(*ring) == shards.read(*ring)).all()


def test_each_line_of_raw_text_counts_as_a_sentence(tiny):
    cut = texts.cutter(tiny.tokenizer["tokenizer"], "bert")
    made = texts.Texts([{"text": "\n一行目。二文。\n\n三行目"}], cut, "text")
    ids = made.read(0, made.tokens)
    first, second = made.sentence_ends(0).tolist()
    assert cut.decode(ids[1:first]) == "\n一行目。二文。\n\n"
    assert (cut.decode(ids[first : second - 1]), second) == ("三行目", made.tokens)


def test_other_tokenizers_put_what_they_have_before_a_text(foreign):
    made = texts.Texts([{"text": line} for line in LINES], foreign, "text")
    assert (made.marks, made.first) == ((1, 0), "<|end|>")
    for number, line in enumerate(LINES):
        span = made.span(number)
        ids = made.read(span.start, len(span))
        assert ids[0] == 0
        assert foreign.decode(ids[1:]) == line
    assert made.sizes.tolist() == [[len(line), len(line.encode())] for line in LINES]
    assert (made.manifest["byte_fallback"], made.manifest["unknown_tokens"]) == (False, 0)
    assert not texts.ours(foreign)


def test_a_tokenizer_without_marks_puts_nothing_before_a_text(foreign):
    bare = PreTrainedTokenizerFast(tokenizer_object=foreign.backend_tokenizer)
    made = texts.Texts([{"text": "あ"}, {"text": "いう"}], bare, "text")
    assert (made.marks, made.first) == ((0, 0), None)
    assert np.array_equal(made.read(0, made.tokens), [*bare("あ")["input_ids"], *bare("いう")["input_ids"]])


@pytest.mark.parametrize("lines", [[], [""], ["", ""]])
def test_text_that_is_empty_is_refused(foreign, lines):
    with pytest.raises(texts.TextError, match="has no text"):
        texts.Texts([{"text": line} for line in lines], foreign, "空.txt")


def test_a_folder_without_tokenizer_is_refused(tiny, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(texts.TextError, match=re.escape(f"{tmp_path} has no tokenizer; give --tokenizer")):
        texts.cutter(tmp_path, "gpt2")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(texts.TextError, match=r"the tokenizer of .* cannot be loaded"):
        texts.cutter(tmp_path, "gpt2")
