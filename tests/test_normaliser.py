import unicodedata
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import DIFFICULT
from tokenizers import Regex, normalizers

from jalm.config import TrainTokenizer
from jalm.formats import normaliser

NFKC = normaliser.build("nfkc").normalize_str


def test_the_wave_dash_stays_a_wave_dash():
    assert unicodedata.normalize("NFKC", "～") == "~"  # what it would become otherwise
    assert NFKC("１０～２０〜３０~") == "10〜20〜30~"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ﾊﾟﾋﾟﾌﾟ", "パピプ"),  # a half-width mark joins the kana before it
        ("ｶﾞｷﾞ､｡｢ｰ｣", "ガギ、。「ー」"),
        ("か\u3099は\u309a", "がぱ"),
        ("①㈱㍿㌖", "1(株)株式会社キロメートル"),
        ("全角　空白", "全角 空白"),
        ("Ａｂ１％", "Ab1%"),
        ("羽\ufa1e", "羽羽"),  # a compatibility ideograph
        ("ゝ々〆ヶ𠮷", "ゝ々〆ヶ𠮷"),
        ("", ""),
    ],
)
def test_width_and_compatibility_are_folded(text, expected):
    assert NFKC(text) == expected


@pytest.mark.parametrize("text", DIFFICULT, ids=range(len(DIFFICULT)))
def test_it_is_pythons_nfkc_but_for_the_wave_dash(text):
    assert NFKC(text) == unicodedata.normalize("NFKC", text.replace("～", "〜"))


@pytest.mark.parametrize("text", DIFFICULT, ids=range(len(DIFFICULT)))
def test_normalised_text_is_not_changed_again(text):
    assert NFKC(NFKC(text)) == NFKC(text)


@pytest.mark.parametrize("text", DIFFICULT, ids=range(len(DIFFICULT)))
def test_none_changes_nothing(text):
    assert normaliser.build("none").normalize_str(text) == text


def test_every_name_of_the_configuration_can_be_built():
    names = get_args(TrainTokenizer.model_fields["normalization"].annotation)
    assert set(names) == {"nfkc", "nfkc_lower", "none"}
    for name in names:
        assert normaliser.build(name).normalize_str("猫") == "猫"


# ---- the same, fast

BUILT = {name: normaliser.build(name) for name in normaliser.STEPS}
BUILT["as exported"] = normalizers.Sequence([normaliser.build("nfkc_lower"), normalizers.Replace(" ", "▁")])
FAST = {name: normaliser.Fast(built) for name, built in BUILT.items()}
RISKY = "か\u3099\u309aﾞﾟｶば㈱～①…Å\u030a\u0345\u0334\u0f71\u1100\u1161\u11a8각가ﾡ ﾂ　A\n😀𠮷\U000e0100\U0001d15e\u2126İßﬁ\u0958\u09be\u09c7"


@pytest.mark.parametrize("name", BUILT)
@given(texts=st.lists(st.text(st.one_of(st.sampled_from(RISKY), st.characters(exclude_categories=["Cs"]))), max_size=5))
def test_the_fast_normaliser_gives_what_the_normaliser_gives(name, texts):
    assert FAST[name](texts) == [BUILT[name].normalize_str(text) for text in texts]


def test_it_stands_for_those_only_that_look_at_one_character_and_its_marks():
    assert all(map(normaliser.by_character, BUILT.values()))
    for step in (normalizers.Replace("  ", " "), normalizers.Replace(Regex(r"\A "), ""), normalizers.Strip()):
        assert not normaliser.by_character(normalizers.Sequence([normaliser.build("nfkc"), step]))


def test_it_does_so_for_every_character_between_a_kana_and_a_mark():
    every = [chr(code) for code in range(0x30000) if chr(code) != "\n" and not 0xD800 <= code < 0xE000]
    texts = [f"か{character}\u3099" for character in every]
    texts += ["".join(map(chr, range(begin, begin + 256))) for begin in range(0x30000, 0x110000, 256)]
    assert FAST["nfkc"](texts) == NFKC("\n".join(texts)).split("\n")


def test_every_pair_of_characters_that_combine_or_change_places_comes_out_alike():
    risky = [*sorted(FAST["nfkc"].combining)[::5], *RISKY]
    text = "\n".join(a + b + "あ" for a in risky for b in risky)
    assert FAST["nfkc"]([text]) == [NFKC(text)]


def test_a_text_can_be_cut_before_any_character_that_combines_with_nothing():
    text = "".join(DIFFICULT) + RISKY
    cut = "".join("\0" + c if c not in FAST["nfkc"].combining else c for c in text).split("\0")
    assert "".join(map(NFKC, cut)) == NFKC(text.replace("\0", ""))
    assert len(cut) > len(text) / 2


def test_the_characters_that_combine_are_not_those_that_japanese_is_written_with():
    assert not set("あがパ漢字々ー。「」（）①ｱAé1,\u3000😀𠮷") & FAST["nfkc"].combining
    assert set("\u3099\u309aﾞﾟ\u0301") <= FAST["nfkc"].combining


def test_most_lines_need_no_normaliser_and_a_long_one_little_of_it():
    asked = []

    class Asked:
        def normalize_str(self, text):
            asked.append(text)
            return NFKC(text)

    fast = normaliser.Fast(Asked())
    asked.clear()
    assert fast(["吾輩は猫である（名前はまだ無い）。" * 1000, "ＡＢＣ～１２３"]) == [
        "吾輩は猫である(名前はまだ無い)。" * 1000,
        "ABC〜123",
    ]
    assert asked == []
    assert fast(["猫" * 1000 + "㈱" + "犬" * 1000 + "は\u3099"]) == ["猫" * 1000 + "(株)" + "犬" * 1000 + "ば"]
    assert asked == ["猫㈱", "は\u3099"]
