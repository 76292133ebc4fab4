import io
import json
import random
import subprocess
import sys
import unicodedata
import venv

import pytest
import sentencepiece
import transformers
from sentencepiece import sentencepiece_model_pb2
from tiny import DIFFICULT
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from jalm.config import TrainTokenizer
from jalm.formats import documents, ids, normaliser, tokenizer
from jalm.formats.tokenizer import TokenizerError
from jalm.stages import train_tokenizer

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


@pytest.fixture(scope="module")
def bert(folders):
    return AutoTokenizer.from_pretrained(folders["bert"])


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


def test_the_vocabulary_is_that_of_sentencepiece(gpt2, spm):
    pieces = [spm.id_to_piece(number) for number in range(spm.get_piece_size())]
    assert gpt2.convert_ids_to_tokens(range(len(gpt2))) == pieces


def test_special_tokens_and_bytes_have_the_ids_that_every_architecture_relies_on(spm):
    assert (spm.pad_id(), spm.unk_id(), spm.bos_id(), spm.eos_id()) == (0, 1, 2, 3)
    assert [spm.piece_to_id(piece) for piece in ("[CLS]", "[SEP]", "[MASK]")] == [4, 5, 6]
    assert all(spm.is_control(number) for number in (0, 2, 3, 4, 5, 6))
    assert [spm.id_to_piece(7 + byte) for byte in range(256)] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert all(spm.is_byte(number) == (number in ids.BYTES) for number in range(spm.get_piece_size()))


def test_scores_are_multiples_of_a_power_of_two(proto):
    scores = [piece.score for piece in proto.pieces if piece.type == piece.NORMAL]
    assert len(scores) == 2000 - 7 - 256
    assert all((score * 64).is_integer() for score in scores)
    assert len(set(scores)) > 100


def test_rounding_moves_scores_by_half_a_step_at_most():
    given = sentencepiece_model_pb2.ModelProto()
    for score, kind in ((-1.0009765, 1), (-7.123456, 1), (0.0, 3), (-0.3, 6)):
        given.pieces.add(piece=str(score), score=score, type=kind)
    made = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.exact(given.SerializeToString()))
    assert [piece.piece for piece in made.pieces] == [piece.piece for piece in given.pieces]
    assert [piece.score for piece in made.pieces[2:]] == [piece.score for piece in given.pieces[2:]]
    for before, after in zip(given.pieces, made.pieces, strict=True):
        assert abs(before.score - after.score) <= 1 / 128
    assert made.pieces[1].score == -456 / 64  # -7.125


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


def test_a_text_is_wrapped_as_in_training(folders, gpt2, roberta, spm):
    first, second = spm.encode("東京"), spm.encode("大阪は")
    assert gpt2("東京")["input_ids"] == [2, *first]
    assert gpt2("東京", "大阪は")["input_ids"] == [2, *first, *second]
    assert roberta("東京")["input_ids"] == [2, *first, 3]
    assert roberta("東京", "大阪は")["input_ids"] == [2, *first, 3, *second, 3]
    assert gpt2("")["input_ids"] == [2]
    for architecture, like in (("gpt_neo", gpt2), ("llama", gpt2), ("modernbert", roberta)):
        other = AutoTokenizer.from_pretrained(folders[architecture])
        assert other("東京", "大阪は") == like("東京", "大阪は")
        assert (other.cls_token_id, other.sep_token_id) == (like.cls_token_id, like.sep_token_id)


def test_models_are_fed_nothing_but_what_they_know(folders, gpt2, roberta, bert):
    assert set(gpt2("東京", "大阪")) == set(roberta("東京", "大阪")) == {"input_ids", "attention_mask"}
    assert set(bert("東京")) == {"input_ids", "token_type_ids", "attention_mask"}
    for architecture, folder in folders.items():  # transformers 4 adds token_type_ids where this is not said
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        assert ("token_type_ids" in config["model_input_names"]) == (architecture == "bert")


