import json
import re
import shutil
import subprocess
import sys
import unicodedata
from itertools import accumulate, islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from tiny import DIFFICULT, Tiny

from jalm.config import SIDES, NoKnobs
from jalm.formats import documents, normaliser, tokenizer
from jalm.formats.shards import ShardError, digest
from jalm.formats.tokenizer import TokenizerError
from jalm.stages import shard, shard_manifest

NFKC = normaliser.build("nfkc").normalize_str


@pytest.fixture(scope="module")
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


def enlarged(tiny, folder, pieces: dict[str, float]) -> dict[str, Path]:
    """The tokenizer with more pieces, or other scores."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(tiny.tokenizer["model"].read_bytes())
    known = {piece.piece: piece for piece in proto.pieces}
    for piece, score in pieces.items():
        (known.get(piece) or proto.pieces.add(piece=piece, type=1)).score = score
    made = {"model": folder / "large.model", "tokenizer": folder / "large.json"}
    made["model"].write_bytes(proto.SerializeToString())
    tokenizer.build(proto.SerializeToString(), normaliser.build("nfkc")).save(str(made["tokenizer"]))
    return made


def test_more_than_65536_pieces_take_four_bytes_each(tiny, tmp_path):
    large = enlarged(tiny, tmp_path, {f"長い名{number}": -20 for number in range(65_536 - 2000)} | {"寿限無": 0})
    path = written(tmp_path / "d", [[["寿限無"]]])
    assert run(tmp_path, path, large).read_bytes() == b"\x02\0\0\0\0\0\x01\0\x03\0\0\0"


# ---- where documents and sentences end


def sentences_of(path) -> list[list[list[int]]]:
    """Tokens of each sentence of each document, by the lengths beside the shard."""
    ids, lengths = np.fromfile(path, dtype="<u2").tolist(), np.fromfile(path.with_suffix(".sentences"), dtype="<u4")
    taken, made = iter(lengths.tolist()), []
    ids = iter(ids)
    for tokens, count in np.fromfile(path.with_suffix(".index"), dtype="<u4").reshape(-1, 2).tolist():
        made.append([list(islice(ids, next(taken))) for _ in range(count)] or [list(islice(ids, tokens))])
        assert sum(map(len, made[-1])) == tokens
    assert list(ids) == list(taken) == []
    return made


def test_the_tokens_of_a_sentence_decode_to_it_with_the_line_break_behind_it(tiny, spm, tmp_path):
    paragraphs = [
        [["吾輩は猫である。", "名前は𠮷。"], [], ["😀どこで生れたか㈱、", "ﾄﾝﾄ見当がつかぬ。"]],
        [[], ["一つ。"], []],
        [["　行頭の空白。　", "  二つ。"]],
    ]
    made = sentences_of(run(tmp_path, written(tmp_path / "d", paragraphs), tiny.tokenizer))
    assert [list(map(spm.decode, document)) for document in made] == [
        ["吾輩は猫である。", "名前は𠮷。\n\n", "😀どこで生れたか(株)、", "トント見当がつかぬ。"],
        ["\n一つ。\n"],
        [" 行頭の空白。 ", "  二つ。"],
    ]
    assert [(document[0][0], document[-1][-1]) for document in made] == [(2, 3)] * 3


def test_a_piece_across_the_end_of_a_sentence_belongs_to_the_sentence(tiny, spm, tmp_path):
    joined = spm.encode("ている。")
    assert spm.id_to_piece(joined[0]) == "ている"
    (made,) = sentences_of(run(tmp_path, written(tmp_path / "d", [[["て", "い", "る。"]]]), tiny.tokenizer))
    assert made == [[2, joined[0]], [], [*joined[1:], 3]]


def test_a_mark_at_the_beginning_of_a_sentence_belongs_to_the_sentence_before(tiny, spm, tmp_path):
    (made,) = sentences_of(run(tmp_path, written(tmp_path / "d", [[["か", "\u3099き。", "ﾟ"]]]), tiny.tokenizer))
    assert "".join(map(spm.decode, made)) == unicodedata.normalize("NFKC", "か\u3099き。ﾟ")
    assert spm.decode(made[0]) == "が"


def test_a_document_without_sentences_has_tokens_only(tiny, tmp_path):
    path = run(tmp_path, written(tmp_path / "d", [[[]], [["猫"]], []]), tiny.tokenizer)
    assert np.fromfile(path.with_suffix(".index"), dtype="<u4").reshape(-1, 2)[:, 1].tolist() == [0, 1, 0]
    assert [len(document[0]) for document in sentences_of(path)][::2] == [2, 2]


@given(
    st.lists(
        st.lists(st.lists(st.text("猫は。ている㈱か\u3099ﾟ𠮷😀\0 　aé\u0301～", min_size=1), max_size=4), max_size=4),
        min_size=1,
        max_size=4,
    )
)
def test_sentences_make_up_documents_and_documents_the_whole(encoder, spm, paragraphs):
    made = encoder(paragraphs)
    texts = ["\n".join(map("".join, document)) for document in paragraphs]
    assert made.ids.tolist() == [i for text in texts for i in (2, *spm.encode(NFKC(text)), 3)]
    assert made.documents[:, 0].sum() == len(made.ids)
    for number, document in enumerate(paragraphs):
        first, last = made.documents[:number, 1].sum(), made.documents[: number + 1, 1].sum()
        assert last - first == sum(map(len, document))
        if last > first:
            assert made.sentences[first:last].sum() == made.documents[number, 0]


# ---- where words begin


def with_words(path, *texts: str):
    """A file of documents out of words between |, sentences between ‖ and lines."""
    cut = [
        [[sentence.split("|") for sentence in line.split("‖")] if line else [] for line in text.split("\n")]
        for text in texts
    ]
    with documents.writing(path) as writer:
        for number, lines in enumerate(cut):
            paragraphs = [["".join(words) for words in line] for line in lines]
            lengths = [[[*map(len, words)] for words in line] for line in lines]
            writer.write({"id": number, "title": "", "paragraphs": paragraphs, "words": lengths})
    return path


def words_of(path, spm) -> list[str]:
    """Text of a shard between the tokens that begin a word, a mark being |."""
    ids = np.fromfile(path, dtype="<u2").tolist()
    packed = np.fromfile(path.with_suffix(".words"), dtype="u1")
    assert len(packed) == -(-len(ids) // 8)
    begins = [place for place in range(len(ids)) if packed[place // 8] >> place % 8 & 1]
    assert begins[0] == 0
    pieces = [ids[begin:end] for begin, end in zip(begins, [*begins[1:], len(ids)], strict=True)]
    return ["|" if piece in ([2], [3]) else spm.decode(piece) for piece in pieces]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("吾輩|は|猫|で|ある|。", "吾輩|は|猫|である|。"),
        ("㈱𠮷野|家|の|①|　|ﾊﾟﾝ|。‖😀|㍿", "(株)𠮷野|家|の|1| |パン|。|😀|株式会社"),  # bytes, one character as several
        ("一|行\n\n\n三|行", "一|行|\n|\n|\n|三|行"),
        ("\n猫\n", "\n|猫|\n"),
        ("か|\u3099|き氷‖ﾟ|だ", "が|き氷゚|だ"),  # what combines with the word before begins none
        ("猫\n\u3099犬", "猫|\n|\u3099犬"),
        ("\u3099|か", "\u3099|か"),
        ("", ""),
    ],
)
def test_the_first_token_of_a_word_begins_it_and_the_others_do_not(tiny, spm, tmp_path, text, expected):
    path = run(tmp_path, with_words(tmp_path / "d", text), tiny.tokenizer)
    between = ["|", *(NFKC(word) for word in expected.split("|") if word), "|"]
    assert words_of(path, spm) == between


def test_a_token_across_words_begins_one_if_its_first_character_does(tiny, spm, tmp_path):
    assert spm.id_to_piece(spm.encode("ている")[0]) == "ている"
    path = run(tmp_path, with_words(tmp_path / "d", "見|て|いる", "見て|い|る"), tiny.tokenizer)
    assert words_of(path, spm) == ["|", "見", "ている", "|", "|", "見ている", "|"]


@given(
    st.lists(
        st.lists(
            st.lists(st.lists(st.text("猫は。ている㈱か\u3099ﾟ𠮷😀 　aé～", min_size=1), min_size=1), max_size=3),
            max_size=3,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_words_change_no_tokens_and_begin_where_sentencepiece_has_their_first_character(encoder, spm, words):
    paragraphs = [[["".join(sentence) for sentence in line] for line in document] for document in words]
    made = encoder(paragraphs, [[[[*map(len, s)] for s in line] for line in document] for document in words])
    for with_them, without in zip(made[:3], encoder(paragraphs)[:3], strict=True):
        np.testing.assert_array_equal(with_them, without)
    expected = []
    for document in words:
        joined = "\n".join("|".join("|".join(sentence) for sentence in line) for line in document)
        pieces = [piece for piece in re.split(r"(\n)|\|", joined) if piece]
        text, begins = "".join(pieces), {0}
        for place in accumulate(map(len, pieces)):
            while text[place : place + 1] in encoder._combining and text[place - 1] != "\n":
                place += 1
            begins.add(len(NFKC(text[:place]).encode()))
        found = [piece.begin for piece in spm.encode(NFKC(text), return_type="proto").pieces]
        expected += [True, *(a in begins and a != before for before, a in pairwise([-1, *found])), True]
    assert made.word_starts.tolist() == expected


def test_without_words_nothing_is_stored_of_them(tiny, tmp_path):
    assert run(tmp_path, written(tmp_path / "d", [[["猫"]]]), tiny.tokenizer).with_suffix(".words").read_bytes() == b""


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({}, "of words the document 7 has none, those before it have some; segment all"),
        ({"words": [[[1, 2]]]}, "the words of the document 7 do not make up its sentences"),
        ({"words": [[[2]], []]}, "the words of the document 7 do not make up its sentences"),
    ],
)
def test_words_that_are_missing_or_do_not_fit_are_an_error(tiny, tmp_path, second, message):
    with documents.writing(tmp_path / "d") as writer:
        writer.write({"id": 6, "paragraphs": [["猫だ"]], "words": [[[1, 1]]]})
        writer.write({"id": 7, "paragraphs": [["犬だ"]], **second})
    with pytest.raises(ShardError, match=message):
        run(tmp_path, tmp_path / "d", tiny.tokenizer)


# ---- long texts


@pytest.fixture(scope="module")
def encoder(tiny):
    return shard.Encoder(tiny.tokenizer["model"], tiny.tokenizer["tokenizer"])


def test_a_text_is_cut_where_no_piece_reaches_across(encoder, spm, tiny):
    text = NFKC("".join(DIFFICULT).replace("\n", "") * 5).replace("あ" * 3000, "")
    pieces = list(encoder._cut(text))
    assert "".join(pieces) == text
    assert len(pieces) > 5
    inside = {spm.id_to_piece(number) for number in range(263, 2000)}
    for before, after in pairwise(pieces):
        assert not any(before[-1] + after[0] in piece for piece in inside)


def test_a_text_without_end_is_cut_anyway_and_that_is_said(tiny, tmp_path, caplog):
    path = written(tmp_path / "d", [[["ああ" * 15_000]]])
    with caplog.at_level("INFO", logger="jalm"):
        ids = np.fromfile(run(tmp_path, path, enlarged(tiny, tmp_path, {"ああ": 0})), dtype="<u2")
    assert "6 places where a text was cut after 10,000 characters" in caplog.text  # two for each side
    assert ids.tolist() == [2, *[2000] * 15_000, 3]


@pytest.mark.slow
def test_ten_million_characters_in_a_line_take_less_than_500_mb(tiny, tmp_path):
    line = "吾輩は猫である（名前はまだ無い）、㈱" * 555_556
    path = written(tmp_path / "d", [[[line]]])
    options = dict.fromkeys(SIDES, written(tmp_path / "e", [])) | {"train": path}
    options |= {f"{side}_tokens": tmp_path / f"{side}.bin" for side in SIDES}
    arguments = Tiny.arguments(NoKnobs(), **options, **tiny.tokenizer)
    # not ru_maxrss, in which a process inherits that of the one that started it
    program = "import pathlib, sys; from jalm.stages import shard; shard.main(sys.argv[1:]); "
    program += "print(pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    ran = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 500_000
    assert (tmp_path / "train.bin").stat().st_size > 10_000_000


# ---- models that change the text themselves


def adopted(folder, **options) -> dict[str, Path]:
    """A model of a user's own, over our ids."""
    (folder / "lines").write_text("吾輩は猫である。\n犬 です。名前はまだ無い。\n" * 50, encoding="utf-8")
    made = {"vocab_size": 400, "hard_vocab_limit": False, "minloglevel": 2} | options
    sentencepiece.SentencePieceTrainer.train(input=str(folder / "lines"), model_prefix=str(folder / "own"), **made)
    given = (folder / "own.model").read_bytes()
    files = {"model": folder / "spm.model", "tokenizer": folder / "tokenizer.json"}
    files["model"].write_bytes(tokenizer.adopt(given))
    tokenizer.build(files["model"].read_bytes(), normaliser.carried(given)).save(str(files["tokenizer"]))
    return files


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byte_fallback": True},
        {"byte_fallback": True, "add_dummy_prefix": False},
        {"model_type": "bpe", "vocab_size": 50},
    ],
)
def test_an_own_model_that_changes_the_text_gives_the_ids_of_its_exported_form(tmp_path, options):
    own = adopted(tmp_path, **options)
    paragraphs = [[["𠮷龘。犬は猫。", "犬  です。[MASK]  "], ["ｶﾞ猫である。"]], [["。"]]]
    made = sentences_of(run(tmp_path, written(tmp_path / "d", paragraphs), own))
    exported = tokenizer.read_exported(own["tokenizer"])
    exported.encode_special_tokens = True
    for document, sentences in zip(paragraphs, made, strict=True):
        want = exported.encode("\n".join(map("".join, document)), add_special_tokens=False).ids
        assert [i for sentence in sentences for i in sentence] == [2, *want, 3]
    (first, second, last), _ = made
    assert exported.decode(first).endswith("犬は猫。")
    assert exported.decode(second).startswith("犬")
    assert exported.decode(last).endswith("猫である。")


