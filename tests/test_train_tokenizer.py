import io
import itertools
import json
import logging
import random
import sys
import unicodedata

import pytest
import sentencepiece
import zstandard
from sentencepiece import sentencepiece_model_pb2
from tiny import DIFFICULT, Tiny
from tokenizers import Tokenizer

from jalm.config import TrainTokenizer
from jalm.formats import documents, normaliser, tokenizer, words
from jalm.formats.tokenizer import TokenizerError
from jalm.knobs import ConfigError
from jalm.stages import train_tokenizer
from jalm.stages.train_tokenizer import (
    Draw,
    SampleError,
    VocabularyError,
    check_loaded,
    rank,
    sample,
    sentences,
    train,
)

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
    2: (
        "んア 大りはす うトも大 人た゚ 人れ 👨‍👩‍👧 ううを 𠮷野家 ?」 坂の上 ゚をに日 ゚ハまハ をス ちんア らてを んアんア キロメートル 川川 "
        "ましく 年まち んアち らうた 本んア れん りのにを ちく山 う゚き 大りはすんア ゚りのを",
        [-217 / 64, -251 / 64, -270 / 64, -276 / 64, -278 / 64, -288 / 64, -293 / 64, -294 / 64],
    )
}


def config(**knobs) -> TrainTokenizer:
    return TrainTokenizer(
        **{"corpora": ["wiki"], "vocab_size": 420, "character_coverage": 0.9995, "num_threads": 1} | knobs
    )


def write(path, lines, size=10):
    """Documents of `size` sentences each."""
    with documents.writing(path) as writer:
        for start in range(0, len(lines), size):
            writer.write({"id": start, "title": "", "paragraphs": [lines[start : start + size]]})
    return path


def pieces_of(model: bytes) -> list[tuple[str, float]]:
    return [(piece.piece, piece.score) for piece in sentencepiece_model_pb2.ModelProto.FromString(model).pieces]


# ---- the sample


def ids(corpora: dict, **knobs) -> list:
    """Ids of the documents drawn from these files, in the order in which they are drawn."""
    drawn, _ = sample(corpora, config(**knobs))
    return [document["id"] for _, document in drawn]


def shown(limit: float, *documents_of: tuple[int, int]) -> list[int]:
    """Ranks that are drawn of documents of these ranks and sizes."""
    draw = Draw(limit)
    for place, size in documents_of:
        draw.show("wiki", place, {"text": "a" * size})
    return sorted(-entry[0] for entry in draw.close())


SIZES = [(50, 10), (10, 40), (30, 30), (20, 20)]  # in order of rank: 40, 20, 30, 10 bytes


@pytest.mark.parametrize("order", list(itertools.permutations(SIZES)), ids=str)
def test_documents_are_drawn_until_the_limit_is_reached_in_whatever_order_they_come(order):
    assert shown(1000, *order) == shown(100, *order) == [10, 20, 30, 50]
    assert shown(99, *order) == shown(90, *order) == [10, 20, 30]
    assert shown(89, *order) == shown(60, *order) == [10, 20]  # not 50, which would fit
    assert shown(59, *order) == shown(40, *order) == [10]


def test_at_least_one_document_is_drawn():
    assert shown(5, (9, 1), (7, 100)) == shown(5, (7, 100), (9, 1)) == [7]


def test_what_is_shown_is_drawn_as_if_all_had_been_sorted():
    draw = random.Random(3)
    for _ in range(200):
        documents_of = [(place, draw.randrange(1, 50)) for place in draw.sample(range(10_000), draw.randrange(1, 80))]
        limit, expected, taken = draw.randrange(1, 2000), [], 0
        for place, size in sorted(documents_of):
            if expected and taken + size > limit:
                break
            expected, taken = [*expected, place], taken + size
        assert shown(limit, *documents_of) == expected


def test_no_more_than_the_sample_and_one_document_is_kept():
    draw = Draw(1000)
    for number in range(5000):
        draw.show("wiki", rank("wiki", number, "jalm"), {"text": "a" * 100})
        assert draw.bytes <= 1100
    assert len(draw.close()) == 10