def test_bert_tells_the_first_text_from_the_second(bert, spm):
    first, second = spm.encode("東京"), spm.encode("大阪は")
    assert bert("東京")["input_ids"] == [4, *first, 5]
    pair = bert("東京", "大阪は")
    assert pair["input_ids"] == [4, *first, 5, *second, 5]
    assert pair["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert (bert.cls_token, bert.sep_token, bert.mask_token) == ("[CLS]", "[SEP]", "[MASK]")


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


# ---- other kinds of models


@pytest.fixture(scope="module")
def lines(tiny):
    return [
        line for path in tiny.documents["train"] for d in documents.read(path) for line in documents.text(d).split("\n")
    ]


@pytest.fixture(scope="module", params=["bpe", "unigram without bytes", "bpe without bytes", "bpe in lower case"])
def other(request, lines):
    """A model of another kind as SentencePiece, and as tokenizer.json."""
    knobs = {"model_type": request.param.split()[0], "byte_fallback": "without" not in request.param}
    knobs["normalization"] = "nfkc_lower" if "lower" in request.param else "nfkc"
    config = TrainTokenizer(corpora=["wiki"], vocab_size=1800, character_coverage=0.98, num_threads=1, **knobs)
    normalizer = normaliser.build(config.normalization)
    model = train_tokenizer.train(map(normalizer.normalize_str, lines), config)
    exported = tokenizer.build(model, normalizer)
    exported.encode_special_tokens = True
    return sentencepiece.SentencePieceProcessor(model_proto=model), exported


def assert_same(spm, exported, text: str) -> None:
    normalised = exported.normalizer.normalize_str(text)
    ids = exported.encode(text, add_special_tokens=False).ids
    assert ids == spm.encode(normalised), ascii(text)
    assert exported.decode(ids, skip_special_tokens=False) == spm.decode(ids), ascii(text)


@pytest.mark.parametrize("text", INPUTS, ids=range(len(INPUTS)))
def test_other_kinds_of_models_are_exact_too(text, other):
    assert_same(*other, text)


def test_bpe_is_exact_where_pieces_overlap(other):
    spm, exported = other
    draw = random.Random(20261101)
    pieces = [spm.id_to_piece(n) for n in range(spm.get_piece_size()) if len(spm.id_to_piece(n)) > 1]
    for _ in range(1000):
        cut = (draw.choice(pieces)[draw.randrange(2) :] for _ in range(draw.randrange(1, 12)))
        assert_same(spm, exported, "".join(cut))
        few = draw.choice(pieces)
        assert_same(spm, exported, "".join(draw.choices(few, k=draw.randrange(1, 40))))


@pytest.mark.parametrize(
    ("piece", "pair"),
    [
        ("aa", ("a", "a")),
        ("aaa", ("aa", "a")),  # the leftmost of two alike is merged first
        ("abc", ("a", "bc")),  # bc is better than ab
        ("abcde", None),  # of abc and de; but cd comes first, and then nothing joins ab, cd and e
        ("a", None),
    ],
)
def test_a_piece_is_made_of_the_pieces_that_sentencepiece_makes_it_of(piece, pair):
    scores = {"aa": -1, "cd": -2, "bc": -3, "ab": -4, "abc": -5, "de": -6, "aaa": -7, "abcde": -8}
    assert tokenizer.last_merge(piece, scores | dict.fromkeys("abcde", -9)) == pair


def test_a_run_of_unknown_characters_is_one_unknown(lines):
    config = TrainTokenizer(
        corpora=["wiki"], vocab_size=1500, character_coverage=0.98, num_threads=1, byte_fallback=False
    )
    spm = sentencepiece.SentencePieceProcessor(model_proto=train_tokenizer.train(iter(lines), config))
    wa, line_end = spm.piece_to_id("は"), spm.piece_to_id("\n")
    assert spm.encode("は龘麤鱻は\nは") == [wa, 1, wa, line_end, wa]
    assert line_end != 1
    assert spm.decode([1]) == "<unk>"


def test_a_piece_that_the_decoder_would_take_for_a_byte_is_matched_by_no_text():
    given = sentencepiece_model_pb2.ModelProto()
    for piece in ("<0x4a>", "<0x4g>", "<0x+a>", "<0x4a>b"):
        given.pieces.add(piece=piece, score=-1, type=1)
    made = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.exact(given.SerializeToString()))
    assert [piece.type for piece in made.pieces] == [3, 1, 3, 1]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_two_hundred_thousand_characters_are_exact(kind, lines):
    """SentencePiece adds scores in 32 bits."""
    config = TrainTokenizer(corpora=["wiki"], vocab_size=1800, character_coverage=0.98, num_threads=1, model_type=kind)
    model = train_tokenizer.train(iter(lines), config)
    exported = tokenizer.build(model, normaliser.build("none"))
    text = "".join(random.Random(1).choices(lines, k=4000))[:200_000]
    assert exported.encode(text).ids == sentencepiece.SentencePieceProcessor(model_proto=model).encode(text)


