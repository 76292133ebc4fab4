import unicodedata
from typing import get_args

import pytest
from tiny import DIFFICULT

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
    assert set(names) == {"nfkc", "none"}
    for name in names:
        assert normaliser.build(name).normalize_str("猫") == "猫"