def test_the_sample_does_not_depend_on_the_order_of_the_files(tiny):
    parts = tiny.documents["train"]
    there, back = (ids({"wiki": paths}, sample_mb=0.05) for paths in (parts, parts[::-1]))
    everything = [document["id"] for path in parts for document in documents.read(path)]
    assert there == back
    assert set(there) < set(everything)
    assert len(there) > 5


def test_the_sample_fills_its_megabytes_and_no_more(tiny):
    drawn, counts = sample({"wiki": tiny.documents["train"]}, config(sample_mb=0.05))
    taken = [len(documents.text(document).encode()) for _, document in drawn]
    longest = max(len(documents.text(d).encode()) for path in tiny.documents["train"] for d in documents.read(path))
    assert 50_000 - longest < sum(taken) <= 50_000
    everything = sum(1 for path in tiny.documents["train"] for _ in documents.read(path))
    assert counts == {"wiki": {"of_documents": everything, "documents": len(taken), "bytes": sum(taken)}}


def test_another_seed_draws_other_documents(tiny):
    one, other = (set(ids({"wiki": tiny.documents["train"]}, sample_mb=0.05, seed=seed)) for seed in ("1", "2"))
    assert one - other
    assert other - one


def test_a_document_keeps_its_rank_when_others_come():
    ranks = {number: rank("jawiki", number, "jalm") for number in range(1000)}
    assert len(set(ranks.values())) == 1000
    assert max(ranks.values()) < 2**64
    assert rank("jawiki", "12", "jalm") == ranks[12] != rank("jawiki", 12, "other")


def test_documents_of_two_corpora_are_drawn_apart_though_their_ids_are_the_same():
    def first(corpus):
        return sorted(range(1000), key=lambda number: rank(corpus, number, "jalm"))[:500]

    both = set(first("jawiki")) & set(first("jawikinews"))
    assert 200 < len(both) < 300


@pytest.fixture
def two(tmp_path):
    """A corpus of 300 documents and one of 30, of 100 bytes each."""
    made = {}
    for corpus, count in (("多", 300), ("少", 30)):
        made[corpus] = [tmp_path / f"{corpus}.jsonl.zst"]
        with documents.writing(made[corpus][0]) as writer:
            for number in range(count):
                writer.write({"id": number, "paragraphs": [["a" * 100]]})
    return made


def drawn_from(files: dict, **knobs) -> dict[str, int]:
    """Documents drawn from each corpus."""
    return {corpus: n["documents"] for corpus, n in sample(files, config(**knobs))[1].items()}


def test_a_list_of_corpora_is_one_heap_of_documents(two):
    drawn = drawn_from(two, corpora=["多", "少"], sample_mb=0.0165)  # half of all
    assert drawn["多"] + drawn["少"] == 165
    assert 8 <= drawn["少"] <= 22
    assert drawn_from(two, corpora=["少", "多"], sample_mb=0.0165) == drawn


@pytest.mark.parametrize("weights", [{"多": 3, "少": 1}, {"少": 0.25, "多": 0.75}])
def test_weights_are_shares_of_the_sample(two, weights):
    assert drawn_from(two, corpora=weights, sample_mb=0.008) == {"多": 60, "少": 20}


def test_a_corpus_smaller_than_its_share_is_drawn_whole_and_once_and_said(two, caplog):
    with caplog.at_level(logging.INFO):
        assert drawn_from(two, corpora={"多": 1, "少": 1}, sample_mb=0.02) == {"多": 100, "少": 30}
    (line,) = [line for line in caplog.messages if "all of it" in line]
    assert line == "少: 3,000 bytes of text, where the sample has room for 10,000; all of it is in the sample, once"


def test_another_weight_takes_more_or_fewer_documents_of_the_same_order(two):
    def first(weight):
        drawn, _ = sample(two, config(corpora={"多": weight, "少": 1}, sample_mb=0.002))
        return [document["id"] for corpus, document in drawn if corpus == "多"]

    assert (len(first(1)), len(first(3))) == (10, 15)
    assert first(3)[:10] == first(1)


# ---- what SentencePiece is given


