import logging
import time
from pathlib import Path

import pytest
import unidic
import unidic_lite
from hypothesis import given
from hypothesis import strategies as st

from jalm import Fault
from jalm.formats import documents, words
from jalm.stages import segment

SPLITTER = segment.Splitter("unidic-lite")

NASTY = st.text(
    st.sampled_from("。｡．！？!?‼\ufe0f「」『』（）()｢｣“、…・とのがってだA1年本 \u3000\t\r\n\u2028\x85\0😀")
)


def sentences(paragraph: str) -> list[str]:
    (found,) = SPLITTER.paragraphs(paragraph)
    return found


def is_cut_at_the_bars(marked: str) -> bool:
    return sentences(marked.replace("|", "")) == marked.split("|")


# ---- where a sentence ends


@pytest.mark.parametrize(
    "marked",
    [
        "吾輩は猫である。|名前はまだ無い。",
        "本当ですか!?|ありがとうございます!!!|では、また。",
        "ﾎﾝﾄｳﾃﾞｽ｡|ﾊｲ｡",
        "本手法は有効である．|次に実験を述べる．",
        "どこ？　|ここ。",
        "楽しかったです！😀👨‍👩‍👧|また行く♪。|え⁉️|はい‼️|次へ。",
        "文末に句点がない。|最後の文",
    ],
)
def test_a_sentence_ends_with_its_terminals_and_the_space_after_them(marked):
    assert is_cut_at_the_bars(marked)


@pytest.mark.parametrize(
    "text",
    [
        "円周率は3.14、または３．１４である",
        "Ver. 2.0とＶｅｒ．２．０は同じものだ",
        "U.S.A.とＵ．Ｓ．Ａ．の違い",
        "Yahoo!ニュースとHey! Say! JUMPを見た",
        "生年は天正18年（1590年）? - 没年は1650年?とされる",
        "市川團蔵．．．．二代目藤川八蔵",
        "１．概要",
    ],
)
def test_a_terminal_inside_a_number_or_a_name_ends_nothing(text):
    assert sentences(text) == [text]


@pytest.mark.parametrize(
    "marked",
    [
        "モーニング娘。は1997年に結成された。|モーニング娘。のコンサートへ行く。",
        "作者は「モーニング娘。」、曲は『君の名は。』だ。|以上。",
        "大会は終了。|のちに再開された。",
        "式は中止。|はじめから決まっていた。",
    ],
)
def test_a_particle_after_a_name_that_ends_in_a_full_stop_carries_the_sentence_on(marked):
    assert is_cut_at_the_bars(marked)


@pytest.mark.parametrize(
    "marked",
    [
        "彼は「もう帰る。『またね。』と伝えて。」と言い残した。|そして去った。",
        "「え？」と彼女は言った。|「何？」|誰も答えない。",
        "「知らない。」|それを聞いて皆が笑った。",
        "「面白い！」という声があった。",
        "映画『君の名は。』では主役を務めた。",
        "お電話番号は何ですか？と質問されました。",
        "神は人なり。と説き、かつ、行う。|とはいえ、異説もある。|ところが、違った。",
        "「新選組!」の中では、坂本龍馬が出てくる。",
        "「行く。」|「来る。」|「どこへ？」|返事はない。",
    ],
)
def test_a_quotation_goes_on_as_long_as_particles_follow_it(marked):
    assert is_cut_at_the_bars(marked)


@pytest.mark.parametrize(
    "marked",
    [
        "酒は旨い（諸説ある。出典は不明。）が高い。|終わり。",
        "終わった。|（続きは後述。）|次の話。",
        "登載されていた（明治15年禁止。)|(明治31年廃止。）",
        "平安時代（794年？）は長い。",
    ],
)
def test_a_note_in_brackets_is_part_of_the_sentence_that_it_stands_in(marked):
    assert is_cut_at_the_bars(marked)


@pytest.mark.parametrize(
    "marked",
    [
        "前の段落から続く台詞だ。」|彼は黙った。",
        "開いたままの「括弧。|次の文。",
        "1）準備する。|2）始める。",
        "（「）」という記号。|以上。",
    ],
)
def test_a_lone_bracket_is_text(marked):
    assert is_cut_at_the_bars(marked)


def test_a_line_break_always_ends_a_sentence_and_nothing_else_separates_paragraphs():
    text = "概要\n「開いた\n括弧」。\r次\u2028の行。\n\n・項目"
    assert SPLITTER.paragraphs(text) == [["概要"], ["「開いた"], ["括弧」。\r", "次\u2028の行。"], [], ["・項目"]]


def test_white_space_goes_with_the_sentence_before_it():
    assert sentences("\u3000一。 \u3000\t二。\u3000") == ["\u3000一。 \u3000\t", "二。\u3000"]


def test_nothing_at_all_is_a_paragraph_without_sentences():
    assert SPLITTER.paragraphs("") == [[]]
    assert SPLITTER.paragraphs("\n") == [[], []]


# ---- any text


@given(st.text() | NASTY)
def test_the_sentences_of_any_text_give_it_back(text):
    paragraphs = SPLITTER.paragraphs(text)
    assert documents.text({"paragraphs": paragraphs}) == text
    assert all(sentence and "\n" not in sentence for sentences in paragraphs for sentence in sentences)