# ---- what is no tokenizer, and disks that are full


@pytest.mark.parametrize("content", [b"", b"no model", b"\x0a\x02"])
def test_a_model_that_is_none_is_refused(tiny, tmp_path, content):
    (tmp_path / "spm.model").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"spm\.model is no SentencePiece model"):
        run(tmp_path, tiny.documents["test"][0], {**tiny.tokenizer, "model": tmp_path / "spm.model"})


def test_a_tokenizer_that_is_none_or_another_s_is_refused(tiny, tmp_path):
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"t\.json is no tokenizer\.json"):
        run(tmp_path, tiny.documents["test"][0], {**tiny.tokenizer, "tokenizer": tmp_path / "t.json"})
    other = enlarged(tiny, tmp_path, {"寿限無": 0})["model"]
    with pytest.raises(ShardError, match=r"has 2,000 pieces, \S+ 2,001: they do not belong together"):
        run(tmp_path, tiny.documents["test"][0], {**tiny.tokenizer, "model": other})


def test_a_lone_surrogate_in_json_is_an_error_that_names_the_line(tiny, tmp_path):
    path = tmp_path / "d.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"id": 1, "paragraphs": [["\\ud800"]]}\n'))
    with pytest.raises(documents.DocumentError, match=r"d\.jsonl\.zst: line 1 is no JSON"):
        run(tmp_path, path, tiny.tokenizer)