@pytest.mark.parametrize("text", ["㌖" * 20_000, "🍣" * 40_000, "あ" * 16_384, "短い。"], ids=lambda text: text[0])
def test_no_line_is_long_enough_to_be_dropped_by_sentencepiece(text):
    lines = list(sentences({"paragraphs": [[text]]}, normaliser.build("nfkc").normalize_str))
    assert max(len(line.encode()) for line in lines) <= 65_536
    assert "".join(lines) == text.replace("㌖", "キロメートル")


def test_a_sentence_is_cut_at_the_block_that_sentencepiece_reserves():
    document = {"paragraphs": [["▁▂▃▄▅▆▇█と並ぶ。", "▅▅次の文。▅", "▅"]]}
    assert list(sentences(document, str)) == ["▁▂▃▄", "▆▇█と並ぶ。", "次の文。"]


@pytest.mark.parametrize("paragraph", [["", "\r", "\r\r"], ["\n"]])
def test_what_sentencepiece_would_take_for_an_empty_line_is_none(paragraph):
    assert list(sentences({"paragraphs": [["前\r"], paragraph]}, str)) == ["前\r"]


def test_a_paragraph_without_sentences_gives_no_line():
    assert list(sentences({"paragraphs": [[], ["「」"], []]}, str)) == ["「」"]


NFKC = normaliser.build("nfkc").normalize_str
WAKATI = words.wakati("unidic-lite")


def test_words_are_those_of_the_normalised_sentence_as_at_inference():
    (line,) = sentences({"paragraphs": [["価格は㌖、ﾊﾟﾝｦ食べた。"]]}, NFKC, WAKATI)
    assert line.split("\t") == ["価格", "は", "キロメートル", "、", "パン", "ヲ", "食べ", "た", "。"]
    assert line.replace("\t", "") == "価格はキロメートル、パンヲ食べた。"


def test_stored_words_are_used_where_the_normaliser_changes_nothing():
    document = {"paragraphs": [["猫である。", "ﾊﾟﾝ"]], "words": [[[4, 1], [1, 1, 1]]]}
    assert list(sentences(document, NFKC, WAKATI)) == ["猫である\t。", "パン"]
    assert list(sentences({"paragraphs": document["paragraphs"]}, NFKC, WAKATI)) == ["猫\tで\tある\t。", "パン"]


def test_no_piece_goes_beyond_a_word_when_the_text_is_cut_into_words():
    parts = ["東京", "京都", "大学", "の", "猫", "が", "行く", "。"]
    draw = random.Random(2)
    lines = ["\t".join(draw.choices(parts, k=8)) for _ in range(2000)]
    free = pieces_of(train((line.replace("\t", "") for line in lines), config(vocab_size=350)))
    bound = pieces_of(train(iter(lines), config(vocab_size=313, pretokenizer="unidic")))

    def across(pieces):
        return [piece for piece, _ in pieces[7 + 256 :] if not any(piece in part for part in parts) and len(piece) > 1]

    assert len(across(free)) > 10
    assert across(bound) == []
    assert {"東京", "京都", "大学", "行く"} <= {piece for piece, _ in bound}


def test_the_same_characters_have_a_piece_whether_or_not_the_text_is_cut_into_words():
    def characters(lines, **knobs):
        model = train(lines, config(vocab_size=380, character_coverage=0.985, **knobs))
        return {piece for piece, _ in pieces_of(model)[7 + 256 :] if len(piece) == 1}

    plain = [line.replace("[CLS]", "") for line in LINES]  # SentencePiece makes a border of a control symbol
    cut = ["\t".join(line[i : i + 4] for i in range(0, len(line), 4)) for line in plain]
    assert characters(cut, pretokenizer="unidic") == characters(plain)
    assert len(characters(plain)) < len(set("".join(plain)) | set(tokenizer.SPELLING))


# ---- training


@pytest.mark.parametrize("line", ["▅が入った行", "あ" * 30_000], ids=["reserved", "long"])
def test_a_line_that_sentencepiece_leaves_out_is_an_error(line):
    with pytest.raises(SampleError, match=r"^SentencePiece loaded 600 of 601 lines \(.*(Reserved chars|too long)"):
        train(iter([*LINES, line]), config())