# ---- a user's own model


def own(lines, **knobs) -> bytes:
    """A model that SentencePiece trains with its own defaults."""
    model = io.BytesIO()
    defaults = {"vocab_size": 1800, "character_coverage": 0.98, "num_threads": 1, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **{**defaults, **knobs})
    return model.getvalue()


OWN = {
    "defaults": {},
    "bpe": {"model_type": "bpe", "user_defined_symbols": ["<sep>", "「"]},
    "as of Llama": {
        "model_type": "bpe",
        "byte_fallback": True,
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity",
        "user_defined_symbols": ["▁▁"],
    },
    "other ids": {"pad_id": 3, "unk_id": 5, "add_dummy_prefix": False, "control_symbols": ["[MASK]", "<x>"]},
    "symbols": {"byte_fallback": True, "user_defined_symbols": ["[CLS]", "<mask>"], "add_dummy_prefix": False},
}


@pytest.mark.parametrize("kind", OWN)
def test_an_own_model_is_laid_over_our_ids_and_what_comes_out_is_exact(kind, lines):
    given = own(lines, **OWN[kind])
    model = tokenizer.adopt(given)
    exported = tokenizer.build(model, normaliser.carried(given))
    exported.encode_special_tokens = True
    spm = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert tuple(spm.id_to_piece(list(range(7)))) == tokenizer.SPECIAL
    assert all(spm.is_control(number) for number in (0, 2, 3, 4, 5, 6))
    for text in INPUTS:
        assert_same(spm, exported, text)
    ordinary = [line for line in lines if line and not line.startswith(" ")][:300]
    assert tokenizer.agreement(given, exported, ordinary) >= 0.99 * len(ordinary)


def test_agreement_counts_the_lines_that_are_cut_alike(lines):
    given = own(lines)
    exported = tokenizer.build(tokenizer.adopt(given), normaliser.build("none"))  # not the normaliser that it had
    assert tokenizer.agreement(given, exported, ["東京", "ＡＢＣ", "京都", "㈱"]) == 2


def test_a_mask_in_an_own_model_that_puts_a_space_before_texts_has_none_after_it(lines):
    given = own(lines)
    exported = tokenizer.build(tokenizer.adopt(given), normaliser.carried(given))
    assert exported.encode("京都[MASK]京都").tokens.count("[MASK]") == 1
    assert exported.encode("京都[MASK]京都").tokens[0].startswith("▁")
    assert not any("▁" in token for token in exported.encode("京都[MASK]京都").tokens[1:])
    assert exported.decode(exported.encode("京都の").ids) == "京都の"


@pytest.mark.parametrize("kind", ["char", "word"])
def test_a_model_that_is_neither_unigram_nor_bpe_is_refused(kind, lines):
    given = own(lines, model_type=kind, vocab_size=300, hard_vocab_limit=False)
    with pytest.raises(TokenizerError, match=f"its model_type is {kind}; it can be unigram or bpe"):
        tokenizer.adopt(given)


@pytest.mark.parametrize("content", [b"", b"vocab of another program\n", b"\0" * 100])
def test_a_file_that_is_no_model_is_refused(content, tmp_path):
    path = tmp_path / "own.model"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=r"own\.model is no SentencePiece model; give the .model file"):
        tokenizer.read(path)


def test_a_file_that_is_no_tokenizer_json_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b"\xff{}")
    with pytest.raises(TokenizerError, match=r"is no tokenizer\.json: .*; remove it"):
        tokenizer.read_exported(path)


# ---- the whole, as others see it