def test_a_full_disk_is_named_and_leaves_nothing_that_looks_finished(tiny, tmp_path):
    path = written(tmp_path / "d", [[["猫は寝ている。"] * 5000]])
    options = dict.fromkeys(SIDES, path) | {f"{side}_tokens": tmp_path / f"out/{side}.bin" for side in SIDES}
    arguments = Tiny.arguments(NoKnobs(), **options, **tiny.tokenizer)
    program = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
    program += "from jalm import cli; cli.run(sys.argv[1:])"
    ran = subprocess.run([sys.executable, "-c", program, "shard", *arguments], capture_output=True, text=True)
    assert ran.returncode == 1
    told = (
        f"shard: {tmp_path / 'out/train.bin'} and 11 files with it cannot be written (File too large); make room there"
    )
    assert ran.stderr.splitlines()[-1].startswith(told)
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".partial"}


# ---- --verify


@pytest.fixture
def finished_side(tiny, tmp_path):
    """A copy of the shards of test."""
    return Path(shutil.copytree(tiny.shards["test"].parent, tmp_path / "wiki" / "test"))


def test_good_shards_are_told_in_a_line_for_each_side(tiny, finished_side, capsys):
    shutil.copytree(tiny.shards["valid"].parent, finished_side.with_name("valid"))
    shard.main(["--verify", str(finished_side.parent), "--model", str(tiny.tokenizer["model"])])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [str(finished_side.with_name(n)) for n in ("test", "valid")]
    assert all(line.endswith("tokens, as their manifest says") for line in lines)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["000.bin", "001.bin", "index.npy", "sentences.npy"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "{} has the SHA-256 .* says .*; remove both"),
        (lambda path: path.write_bytes(path.read_bytes()[:-2]), "{} has (the SHA-256|[0-9,]+ bytes).* says"),
        (Path.unlink, "{} is missing"),
    ],
    ids=["flipped", "truncated", "missing"],
)
def test_a_damaged_file_is_found_and_named(finished_side, name, damage, message):
    damage(finished_side / name)
    with pytest.raises(ShardError, match=message.format(re.escape(str(finished_side / name)))):
        shard.main(["--verify", str(finished_side)])


