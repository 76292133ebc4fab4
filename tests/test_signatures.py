import hashlib
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jalm.formats import signatures

TEXT = "".join(f"第{n}条　{n * n}人が「なるほど。」と言った、と{n % 7}年の記録にある。" for n in range(200))


def digest(text: str) -> str:
    return signatures.digest(signatures.normalised(text))


def grams(text: str, n: int = 5) -> set[str]:
    return {text[i : i + n] for i in range(len(text) - n + 1)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ｶﾞｷﾞｸﾞ、123", "ガギグ、１２３"),
        ("一行目。\n二行目", "一行目。　二行目\t "),
        ("㍿㌔①", "株式会社キロ1"),
        ("\u304b\u3099", "が"),
    ],
)
def test_texts_that_differ_in_width_form_or_white_space_share_a_digest(one, other):
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("江戸時代。", "江戸時代"),
        ("「はい」", "『はい』"),
        ("あ", "ア"),
        ("ハハ", "パパ"),
        ("JALM", "jalm"),
        ("1,234人", "1234人"),
        ("終わり😀", "終わり"),
    ],
)
def test_texts_that_differ_in_anything_else_do_not(one, other):
    assert digest(one) != digest(other)


def test_it_is_a_digest_of_128_bits_that_any_program_can_repeat():
    told = subprocess.run(["b2sum", "-l", "128"], input="「ガ」株式会社".encode(), capture_output=True, check=True)
    assert digest("「ｶﾞ」 ㍿\n") == told.stdout.split()[0].decode()


# ---- MinHash


def shared_values(one: str, other: str, num_perm: int = 1024) -> float:
    a, b = (signatures.minhash(text, 5, num_perm) for text in (one, other))
    return float((a == b).mean())


@pytest.mark.parametrize("cut", [20, 300, 1500, 4000])
def test_two_texts_share_as_many_values_as_their_ngrams_have_in_common(cut):
    other = TEXT[cut:] + TEXT[:100].replace("人", "匹")
    jaccard = len(grams(TEXT) & grams(other)) / len(grams(TEXT) | grams(other))
    assert abs(shared_values(TEXT, other) - jaccard) < 4 * (0.25 / 1024) ** 0.5


@pytest.mark.parametrize("length", [20, 60, 150])
def test_a_text_with_fewer_ngrams_than_values_is_compared_as_well(length):
    pairs = [(TEXT[i : i + length], TEXT[i + length // 10 : i + length + length // 10]) for i in range(0, 4000, 100)]
    error = [shared_values(a, b, 128) - len(grams(a) & grams(b)) / len(grams(a) | grams(b)) for a, b in pairs]
    assert abs(np.mean(error)) < 0.05


def test_texts_without_a_common_ngram_share_next_to_nothing():
    assert shared_values(TEXT, "".join(chr(ord("a") + n * n % 26) * (n % 3 + 1) for n in range(5000))) < 0.01


@given(st.text(max_size=30), st.integers(1, 9), st.integers(1, 300))
def test_any_text_has_a_minhash_of_the_length_that_is_asked_for(text, ngram, num_perm):
    made = signatures.minhash(text, ngram, num_perm)
    assert made.shape == (num_perm,)
    assert made.dtype == np.uint16
    assert (made == signatures.minhash(text, ngram, num_perm)).all()


def test_a_minhash_is_the_same_on_every_machine():
    made = signatures.minhash(TEXT, 5, 128).astype("<u2").tobytes()
    assert hashlib.sha256(made).hexdigest()[:16] == "616374794b0b2203"


def test_a_line_of_signatures_keeps_the_side_of_its_own():
    document = {"id": "歌/1.txt", "title": "", "paragraphs": [["ｶﾞ。"]], "side": "test"}
    made = signatures.entry(document, 5, 16)
    assert made["id"] == "歌/1.txt"
    assert made["side"] == "test"
    assert made["digest"] == digest("ガ。")
    assert len(made["minhash"]) == 16 * 4
    del document["side"]
    assert "side" not in signatures.entry(document, 5, 16)