def test_a_log_that_does_not_say_how_many_lines_were_loaded_is_an_error():
    with pytest.raises(SampleError, match="loaded an unknown number of 5 lines"):
        check_loaded(5, "all lines are there")


def test_a_sample_without_a_sentence_is_an_error():
    with pytest.raises(SampleError, match="the sample has no sentence"):
        train(iter([]), config())


def test_what_sentencepiece_logs_is_not_shown(capfd):
    train(iter(LINES), config())
    print("次", file=sys.stderr)
    assert capfd.readouterr().err == "次\n"


def test_a_null_character_in_the_text_is_no_border_of_the_sample():
    lines = [line.replace("。", "\0。") for line in LINES]
    spm = sentencepiece.SentencePieceProcessor(model_proto=train(iter(lines), config()))
    assert spm.encode("\0", out_type=str) == ["<0x00>"]
    assert spm.decode(spm.encode("猫\0。")) == "猫\0。"


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
        train_tokenizer.main(
            [
                '--corpora=["a"]',
                "--character-coverage=0.97",
                "--documents",
                "a",
                "b",
                "--model=c",
                "--tokenizer=d",
                "--sample=e",
            ]
        )
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


def arguments(config, folder, **corpora) -> list[str]:
    """Command line of the stage, its files in `folder`."""
    argv = Tiny.arguments(config, **{name: folder / name for name in ("model", "tokenizer", "sample")})
    return argv + [str(word) for name, paths in corpora.items() for word in ("--documents", name, *paths)]


def test_it_says_what_was_trained_on(tmp_path):
    paths = [write(tmp_path / "0.jsonl.zst", LINES[:100]), write(tmp_path / "1.jsonl.zst", LINES[100:])]
    train_tokenizer.main(arguments(config(), tmp_path, wiki=paths))
    normalised = unicodedata.normalize("NFKC", "".join(LINES).replace("～", "〜"))
    assert json.loads((tmp_path / "sample").read_text(encoding="utf-8")) == {
        "corpora": {
            "wiki": {
                "of_documents": 60,
                "documents": 60,
                "bytes": len("".join(LINES).encode()),
                "lines": 600,
                "characters": len(normalised),
            }
        }
    }


def test_the_same_documents_in_other_parts_and_another_order_give_the_same_bytes(tmp_path):
    knobs = config(corpora={"甲": 2, "乙": 1}, sample_mb=0.03, num_threads=2)
    half, rest = LINES[:300], LINES[300:]
    whole = {name: [write(tmp_path / f"{name}.zst", lines)] for name, lines in (("甲", half), ("乙", rest))}
    cut = {}
    for name, (path,) in reversed(whole.items()):
        everything = list(documents.read(path))
        cut[name] = [tmp_path / f"{name}{part}.zst" for part in range(3)]
        for part, file in enumerate(cut[name]):
            with documents.writing(file) as writer:
                for document in everything[part::3][::-1]:
                    writer.write(document)
    made = []
    for number, corpora in enumerate((whole, cut)):
        folder = tmp_path / str(number)
        train_tokenizer.main(arguments(knobs, folder, **corpora))
        made.append([(folder / name).read_bytes() for name in ("model", "tokenizer", "sample")])
    assert made[0] == made[1]
    counts = json.loads(made[0][2])["corpora"]
    assert 0 < counts["甲"]["documents"] < counts["甲"]["of_documents"] == 30


def test_words_that_segment_stored_and_those_found_here_give_the_same_model(tmp_path):
    stored, bare, made = tmp_path / "stored.zst", tmp_path / "bare.zst", []
    for path in (stored, bare):
        with documents.writing(path) as writer:
            for number, line in enumerate(["㌖は長い。", *LINES]):
                document = {"id": number, "paragraphs": [[line]]}
                if path == stored:
                    document["words"] = [[words.lengths(line, WAKATI)]]
                writer.write(document)
        folder = path.with_suffix("")
        argv = arguments(config(pretokenizer="unidic", vocab_size=380), folder, wiki=[path])
        train_tokenizer.main([*argv, "--dictionary=unidic-lite"])
        made.append((folder / "model").read_bytes())
    assert made[0] == made[1]