def test_words_are_verified_with_the_rest(tiny, spm, tmp_path):
    side = tmp_path / "side"
    path = run(side, with_words(tmp_path / "d", "吾輩|は|猫‖犬|だ", "猫"), tiny.tokenizer)
    summary = {"documents": 2, "sentences": 3}
    (tmp_path / "summary.json").write_text(json.dumps(dict.fromkeys(SIDES, summary)))
    options = dict.fromkeys(SIDES, path) | {f"{name}_manifest": tmp_path / name / "manifest.json" for name in SIDES}
    options |= {
        "summary": tmp_path / "summary.json",
        "model": tiny.tokenizer["model"],
        "train_manifest": side / "manifest.json",
    }
    shard_manifest.main(Tiny.arguments(NoKnobs(), **options))
    shard.main(["--verify", str(side)])
    flip(path.with_suffix(".words"))
    with pytest.raises(ShardError, match=r"train\.words has the SHA-256 .* says .*; remove both"):
        shard.main(["--verify", str(side)])


def test_another_tokenizer_is_found(tiny, finished_side, tmp_path):
    other = enlarged(tiny, tmp_path, {"寿限無": 0})["model"]
    with pytest.raises(ShardError, match=r"manifest\.json is of the tokenizer with the SHA-256 .*large\.model has"):
        shard.main(["--verify", str(finished_side), "--model", str(other)])
    with pytest.raises(TokenizerError, match=r"large\.json is no SentencePiece model"):
        shard.main(["--verify", str(finished_side), "--model", str(other.with_suffix(".json"))])


