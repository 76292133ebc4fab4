"""Figures of the report as SVG: one look, one colour for each model, the same bytes each time.

Glyphs are paths, so that Japanese shows on a machine that has no font for it. A figure is drawn for a width that the page
can show and is as high as it has rows.
"""

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.6  # inches, of every figure
POINTS = (
    200  # most points of a curve, and a thousand those of a panel; between them lies the range of what they stand for
)
MISSING = "〓"  # what printers put where a character has no type
GREY, LIGHT, DROPPED = "#4b5563", "#d1d5db", "#c2410c"
# of Okabe and Ito, which the colour-blind can tell apart, without its yellow
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f3c8d", "#666666")

Curve = tuple[Sequence[float], Sequence[float]]


@dataclass
class Panel:
    """Curves that share an axis.

    Attributes:
        title: what they show, with the unit.
        curves: name of a model to its points; those without a number are left out.
        marked: whether each point is one measurement, to be seen as such.
        percent: whether values are in percent.
        zero: whether the axis begins at zero.
        log: whether the axis is logarithmic, if the values differ tenfold.
        settled: whether the axis leaves out the heights that the first tenth of a training comes down from.
    """

    title: str
    curves: Mapping[str, Curve]
    marked: bool = False
    percent: bool = False
    zero: bool = False
    log: bool = False
    settled: bool = False


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name, by its place."""
    import matplotlib

    names = list(names)
    if len(names) <= len(COLOURS):
        return dict(zip(names, COLOURS, strict=False))
    shades = matplotlib.colormaps["turbo"]
    return {
        name: matplotlib.colors.to_hex(shades(0.05 + 0.9 * number / (len(names) - 1)))
        for number, name in enumerate(names)
    }


def short(number: float) -> str:
    """A number in a few characters: 1.5k, 20M, 3B."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size * 0.9995:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def printable(text: str) -> str:
    """Text with 〓 in place of what no font of the figures has."""
    return "".join(
        char if char.isascii() or any(ord(char) in glyphs for glyphs in _glyphs()) else MISSING for char in text
    )


@cache
def japanese_font() -> str:
    """File of a font that has Japanese."""
    from matplotlib import rc_context

    with rc_context():  # the import sets the font of every figure of the process
        from matplotlib_fontja import get_font_ttf_path
    return get_font_ttf_path()


@cache
def _fonts() -> tuple[str, ...]:
    """Families that a glyph is looked for in, in this order."""
    from matplotlib import font_manager

    font_manager.fontManager.addfont(japanese_font())
    return "DejaVu Sans", "IPAexGothic"


@cache
def _glyphs() -> list[Mapping[int, int]]:
    from matplotlib import font_manager

    return [font_manager.get_font(font_manager.findfont(family)).get_charmap() for family in _fonts()]


