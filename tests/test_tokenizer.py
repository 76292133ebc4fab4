import json
import random
import subprocess
import sys
import unicodedata

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tiny import DIFFICULT
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from jalm.formats import tokenizer

INPUTS = [
    *DIFFICULT,
    "吾輩は猫である。名前はまだ無い。",
    " ",
    "   ",
    "　　",
    " 先頭",
    "末尾 ",
    "a  b   c",
    "▁",
    "▁▁東京▁",
    "_▁ ▁_",
    "\n",
    "\n\n一行目\n\n二行目\n",
    "\r\nWindowsの行\r",
    "\t",
    "\0",
    "\x01\x1f\x7f\x85",
    "\u2028\u2029",
    "\ufeff東京",
    "東\u200b京\u200d都\u00ad",
    "\ufffd\ufffe\uffff",
    "\U0010ffff",
    "👨‍👩‍👧‍👦",
    "👍🏽🇯🇵1️⃣",
    "☺︎☺️",
    "𠮷𡈽𪚲",
    "龘麤鱻厵",
    "葛\U000e0100城",  # with a variation selector
    "が",
    "か\u3099",
    "ハ\u309a\u3099\u309a",
    "e\u0301\u0302\u0303" * 20,
    "Z̸̢̛͓a̷l̵g̶o",
    "ﾊﾟﾋﾟ･ﾌﾟｰ｡",
    "ﷺ﷽",
    "ℵ½²√Å™㎡",
    "～〜~∼〰",
    "‐‑‒–—―−ー－ｰ",
    "１２３4５6，７８９．０",
    "3.14159265358979323846",
    "[MASK]",
    "[MASK][MASK] [MASK]",
    "<s>",
    "</s></s",
    "<unk><pad>[CLS][SEP]",
    "[mask] ［ＭＡＳＫ］ <ｓ>",
    "<0x41><0xE3>0x0A",
    "<0x",
    "한국어 עברית العربية हिन्दी ไทย",
    "Łódź naïve ſtraße İi ß ẞ",
    "(´・ω・｀)ｷﾀ━━━(ﾟ∀ﾟ)━━━!!",
    "ｗｗｗｗｗ草草草wwww",
    "あ" * 5000,
    " " * 500 + "あ",
    "\n" * 300,
    "寿限無寿限無五劫の擦り切れ" * 100,
    "🍣" * 300,
    "if x < 3:\n\tprint(f'{x!r}')  # コメント",
    "https://ja.wikipedia.org/wiki/%E7%8C%AB?a=1&b=2#節",
]


def nfkc(text: str) -> str:
    """What the normaliser does, by Python."""
    return unicodedata.normalize("NFKC", text.replace("～", "〜"))


@pytest.fixture(scope="module")
def spm(tiny):
    return sentencepiece.SentencePieceProcessor(model_file=str(tiny.tokenizer["model"]))


@pytest.fixture(scope="module")
def proto(tiny):
    return sentencepiece_model_pb2.ModelProto.FromString(tiny.tokenizer["model"].read_bytes())


@pytest.fixture(scope="module")
def folders(tiny, tmp_path_factory):
    """A folder of the tokenizer for each architecture."""
    made = {}
    for architecture in tokenizer.WRAPPING:
        made[architecture] = tmp_path_factory.mktemp(architecture)
        tokenizer.save(Tokenizer.from_file(str(tiny.tokenizer["tokenizer"])), made[architecture], architecture, 32)
    return made


@pytest.fixture(scope="module")
def gpt2(folders):
    return AutoTokenizer.from_pretrained(folders["gpt2"])


@pytest.fixture(scope="module")
def roberta(folders):
    return AutoTokenizer.from_pretrained(folders["roberta"])