def test_a_side_without_its_manifest_is_not_passed_over(finished_side, tmp_path):
    shutil.copytree(finished_side, tmp_path / "other")
    (tmp_path / "other/manifest.json").unlink()
    shutil.copytree(finished_side, tmp_path / "whole")
    with pytest.raises(ShardError, match=r"other has tokens but no manifest\.json; run shard_manifest again"):
        shard.main(["--verify", str(tmp_path)])


def test_an_index_that_does_not_fit_is_found_though_its_digest_is_right(finished_side):
    index = np.load(finished_side / "index.npy")
    index[0, 0] += 1
    np.save(finished_side / "index.npy", index)
    manifest = json.loads((finished_side / "manifest.json").read_text())
    manifest["indexes"][0]["sha256"] = digest(finished_side / "index.npy")
    (finished_side / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match=r"test: index\.npy does not say where the documents of 000\.bin end"):
        shard.main(["--verify", str(finished_side)])


def test_counts_that_the_files_do_not_have_are_found(finished_side):
    manifest = json.loads((finished_side / "manifest.json").read_text())
    manifest["byte_tokens"] += 1
    (finished_side / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match=r"manifest\.json says [0-9,]+ byte_tokens, the files have"):
        shard.main(["--verify", str(finished_side)])


def test_a_folder_without_shards_is_an_error_and_so_is_a_command_without_files(tmp_path, capsys):
    with pytest.raises(ShardError, match=r"there is no manifest\.json in .* or below it"):
        shard.main(["--verify", str(tmp_path)])
    with pytest.raises(SystemExit):
        shard.main(["--train", "a"])
    assert "are needed (or --verify)" in capsys.readouterr().err