@given(NASTY, NASTY)
def test_where_a_paragraph_is_cut_depends_on_nothing_outside_it(text, other):
    assert SPLITTER.paragraphs(f"{other}\n{text}\n{other}")[other.count("\n") + 1 :][: text.count("\n") + 1] == (
        SPLITTER.paragraphs(text)
    )


@pytest.mark.parametrize(
    "unit",
    [
        "「",
        "」",
        "。",
        "。」",
        "「。",
        "「。」",
        "え？（",
        "「。」（",
        "（あ）",
        "、",
        " ",
        "（」",
        "x「A！」",
        "え？と",
    ],
)
def test_time_grows_with_the_length_of_a_line_only(unit):
    text = unit * 200_000
    begun = time.process_time()
    assert "".join(sentences(text)) == text
    assert time.process_time() - begun < 20  # s; a quadratic scan takes many minutes


def test_fugashi_sees_a_short_window_whatever_the_text(monkeypatch):
    seen = []
    parse = words.tagger("unidic-lite")
    monkeypatch.setattr(words, "tagger", lambda dictionary: lambda window: seen.append(window) or parse(window))
    segment.Splitter("unidic-lite").paragraphs("何？" + "と言う" * 100_000 + "「無い。」の\nはず")
    assert [len(window) for window in seen] == [13, 2]


def test_the_gold_paragraphs_are_cut_as_people_cut_them(shared):
    hits = found = wanted = hard = exact = 0
    for case in documents.read(shared / "data/gold/sentences.jsonl.zst"):
        lines = ends(case["text"].split("\n"))
        here = ends(s for paragraph in SPLITTER.paragraphs(case["text"]) for s in paragraph) - lines
        gold = ends(case["sentences"]) - lines
        hits, found, wanted = hits + len(here & gold), found + len(here), wanted + len(gold)
        if case["domain"] == "wiki_hard":
            hard, exact = hard + 1, exact + (here == gold)
    assert 2 * hits / (found + wanted) >= 0.994
    assert exact / hard >= 0.93


def ends(pieces) -> set[int]:
    """Places where pieces end, counted in characters that are no white space."""
    places, place = set(), 0
    for piece in pieces:
        place += len("".join(piece.split()))
        places.add(place)
    return places


# ---- the dictionary


def test_a_folder_with_a_compiled_dictionary_works_whatever_its_name(tmp_path):
    folder = tmp_path / "辞書 3.1"
    folder.symlink_to(unidic_lite.DICDIR)
    assert segment.Splitter(str(folder)).paragraphs("「え？」と言う。はい。") == [["「え？」と言う。", "はい。"]]


def test_a_folder_without_a_dictionary_is_named(tmp_path):
    with pytest.raises(Fault, match=f"{tmp_path} is no compiled dictionary"):
        segment.Splitter(str(tmp_path))


def test_an_unidic_that_was_not_downloaded_is_reported_with_its_remedy_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(unidic, "DICDIR", str(tmp_path / "dicdir"))
    with pytest.raises(Fault, match=r"python -m unidic download.*unidic-lite"):
        segment.main(["--dictionary", "unidic", "--input", "missing", "--output", str(tmp_path / "output")])


# ---- the stage


def test_paragraphs_take_the_place_of_the_text_and_all_else_stays(tmp_path, caplog):
    taken, made = tmp_path / "taken.jsonl.zst", tmp_path / "made" / "000.jsonl.zst"
    page = {"id": 5, "revision": 7, "title": "猫", "text": "猫\n吾輩は猫である。名前はまだ無い。\n", "source": "試験"}
    empty = {"id": 6, "title": "空", "text": ""}
    with documents.writing(taken) as writer:
        writer.write(page)
        writer.write(empty)
    with caplog.at_level(logging.INFO):
        segment.main(["--dictionary", "unidic-lite", "--input", str(taken), "--output", str(made)])
    first, second = documents.read(made)
    assert list(first) == ["id", "revision", "title", "paragraphs", "source"]
    assert first["paragraphs"] == [["猫"], ["吾輩は猫である。", "名前はまだ無い。"], []]
    assert [documents.text(document) for document in (first, second)] == [page["text"], ""]
    assert "2 documents in, 2 documents, 3 sentences out" in caplog.text
    assert [path.name for path in Path(made).parent.iterdir()] == [made.name]


def test_lengths_of_words_stand_beside_the_paragraphs_when_asked_for(tmp_path):
    taken, made = tmp_path / "taken.jsonl.zst", tmp_path / "made.jsonl.zst"
    with documents.writing(taken) as writer:
        writer.write({"id": 5, "title": "猫", "text": "猫\n\n吾輩は猫である。名前はまだ無い。"})
    segment.main(["--dictionary=unidic-lite", "--words=true", "--input", str(taken), "--output", str(made)])
    assert list(documents.read(made)) == [
        {
            "id": 5,
            "title": "猫",
            "paragraphs": [["猫"], [], ["吾輩は猫である。", "名前はまだ無い。"]],
            "words": [[[1]], [], [[2, 1, 1, 1, 2, 1], [2, 1, 2, 2, 1]]],
        }
    ]