def svg(height: float, draw: Callable[["Figure"], None]) -> str:
    """What `draw` draws, `height` inches high."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    look = {
        "svg.fonttype": "path",
        "svg.hashsalt": "jalm",
        "font.family": list(_fonts()),
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.titlepad": 8,
        "axes.edgecolor": LIGHT,
        "axes.labelcolor": GREY,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e5e7eb",
        "xtick.color": LIGHT,
        "ytick.color": LIGHT,
        "xtick.labelcolor": GREY,
        "ytick.labelcolor": GREY,
        "legend.frameon": False,
        "lines.solid_capstyle": "round",
    }
    with rc_context(look):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    # a tenth of a point is finer than any screen; curves are half as long
    return re.sub(r"(?<=[ML] )[-0-9.]+ [-0-9.]+", lambda place: _rounded(place[0]), written.getvalue())


def _rounded(place: str) -> str:
    return " ".join(f"{round(float(number), 1):g}" for number in place.split())


def curves(panels: Sequence[Panel], colour: Mapping[str, str], dashed: Iterable[str] = ()) -> str:
    """Panels of curves against tokens, two or three in a row, over one legend."""
    from matplotlib.lines import Line2D

    dashed = set(dashed)
    columns = 3 if len(panels) == 3 else min(2, len(panels))
    rows = math.ceil(len(panels) / columns)

    def draw(figure: "Figure") -> None:
        grid = figure.subplots(rows, columns, squeeze=False)
        for panel, axes in zip(panels, grid.flat, strict=False):
            for name, points in panel.curves.items():
                most = min(POINTS, 1000 // len(panel.curves))
                _curve(axes, *points, most, panel.marked, color=colour[name], linestyle="--" if name in dashed else "-")
            _finish(axes, panel)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        shown = [name for name in colour if any(name in panel.curves for panel in panels)]
        lines = [Line2D([], [], color=colour[name], linestyle="--" if name in dashed else "-") for name in shown]
        figure.legend(lines, map(printable, shown), loc="outside lower center", ncols=min(4, len(shown)))

    return svg(2.9 * rows + 0.4, draw)


def _curve(axes: "Axes", x: Sequence[float], y: Sequence[float], most: int, marked: bool, **style: str) -> None:
    """One curve; of one with more than `most` points the means of equal stretches, over the range of their values."""
    points = [(a, b) for a, b in zip(x, y, strict=True) if b is not None and math.isfinite(b)]
    if len(points) <= most:
        marker = {"marker": "o", "markersize": 3.5} if marked or len(points) == 1 else {}
        axes.plot(*zip(*points, strict=True), linewidth=1.5, **marker, **style) if points else None
        return
    ends = [len(points) * n // most for n in range(most + 1)]
    stretches = [points[a:b] for a, b in pairwise(ends)]
    at = [stretch[-1][0] for stretch in stretches]
    values = [[value for _, value in stretch] for stretch in stretches]
    axes.fill_between(at, list(map(min, values)), list(map(max, values)), color=style["color"], alpha=0.2, linewidth=0)
    axes.plot(at, [sum(few) / len(few) for few in values], linewidth=1.5, **style)


def _finish(axes: "Axes", panel: Panel) -> None:
    """Title, limits and units of a panel."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_title(printable(panel.title))
    axes.set_xlabel("tokens seen")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    least, most = axes.dataLim.intervaly
    if panel.log and 0 < 10 * least <= most:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
    unit = " %" if panel.percent else ""
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:.4g}{unit}" if value < 1000 else f"{short(value)}{unit}")
    )
    if panel.zero:
        axes.set_ylim(0, 1.06 * axes.get_ylim()[1])
    if panel.settled and (limits := _settled(panel.curves.values())):
        axes.set_ylim(*limits)
    if not axes.lines:
        axes.text(0.5, 0.5, "no measurements", transform=axes.transAxes, ha="center", color=GREY)
        axes.set_yticks([])


def _settled(curves: Iterable[Curve]) -> tuple[float, float] | None:
    """Limits that show all of the curves but the heights of their first tenth; None without a point after it."""
    late, least = [], []
    for x, y in curves:
        finite = [(a, b) for a, b in zip(x, y, strict=True) if b is not None and math.isfinite(b)]
        late += [b for a, b in finite if a >= 0.1 * x[-1]]
        least += [b for _, b in finite]
    if not late or max(late) == min(least):
        return None
    margin = 0.06 * (max(late) - min(least))
    return min(least) - margin, max(late) + margin


def positions(losses: Mapping[str, Sequence[float | None]], colour: Mapping[str, str]) -> str:
    """Losses (nats a token) in equal parts of a block, from its beginning to its end; None where there is none."""
    from matplotlib.ticker import FuncFormatter

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for name, values in losses.items():
            at = [100 * (part + 0.5) / len(values) for part in range(len(values))]
            told = [math.nan if value is None else value for value in values]
            axes.plot(at, told, "o-", color=colour[name], markersize=3.5, label=printable(name))
        axes.set_title("loss (nats a token)")
        axes.set_xlabel("place in the block, from its beginning")
        axes.set_xlim(0, 100)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))
        figure.legend(loc="outside lower center", ncols=min(4, len(losses)))

    return svg(3.1, draw)


def waterfall(steps: Sequence[tuple[str, int, str]]) -> str:
    """Amounts that come down step by step.

    Args:
        steps: label, amount and kind: `total` (what is there), `dropped` (what goes), or the colour of a part of what is left.
    """
    most = max(amount for _, amount, _ in steps) or 1

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        left = at = 0
        for row, (_, amount, kind) in enumerate(steps):
            if kind == "total":
                at, start, colour = amount, 0, "#9ca3af"
            elif kind == "dropped":
                at -= amount
                start, colour = at, DROPPED
            else:
                start, colour = left, kind
                left += amount
            axes.barh(row, amount, left=start, color=colour, height=0.68)
            sign = "−" if kind == "dropped" else ""
            share = "" if amount == most else f"  {amount / most:.1%}"
            axes.annotate(
                f"{sign}{amount:,}{share}",
                (start + amount, row),
                (5, 0),
                textcoords="offset points",
                va="center",
                color=GREY,
            )
        _rows(axes, [label for label, _, _ in steps])
        axes.set_xlim(0, most * 1.2)
        _counts(axes)

    return svg(0.32 * len(steps) + 0.7, draw)


