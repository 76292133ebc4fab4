"""Figures: how they look is for eyes; here is what a picture must not get wrong."""

import math
import re
import warnings

import pytest

from jalm.formats import figures


@pytest.fixture(autouse=True)
def strict():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)
        yield


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "0"), (0.0123, "0.0123"), (999, "999"), (999.9, "1k"), (1500, "1.5k"), (2e7, "20M"), (3e9, "3B")],
)
def test_numbers_on_axes_are_short(number, told):
    assert figures.short(number) == told


def test_what_no_font_has_becomes_a_geta_mark():
    assert figures.printable("吾輩は猫である。ｶﾞ 𠮷 🙂 한") == "吾輩は猫である。ｶﾞ 〓 〓 〓"
    assert figures.printable("été – α") == "été – α"


@pytest.mark.parametrize("count", [1, 8, 9, 40])
def test_each_model_has_a_colour_of_its_own(count):
    made = figures.colours(f"model-{number}" for number in range(count))
    assert len(set(made.values())) == count
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in made.values())


def test_a_figure_is_the_same_bytes_each_time_and_has_no_date():
    steps = [("取り込み", 10, "total"), ("𠮷", 4, "dropped"), ("train", 6, "#0072b2")]
    drawn = figures.waterfall(steps)
    assert drawn == figures.waterfall(steps)
    assert "<text" not in drawn
    assert "<dc:date>" not in drawn


def curve(drawn: str) -> str:
    return max(re.findall(r'<path d="([^"]*)" clip-path', drawn), key=len)


def test_a_long_curve_becomes_means_in_a_band():
    x = list(range(1, 100_001))
    panel = figures.Panel("loss", {"a": (x, [math.sin(n) for n in x])})
    drawn = figures.curves([panel], {"a": "#0072b2"})
    assert len(drawn) < 60_000
    assert curve(drawn).count("L") < 2 * figures.POINTS


def test_null_and_infinite_values_are_gaps_not_crashes():
    points = ([1, 2, 3, 4], [math.nan, math.inf, 2.0, 3.0])
    panels = [figures.Panel("norm", {"a": points}, log=True), figures.Panel("loss", {"a": points}, settled=True)]
    assert curve(figures.curves(panels, {"a": "#0072b2"})).count("L") == 1


def test_a_part_of_a_block_without_a_loss_is_a_gap_and_the_others_keep_their_places(monkeypatch):
    from matplotlib.axes import Axes

    plotted, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, *what, **look: (plotted.append(what), plot(self, *what, **look))[1])
    figures.positions({"a": [3.0, 2.0, None, None], "b": [None] * 4}, {"a": "#0072b2", "b": "#d55e00"})
    (at, first, _), (_, second, _) = plotted
    assert (at, first[:2]) == ([12.5, 37.5, 62.5, 87.5], [3.0, 2.0])
    assert all(map(math.isnan, first[2:] + second))


def test_a_panel_without_a_number_says_so(monkeypatch):
    from matplotlib.axes import Axes

    said = []
    monkeypatch.setattr(Axes, "text", lambda self, x, y, text, **look: said.append(text))
    figures.curves([figures.Panel("loss", {"a": ([1], [math.nan])}, settled=True)], {"a": "#0072b2"})
    assert said == ["no measurements"]


def test_the_heights_that_a_training_comes_down_from_are_left_out():
    low, high = figures._settled([([1, 50, 100], [11.0, 4.0, 3.0])])
    assert (low, high) == pytest.approx((2.94, 4.06))
    assert figures._settled([([1], [2.0])]) is None
    assert figures._settled([]) is None


def test_bars_and_shares_of_nothing_are_drawn():
    assert figures.bars({"GiB": ({"a": 0.0, "b": math.nan}, figures.short)}, "#0072b2")
    assert figures.stacked({"a": {"kanji": 0, "kana": 0}})
    assert figures.waterfall([("taken in", 0, "total")])
