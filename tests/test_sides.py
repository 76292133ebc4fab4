import subprocess

import pytest

from jalm.formats.sides import UnknownSide, drawn, side

QUARTER = {"valid_fraction": 0.25, "test_fraction": 0.375, "salt": "俳句"}


def blake2b(text: str) -> int:
    """BLAKE2b of a text, 64 bits, by coreutils."""
    told = subprocess.run(["b2sum", "-l", "64"], input=text.encode(), capture_output=True, check=True)
    return int(told.stdout.split()[0], 16)


@pytest.mark.parametrize("name", [1003, 2012, "歌 1.txt:18", "「ｶﾅ」/😀.txt"])
def test_the_side_is_decided_by_a_digest_that_any_program_can_repeat(name):
    share = blake2b(f"俳句:{name}") / 2**64
    want = "valid" if share < 0.25 else "test" if share < 0.25 + 0.375 else "train"
    assert drawn(name, **QUARTER) == want


def test_the_sides_have_the_shares_that_are_configured():
    count, shares = 20_000, {"valid": 0.1, "test": 0.25, "train": 0.65}
    sides = [drawn(number, valid_fraction=0.1, test_fraction=0.25, salt="jalm") for number in range(count)]
    for name, share in shares.items():
        deviation = (count * share * (1 - share)) ** 0.5
        assert abs(sides.count(name) - count * share) < 4 * deviation


def test_another_salt_draws_other_articles():
    one, other = ({**QUARTER, "salt": salt} for salt in ("俳句", "短歌"))
    both = sum(drawn(number, **one) == drawn(number, **other) == "valid" for number in range(10_000))
    assert abs(both - 10_000 * 0.25**2) < 4 * (10_000 * 0.0625 * 0.9375) ** 0.5  # as many as chance gives


def test_a_larger_share_takes_in_what_the_smaller_one_had():
    smaller, larger = ({**QUARTER, "valid_fraction": share} for share in (0.1, 0.2))
    held = {number for number in range(2000) if drawn(number, **smaller) == "valid"}
    assert held < {number for number in range(2000) if drawn(number, **larger) == "valid"}


def test_a_side_of_its_own_comes_before_the_hash():
    for own in ("train", "valid", "test"):
        assert side({"id": 1, "side": own}, **QUARTER) == own
    assert side({"id": 1}, **QUARTER) == drawn(1, **QUARTER)


def test_a_side_that_is_none_is_refused_with_the_document():
    with pytest.raises(UnknownSide, match=r"'歌\.txt' has the side 'dev', which is not train, valid or test"):
        side({"id": "歌.txt", "side": "dev"}, **QUARTER)