def bars(
    panels: Mapping[str, tuple[Mapping[str, float], Callable[[float], str]]], colour: Mapping[str, str] | str
) -> str:
    """Bars with their values written beside them, a panel for each measure; panels have the same rows.

    Args:
        panels: title of a panel to the values of its rows, NaN where there is none, and how a value is written.
        colour: of each row, or of all.
    """
    rows = list(dict.fromkeys(row for values, _ in panels.values() for row in values))

    def draw(figure: "Figure") -> None:
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)
        for axes, (title, (values, form)) in zip(grid.flat, panels.items(), strict=True):
            known = {row: value for row, value in values.items() if math.isfinite(value)}
            for number, row in enumerate(rows):
                if row in known:
                    axes.barh(number, known[row], color=colour if isinstance(colour, str) else colour[row], height=0.68)
                text = form(known[row]) if row in known else "–"
                place = (known.get(row, 0), number)
                axes.annotate(text, place, (4, 0), textcoords="offset points", va="center", color=GREY)
            axes.set_title(printable(title))
            axes.set_xlim(0, 1.3 * max(known.values(), default=1) or 1)
            _counts(axes)
            _rows(axes, rows)

    return svg(0.32 * len(rows) + 0.9, draw)


def stacked(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Shares of the same parts in each row, as one bar, over a legend of the parts."""
    parts = list(dict.fromkeys(part for values in rows.values() for part in values))
    colour = colours(parts)

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for number, values in enumerate(rows.values()):
            left, whole = 0.0, sum(values.values()) or 1
            for part in parts:
                share = 100 * values.get(part, 0) / whole
                axes.barh(number, share, left=left, color=colour[part], height=0.68, label=None if number else part)
                if share >= 4:
                    place = (left + share / 2, number)
                    axes.annotate(f"{share:.0f} %", place, ha="center", va="center", color="white", fontsize=8)
                left += share
        _rows(axes, list(rows))
        axes.set_xlim(0, 100)
        _counts(axes, lambda value: f"{value:.0f} %")
        handles, _ = axes.get_legend_handles_labels()
        figure.legend(handles, map(printable, parts), loc="outside lower center", ncols=4)

    return svg(0.36 * len(rows) + 0.8 + 0.24 * math.ceil(len(parts) / 4), draw)


def dots(
    rows: Mapping[str, Mapping[str, float]],
    measures: Sequence[str],
    intervals: Mapping[str, Sequence[float]],
    colour: Mapping[str, str],
    label: str,
) -> str:
    """Several measures of the same thing in each row, as dots of their own shapes.

    Args:
        rows: name to the measures that it has, by their names.
        measures: names of all, in their order; the first is drawn solid.
        intervals: name to the low and high end of what its first measure may be.
        colour: of each name.
        label: of the axis, with the unit.
    """
    from matplotlib.lines import Line2D

    shapes = dict(zip(measures, "oDs^v*", strict=False))

    def dot(measure: str, color: str) -> dict[str, str | int]:
        first = measure == measures[0]
        return {"color": color, "markerfacecolor": color if first else "none", "zorder": 3 if first else 2}

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for number, (name, values) in enumerate(rows.items()):
            for measure, value in values.items():
                axes.plot(value, number, shapes[measure], markersize=7, **dot(measure, colour[name]))
            if name in intervals:
                ends = {"color": colour[name], "linewidth": 1.5, "markersize": 9, "zorder": 1}
                axes.plot(intervals[name], [number] * 2, "|-", **ends)
        _rows(axes, list(rows))
        axes.margins(x=0.08)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(label)
        handles = [
            Line2D([], [], linestyle="", marker=shape, **dot(measure, GREY)) for measure, shape in shapes.items()
        ]
        figure.legend(handles, map(printable, measures), loc="outside lower center", ncols=len(measures))

    return svg(0.4 * len(rows) + 1.2, draw)


def _rows(axes: "Axes", labels: Sequence[str]) -> None:
    """Names at the left, the first at the top."""
    axes.set_yticks(range(len(labels)), list(map(printable, labels)))
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _counts(axes: "Axes", form: Callable[[float], str] = short) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.grid(visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