def model_folder(path, architecture: str, exported: Tokenizer):
    """A folder with a tiny model of random weights and the tokenizer."""
    ids = {"vocab_size": exported.get_vocab_size(), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 8, "intermediate_size": 8}
    made = {
        "gpt2": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_layer=1, n_head=1, n_embd=8, n_positions=64, **ids)
        ),
        "roberta": lambda: transformers.RobertaForMaskedLM(
            transformers.RobertaConfig(max_position_embeddings=65, type_vocab_size=1, **sizes, **ids)
        ),
        "bert": lambda: transformers.BertForPreTraining(
            transformers.BertConfig(max_position_embeddings=64, **sizes, **ids)
        ),
    }[architecture]()
    made.save_pretrained(path)
    tokenizer.save(exported, path, architecture, 64)
    return path


def checked(shared, folder, model, *inputs) -> dict:
    """What the acceptance check says of a folder."""
    script = shared / "tools/check_exact.py"
    command = [sys.executable, script, folder, model, *inputs, "--normalizer", "tokenizer"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.stdout, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture
def trained(request, tmp_path, lines):
    """A model of an algorithm, and the same as tokenizer.json."""
    config = TrainTokenizer(
        corpora=["wiki"], vocab_size=1800, character_coverage=0.98, num_threads=1, model_type=request.param
    )
    normalizer = normaliser.build("nfkc")
    (tmp_path / "spm.model").write_bytes(train_tokenizer.train(map(normalizer.normalize_str, lines), config))
    return tmp_path / "spm.model", tokenizer.build((tmp_path / "spm.model").read_bytes(), normalizer)


@pytest.mark.parametrize(("architecture", "trained"), [("gpt2", "unigram"), ("bert", "bpe")], indirect=["trained"])
def test_the_acceptance_check_finds_no_difference(architecture, trained, tmp_path, shared):
    model, exported = trained
    report = checked(
        shared,
        model_folder(tmp_path / "out", architecture, exported),
        model,
        shared / "data/gold/tokenizer_inputs.jsonl",
    )
    assert (report["lines"], report["mismatches"]) == (450, {})


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gpt2", "roberta", "bert"])  # the others are wrapped as one of them
@pytest.mark.parametrize("trained", ["unigram", "bpe"], indirect=True)
def test_the_acceptance_check_finds_no_difference_on_real_lines(architecture, trained, tmp_path, shared):
    model, exported = trained
    real = []
    for path in sorted((shared / "data/text").glob("*.jsonl.zst")):
        of_file = (line for d in documents.read(path) for line in d["text"].split("\n") if line)
        real += [line for line, _ in zip(of_file, range(800), strict=False)]
    (tmp_path / "real.txt").write_text("".join(line + "\n" for line in real), encoding="utf-8", newline="\n")
    folder = model_folder(tmp_path / "out", architecture, exported)
    report = checked(shared, folder, model, shared / "data/gold/tokenizer_inputs.jsonl", tmp_path / "real.txt")
    assert report["lines"] >= 5450
    assert report["mismatches"] == {}


OLDER = """
import json, sys
from transformers import AutoTokenizer
for folder in sys.argv[2:]:
    exported = AutoTokenizer.from_pretrained(folder)
    for line in open(sys.argv[1], encoding="utf-8"):
        ids = exported(json.loads(line)["text"])["input_ids"]
        print(json.dumps([ids, exported.decode(ids)]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["unigram", "bpe"], indirect=True)
def test_transformers_4_gives_the_same_ids_and_text(trained, tmp_path, shared):
    venv.create(tmp_path / "older", with_pip=True)
    packages = ["transformers>=4.40,<4.50", "tokenizers", "sentencepiece", "numpy"]
    installed = subprocess.run(
        [tmp_path / "older/bin/pip", "install", "--quiet", *packages], capture_output=True, text=True
    )
    if installed.returncode:
        pytest.skip(f"pip has no network: {installed.stderr[-200:]}")
    _, exported = trained
    folders = [model_folder(tmp_path / name, name, exported) for name in ("gpt2", "roberta", "bert")]
    inputs = shared / "data/gold/tokenizer_inputs.jsonl"
    command = [tmp_path / "older/bin/python", "-c", OLDER, inputs, *folders]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env={"HF_HUB_OFFLINE": "1"})
    here = []
    for folder in folders:
        newer = AutoTokenizer.from_pretrained(folder)
        for line in inputs.read_text(encoding="utf-8").splitlines():
            ids = newer(json.loads(line)["text"])["input_ids"]
            here.append([ids, newer.decode(ids)])
    assert len(here) == 3 * 450
    assert [json.loads(line) for line in said.stdout.splitlines()] == here