def test_a_corpus_without_files_is_an_error(tmp_path):
    with pytest.raises(SampleError, match="--corpora has wiki, cc100, --documents was given for wiki"):
        train_tokenizer.main(arguments(config(corpora=["wiki", "cc100"]), tmp_path, wiki=["a"]))


def test_a_lone_surrogate_in_a_document_is_an_error_with_its_place(tmp_path):
    path = tmp_path / "0.jsonl.zst"
    line = b'{"id": 1, "paragraphs": [["\\ud83d"]]}\n'
    path.write_bytes(zstandard.compress(b'{"id": 0, "paragraphs": []}\n' + line))
    with pytest.raises(documents.DocumentError, match=r"0\.jsonl\.zst: line 2 is no JSON .*surrogate"):
        train_tokenizer.main(arguments(config(), tmp_path, wiki=[path]))


def test_an_own_model_is_used_in_place_of_a_trained_one(tmp_path):
    given = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=given, vocab_size=400, character_coverage=1.0, minloglevel=2
    )
    (tmp_path / "own.model").write_bytes(given.getvalue())
    path = write(tmp_path / "0.jsonl.zst", LINES)
    train_tokenizer.main([*arguments(config(), tmp_path, wiki=[path]), "--own", str(tmp_path / "own.model")])
    told = json.loads((tmp_path / "sample").read_text(encoding="utf-8"))
    assert (told["own_model"], told["lines"], told["corpora"]) == ("own.model", 59, {})
    exported = Tokenizer.from_file(str(tmp_path / "tokenizer"))
    theirs = sentencepiece.SentencePieceProcessor(model_proto=given.getvalue())
    order = sorted(range(0, 600, 10), key=lambda number: rank("wiki", number, "jalm"))
    paragraphs = ["".join(LINES[number : number + 10]) for number in order]
    pairs = ["\n".join(pair) for pair in itertools.pairwise(paragraphs)]
    pieces = [[theirs.id_to_piece(n) for n in theirs.encode(text)] for text in pairs]
    same = [exported.encode(text).tokens == cut for text, cut in zip(pairs, pieces, strict=True)]
    assert told["same_lines"] == sum(same)
    assert 0 < sum(same) < 59  # marks of half-width kana after kanji are not normalised alike
    assert exported.get_vocab_size() == len(pieces_of((tmp_path / "model").read_bytes()))


def test_an_own_file_that_is_no_model_is_one_message(tmp_path):
    path = write(tmp_path / "0.jsonl.zst", LINES[:10])
    with pytest.raises(TokenizerError, match="is no SentencePiece model"):
        train_tokenizer.main([*arguments(config(), tmp_path / "made", wiki=[path]), "--own", str(path)])
    assert not (tmp_path / "made").exists()


def test_a_failed_training_leaves_no_file(tmp_path):
    path = write(tmp_path / "0.jsonl.zst", LINES)
    with pytest.raises(VocabularyError):
        train_tokenizer.main(arguments(config(vocab_size=30000), tmp_path / "made", wiki=[path]))
    assert not (tmp_path / "made").exists()


def test_what_comes_out_is_what_was_recorded_for_this_recipe(tmp_path):
    """Where the pieces are meant to change, raise RECIPE and record what it gives."""
    path = write(tmp_path / "0.jsonl.zst", LINES)
    knobs = {"normalization": "nfkc", "split_digits": True, "seed": "jalm", "sample_mb": 0.03}
    train_tokenizer.main(arguments(config(vocab_size=400, **knobs), tmp_path, wiki=[path]))
    longer = [
        (piece, score) for piece, score in pieces_of((tmp_path / "model").read_bytes())[7 + 256 :] if len(piece) > 1
    ]
    pieces, scores = RECORDED[train_tokenizer.RECIPE]
    assert {piece for piece, _ in longer} == set(pieces.split())
    assert [score for _, score in longer[: len(scores)]] == pytest.approx(scores, abs=1 / 64)