def as_text(exported, text: str) -> list[int]:
    """Ids of a text in which special tokens are text too."""
    return exported(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


@pytest.mark.parametrize("text", INPUTS, ids=range(len(INPUTS)))
def test_ids_are_those_of_sentencepiece(text, gpt2, spm):
    assert as_text(gpt2, text) == spm.encode(nfkc(text))


@pytest.mark.parametrize("text", INPUTS, ids=range(len(INPUTS)))
def test_ids_are_decoded_as_by_sentencepiece(text, gpt2, spm):
    ids = spm.encode(nfkc(text))
    assert gpt2.decode(ids) == spm.decode(ids) == nfkc(text).replace("▁", " ")


def test_ids_are_those_of_sentencepiece_on_random_text(gpt2, spm):
    draw = random.Random(20261101)
    planes = [(0, 0x250), (0x2000, 0x2600), (0x3000, 0x3400), (0x4E00, 0xA000), (0xFF00, 0xFFF0), (0x1F300, 0x1FA00)]
    pieces = [spm.id_to_piece(number) for number in range(spm.get_piece_size())]
    for _ in range(1000):
        text = "".join(
            draw.choice(pieces) if draw.random() < 0.7 else chr(draw.randrange(*draw.choice(planes)))
            for _ in range(draw.randrange(1, 12))
        )
        # which characters NFKC changes differs between versions of Unicode
        normalised = gpt2.backend_tokenizer.normalizer.normalize_str(text)
        assert as_text(gpt2, text) == spm.encode(normalised), ascii(text)


def test_the_acceptance_check_finds_no_difference(folders, tiny, shared):
    inputs = shared / "data/gold/tokenizer_inputs.jsonl"
    command = [sys.executable, shared / "tools/check_exact.py", folders["roberta"], tiny.tokenizer["model"], inputs]
    checked = subprocess.run([*command, "--normalizer", "tokenizer"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["lines"] == 450


def test_the_vocabulary_is_that_of_sentencepiece(gpt2, spm):
    pieces = [spm.id_to_piece(number) for number in range(spm.get_piece_size())]
    assert gpt2.convert_ids_to_tokens(range(len(gpt2))) == pieces


def test_special_tokens_and_bytes_have_the_ids_that_every_architecture_relies_on(spm):
    assert (spm.pad_id(), spm.unk_id(), spm.bos_id(), spm.eos_id()) == (0, 1, 2, 3)
    assert [spm.piece_to_id(piece) for piece in ("[CLS]", "[SEP]", "[MASK]")] == [4, 5, 6]
    assert all(spm.is_control(number) for number in (0, 2, 3, 4, 5, 6))
    assert [spm.id_to_piece(7 + byte) for byte in range(256)] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert all(spm.is_byte(number) == (number in tokenizer.BYTES) for number in range(spm.get_piece_size()))


def test_scores_are_multiples_of_a_power_of_two(proto):
    scores = [piece.score for piece in proto.pieces if piece.type == piece.NORMAL]
    assert len(scores) == 2000 - 7 - 256
    assert all((score * 512).is_integer() for score in scores)
    assert len(set(scores)) > 100


def test_rounding_moves_scores_by_half_a_step_at_most():
    given = sentencepiece_model_pb2.ModelProto()
    for score, kind in ((-1.0009765, 1), (-7.123456, 1), (0.0, 3), (-0.3, 6)):
        given.pieces.add(piece=str(score), score=score, type=kind)
    made = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.rounded(given.SerializeToString()))
    assert [piece.piece for piece in made.pieces] == [piece.piece for piece in given.pieces]
    assert [piece.score for piece in made.pieces[2:]] == [piece.score for piece in given.pieces[2:]]
    for before, after in zip(given.pieces, made.pieces, strict=True):
        assert abs(before.score - after.score) <= 1 / 1024
    assert made.pieces[1].score == -3647 / 512  # -7.123046875


def test_a_mask_inside_japanese_text_leaves_no_stray_space(roberta, spm):
    ids = roberta("江戸[MASK]代は、", add_special_tokens=False)["input_ids"]
    assert ids == [*spm.encode("江戸"), 6, *spm.encode("代は、")]
    assert "▁" not in "".join(roberta.convert_ids_to_tokens(ids))
    assert roberta.decode(ids) == "江戸[MASK]代は、"


def test_spaces_around_a_mask_stay(roberta, spm):
    ids = roberta("江戸 [MASK]　代", add_special_tokens=False)["input_ids"]
    assert ids == [*spm.encode("江戸 "), 6, *spm.encode(" 代")]


def test_line_breaks_come_back(gpt2):
    text = "一行目。\n\n二行目。\n"
    ids = gpt2(text)["input_ids"]
    assert gpt2.convert_ids_to_tokens(ids).count("<0x0A>") == 3
    assert gpt2.decode(ids, skip_special_tokens=True) == text


def test_a_text_is_wrapped_as_in_training(gpt2, roberta, spm):
    first, second = spm.encode("東京"), spm.encode("大阪は")
    assert gpt2("東京")["input_ids"] == [2, *first]
    assert gpt2("東京", "大阪は")["input_ids"] == [2, *first, *second]
    assert roberta("東京")["input_ids"] == [2, *first, 3]
    assert roberta("東京", "大阪は")["input_ids"] == [2, *first, 3, *second, 3]
    assert gpt2("")["input_ids"] == [2]


def test_models_are_fed_nothing_but_ids_and_an_attention_mask(folders, gpt2, roberta):
    assert set(gpt2("東京", "大阪")) == set(roberta("東京", "大阪")) == {"input_ids", "attention_mask"}
    for folder in folders.values():  # transformers 4 adds token_type_ids where this is not said
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        assert config["model_input_names"] == ["input_ids", "attention_mask"]


def test_auto_tokenizer_knows_the_special_tokens_and_the_length(gpt2, roberta):
    for exported in (gpt2, roberta):
        assert (exported.pad_token_id, exported.unk_token_id, exported.bos_token_id, exported.eos_token_id) == (
            (0, 1, 2, 3)
        )
        assert (exported.mask_token, exported.mask_token_id, exported.model_max_length) == ("[MASK]", 6, 32)
    assert (roberta.cls_token, roberta.sep_token) == ("<s>", "</s>")


def test_the_folder_names_a_class_that_transformers_4_has(folders):
    config = json.loads((folders["gpt2"] / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
