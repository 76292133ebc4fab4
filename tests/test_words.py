import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jalm.formats import words

WAKATI = words.wakati("unidic-lite")


def cut(sentence: str) -> list[str]:
    ends = list(itertools.accumulate(words.lengths(sentence, WAKATI), initial=0))
    assert ends[-1] == len(sentence)
    return [sentence[begin:end] for begin, end in itertools.pairwise(ends)]


@pytest.mark.parametrize(
    "marked",
    [
        "吾輩|は|猫|で|ある|。",
        "「|え|？|」|と|彼女|は|言っ|た|。",
        "価格|は|1|,|234|円|だ",
        "ひらがな| |English| |words|\u3000",
        "名前|は| \t|まだ|無い|。|\r",
        "零|\0|字",
        " ",
    ],
)
def test_words_are_those_of_unidic_and_white_space_between_them(marked):
    assert cut(marked.replace("|", "")) == marked.split("|")


def test_nothing_at_all_has_no_words():
    assert cut("") == []


@given(
    st.text(st.characters(codec="utf-8"), min_size=1)
    | st.text(st.sampled_from("。｡「あア1,A \u3000\t\r\n\u2028\x85\0😀"))
)
def test_the_words_of_any_sentence_give_it_back(sentence):
    assert all(cut(sentence))


def test_fugashi_never_sees_more_than_it_can_bear():
    seen = []
    sentence = "吾輩は　猫である" * 30_000  # 240,000 characters; a call with a few times as many crashes
    found = words.lengths(sentence, lambda text: seen.append(len(text)) or WAKATI(text))
    assert sum(found) == len(sentence)
    assert seen == [100_000, 100_000, 40_000]
