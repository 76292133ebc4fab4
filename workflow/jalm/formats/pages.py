"""A page of the report: HTML with all that it shows inside, so that it can be moved, mailed and opened offline.

Japanese in it shows on machines without a font for it: the characters of IPAexGothic that occur travel with the page.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from jalm.formats import figures

CJK = "\u2e80"  # the first radical; Latin, and punctuation that is common to all, are left to the reader's own font
STYLE = """
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1.25rem 4rem; color: #1f2937; background: #fff;
  font: 15px/1.55 page, system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .4rem; padding-top: .9rem; border-top: 1px solid #e5e7eb; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
p { margin: .4rem 0; max-width: 46rem; }
.lead { font-size: 1.05rem; color: #4b5563; }
.note { color: #6b7280; font-size: .9rem; }
.none { color: #92400e; background: #fffbeb; border-left: 3px solid #f59e0b; padding: .35rem .7rem; }
figure { margin: 1rem 0 1.4rem; overflow-x: auto; }
figure img { display: block; width: 100%; min-width: 34rem; height: auto; }
figcaption { color: #6b7280; font-size: .9rem; }
.scroll { overflow-x: auto; margin: .7rem 0 1.2rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; vertical-align: top; border-bottom: 1px solid #e5e7eb; white-space: nowrap; }
th { color: #6b7280; font-weight: 600; vertical-align: bottom; white-space: normal; }
.text { text-align: left; }
td.text { white-space: normal; min-width: 7rem; overflow-wrap: anywhere; }
td.text:last-child { min-width: 15rem; }
td:first-child { white-space: nowrap; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.1rem 0; }
.card { flex: 1 1 9.5rem; border: 1px solid #e5e7eb; border-radius: .5rem; padding: .7rem .9rem; }
.card b { display: block; font-size: 1.45rem; line-height: 1.3; }
.card span { color: #6b7280; font-size: .88rem; }
.chips { display: flex; flex-wrap: wrap; gap: .35rem; margin: .5rem 0; padding: 0; list-style: none; }
.chips li { background: #f3f4f6; border-radius: .35rem; padding: .1rem .5rem; overflow-wrap: anywhere; }
.chips small { color: #6b7280; margin-left: .4rem; }
.sample { border-left: 3px solid #d1d5db; padding: .3rem .9rem; margin: .9rem 0; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.75; }
.sample b { background: #eff6ff; border-radius: .2rem; padding: .05rem .15rem; }
.bar { display: inline-block; height: .7rem; border-radius: .15rem; vertical-align: middle; margin-right: .4rem; }
@media print { h2 { break-after: avoid; } figure, .sample { break-inside: avoid; } }
"""


class Html(str):
    """Text that is HTML already."""


def html(value: object) -> Html:
    """A value as HTML: what is no HTML is escaped."""
    return value if isinstance(value, Html) else Html(escape(str(value)))


def tag(name: str, *content: object, **attributes: str) -> Html:
    """An element; `class_` is its class."""
    told = "".join(f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{told}>{''.join(map(html, content))}</{name}>")


def join(parts: Iterable[object]) -> Html:
    """Parts one after the other."""
    return Html("\n".join(map(html, parts)))


def paragraph(*content: object, kind: str = "") -> Html:
    """A paragraph; `kind` is lead, note or none (what is said in place of what is not there)."""
    return tag("p", *content, **({"class_": kind} if kind else {}))


def table(head: Sequence[str], rows: Iterable[Sequence[object]], text: int = 1) -> Html:
    """A table, whose first `text` columns are words and the others numbers."""

    def row(name: str, cells: Sequence[object]) -> Html:
        return tag("tr", *(tag(name, cell, **({"class_": "text"} if n < text else {})) for n, cell in enumerate(cells)))

    body = [row("td", cells) for cells in rows]
    return tag("div", tag("table", tag("thead", row("th", head)), tag("tbody", *body)), class_="scroll")


def figure(drawn: str, title: str, caption: object = "") -> Html:
    """A drawing; `title` says in words what it shows."""
    source = "data:image/svg+xml;base64," + base64.b64encode(drawn.encode()).decode()
    image = Html(f'<img src="{source}" alt="{escape(title)}" title="{escape(title)}">')
    return tag("figure", image, *([tag("figcaption", caption)] if caption else []))


def cards(numbers: Iterable[tuple[str, str]]) -> Html:
    """Main figures, each with what it is of."""
    return tag(
        "div",
        *(tag("div", tag("b", number), tag("span", what), class_="card") for number, what in numbers),
        class_="cards",
    )


def page(title: str, *content: object) -> str:
    """The whole page."""
    body = join([tag("h1", title), *content])
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_font(body)}{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _font(text: str) -> str:
    """A font face with the characters of `text` from CJK on; nothing if there is none.

    It stands first in the list of fonts: Chromium, having found once that those before it lack a character, does not ask it
    again on the next page.
    """
    wanted = {ord(char) for char in text if char >= CJK}
    if not wanted:
        return ""
    from fontTools import subset
    from fontTools.ttLib import TTFont

    font = TTFont(figures.japanese_font(), lazy=True, recalcTimestamp=False)
    subsetter = subset.Subsetter(subset.Options(layout_features=[], name_IDs=[], hinting=False, notdef_outline=True))
    subsetter.populate(unicodes=wanted)
    subsetter.subset(font)
    font.flavor = "woff"
    written = io.BytesIO()
    font.save(written)
    source = base64.b64encode(written.getvalue()).decode()
    return f'@font-face {{ font-family: page; unicode-range: U+{ord(CJK):X}-2FFFF; src: url("data:font/woff;base64,{source}"); }}'
