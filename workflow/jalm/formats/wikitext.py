"""Wikitext of the Japanese Wikipedia: the pass over it before wikiextractor, and the one over its text after it.

wikiextractor knows no Japanese template, keeps hardly a list item, marks headings with a full stop, loses what is in
<small> or <math>, and rewrites dots, quotation marks and spaces. So `prepare` resolves templates by a table, drops
tables, notes and apparatus, and leaves to wikiextractor what it is good at: links, files, categories, external links and
white space. What it would rewrite travels as private-use characters, and every line under a mark that says whether it is
a heading; `finish` takes both off again.

All scanning is linear in the length of the text, whatever stands in it.
"""

import html
import re
import string
from collections.abc import Iterator

from jalm.formats.templates import Rules

MAX_DEPTH = 40  # templates and links in each other, as in MediaWiki; braces beyond are dropped

# private-use characters that no article has (removed if one does)
SPECIAL = string.punctuation + " （）"
SHIELDED = {char: chr(0x10F000 + number) for number, char in enumerate(SPECIAL)}
SHIELD = str.maketrans(SHIELDED)
UNSHIELD = {shield: char for char, shield in SHIELDED.items()}
BREAK = "\U0010f100"  # a line break inside a line: a list item stays one line until the last step
MARK = "\U0010f101"  # begins a line, followed by its level: 1 to 6 for headings, 0 for anything else
EDGE = "\U0010f102"  # between quotes that do not belong together: a template stood there
PRIVATE = re.compile("[\U0010f000-\U0010f1ff]")


# ---- before wikiextractor


def is_redirect(wikitext: str) -> bool:
    """Whether the wikitext says that the page only points to another."""
    return bool(REDIRECT.match(wikitext))


def prepare(wikitext: str, title: str, rules: Rules, *, lists: bool = True) -> str:
    """Wikitext as wikiextractor shall see it; without `lists`, items after *, # and ; are left out."""
    text = ODD_LINES.sub("\n", PRIVATE.sub("", wikitext))
    text = MEANT.sub(lambda match: match[0].translate(SHIELD), text)
    if "<" in text:
        text = _elements(text)
    if "&" in text:
        text = ENTITY.sub(_character, text)
    if "sup" in text.lower():
        text = POWER.sub(lambda found: f"^{found[1] or found[2]}", text)
    if "<" in text:
        if "thumbcaption" in text:
            text = CAPTION.sub("", text)
        text = INLINE.sub("", BLOCK.sub(BREAK, RUBY.sub(r"（\1）", text)))
    text = _braces(text, title, rules)
    if "''" in text:
        text = QUOTES.sub("", text)
    if "__" in text:
        text = MAGIC.sub("", text)
    text = "\n".join(map(_sealed, _lines(CONTINUED.sub("", text), rules, lists)))
    return REWRITTEN.sub(lambda match: match[0].translate(SHIELD), text)


REDIRECT = re.compile(r"\s*#\s*(?:redirect|転送|リダイレクト)\s*:?\s*\[\[", re.IGNORECASE)
ODD_LINES = re.compile("[\r\x85\u2028\u2029]")

MEANT = re.compile(r"\(\)|（）|（[ \u3000]+）(?=内)")  # empty brackets that the article speaks of

ATTRIBUTES = r'\b(?:"[^"<\n]*"|[^<>])*+>'
# elements whose content shows nothing that is text, or must not be read as wikitext
OPAQUE = (
    "nowiki|math|chem|ce|ref|references|gallery|timeline|score|imagemap|inputbox|categorytree|templatestyles|templatedata"
    "|graph|chart|mapframe|maplink|hiero|indicator|table|pre|syntaxhighlight|source|rp|includeonly"
)
ELEMENT = re.compile(f"<(?:!--|(/?)({OPAQUE}){ATTRIBUTES})", re.IGNORECASE)
CLOSING = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in OPAQUE.split("|")}
# &amp;nbsp; is mostly a slip, and read as &nbsp;; &amp;lt; is meant to show
ENTITY = re.compile("&(?:amp;(?!(?:amp|lt|gt|quot);))?(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
CAPTION = re.compile(r"<div\b[^<>]*\bthumbcaption\b[^<>]*>[^<]*+(?:<(?!/?div\b)[^<]*+)*+</div\s*>", re.IGNORECASE)
# a power: the number must not run on into its exponent; others (m<sup>2</sup>, 1<sup>er</sup>) stay as they are
EXPONENT = r"\s*+(?:'')?([+−-]?(?:[0-9]{1,6}n?|n)(?:[+−-][0-9]{1,3})?)(?:'')?\s*"
POWER = re.compile(
    rf"(?<=[0-9])(?:<sup{ATTRIBUTES}{EXPONENT}</sup\s*>|\{{\{{\s*+sup\s*+\|{EXPONENT}\}}\}})", re.IGNORECASE
)
RUBY = re.compile(rf"<rt{ATTRIBUTES}([^<]*)(?:</rt\s*>)?", re.IGNORECASE)
BLOCK = re.compile(
    f"</?(?:br|hr|p|div|center|blockquote|poem|li|ul|ol|dl|dd|dt|tr|td|th|caption|h[1-6]){ATTRIBUTES}", re.IGNORECASE
)
INLINE = re.compile(  # others are text: <stdio.h>
    "</?(?:abbr|b|bdi|bdo|big|cite|code|data|del|dfn|em|font|i|ins|kbd|langconvert|mark|nobr|noinclude|onlyinclude|q|rb|rbc"
    f"|rt|rtc|ruby|s|samp|section|small|span|strike|strong|sub|sup|time|tt|u|var|wbr){ATTRIBUTES}",
    re.IGNORECASE,
)
TOKEN = re.compile(
    r"\[\[[^\[\]{}|\n:]*+(?:\|[^\[\]{}|]*+)?\]\]"  # a link that wikiextractor can read
    r"|\[(?:https?:|ftp:)?//[^\[\]{}\n]*+\]"
    r"|\{\{|\}\}|\[\[|\]\]|\|"
    r"|\n[ \t:*#]*+\{\||\n[ \t]*+\|(?=\})"  # a table's beginning and end (that of a template, if }} follows)
)
QUOTES = re.compile(f"'{{5}}|'{{2,3}}(?!')|{EDGE}")  # four are a quotation mark and bold
MAGIC = re.compile("__[A-Z]{3,}__|__[ぁ-んァ-ヶー一-龥]{2,}__")
CONTINUED = re.compile(
    "\n(?=[、，．）」』】]|(?<!。\n)。)"
)  # nobody begins a paragraph so: a note stood between the lines
LEFTOVER = re.compile(r"\|(?:[-+}|]|[^|]*(?:=|$))")  # of a table or a template; |x| is text
SINGLE = re.compile(r"(?<!\[)\[(?!\[)")
TERM = re.compile(r"((?:\[\[[^\[\]]*\]\]|[^:])*+):(?!//)")
# what wikiextractor would change: runs of dots, tags, entities, braces, quotation marks, spaces beside punctuation
REWRITTEN = re.compile(r'\.{4,}|[<>&{}]|""+|,[,.]|[(«] | (?=(?:\[\[(?:[^\[\]|\n]*+\|)?)?(?:[,:.)»]|\](?!\])))')


def _elements(text: str) -> str:
    """Text without comments and opaque elements; what they show as it is written (nowiki, math) is shielded."""
    pieces, position, unclosed = [], 0, set()
    while found := ELEMENT.search(text, position):
        pieces.append(text[position : found.start()])
        position = found.end()
        name = (found[2] or "").lower()
        if not name:
            end = text.find("-->", position)
            position = end + 3 if end >= 0 else len(text)  # as a browser does: an unclosed comment hides the rest
        elif not found[1] and not found[0].endswith("/>") and name not in unclosed:
            if closing := CLOSING[name].search(text, position):
                pieces.append(_shown(name, found[0], text[position : closing.start()]))
                position = closing.end()
            else:
                unclosed.add(name)
    pieces.append(text[position:])
    return "".join(pieces)


def _shown(name: str, tag: str, content: str) -> str:
    if name == "nowiki" or (name in ("syntaxhighlight", "source") and "inline" in tag):
        return html.unescape(content).translate(SHIELD)
    if name in ("math", "chem", "ce"):
        return " ".join(content.split()).translate(SHIELD)
    return BREAK if name in ("table", "pre") else ""


def _character(entity: re.Match) -> str:
    char = html.unescape(f"&{entity[1]};")
    return " " if char.isspace() else char.translate(SHIELD)


class _Frame:
    """Something open: a template, a link, a table, or (with no kind) the page."""

    __slots__ = ("kind", "parts", "pieces")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.parts: list[str] = []
        self.pieces: list[str] = []

    def cut(self) -> None:
        self.parts.append("".join(self.pieces))
        self.pieces.clear()

    def absorb(self, other: "_Frame") -> None:
        """Take over what stands in a frame that is never closed, as text."""
        other.cut()
        self.pieces.append("|".join(other.parts))


def _braces(text: str, title: str, rules: Rules) -> str:
    """Text with templates resolved, tables dropped, and no links but those that wikiextractor can read."""
    stack = [_Frame("")]
    text = "\n" + text
    position = 0
    while found := TOKEN.search(text, position):
        frame = stack[-1]
        frame.pieces.append(text[position : found.start()])
        position = found.end()
        sign = found[0]
        if sign == "|":
            if frame.kind in ("{{", "[["):
                frame.cut()
            else:
                frame.pieces.append(sign)
        elif sign in ("{{", "[["):
            if len(stack) < MAX_DEPTH:
                stack.append(_Frame(sign))
        elif sign == "}}":
            if parts := _closed(stack, "{{", over=("[[", "{|")):
                left = rules.template(parts, title)
                # its quotes must not meet those around it
                left = QUOTES.sub("", left).replace("'", SHIELDED["'"])
                if not left and text.startswith("''", position):
                    left = EDGE
                # an = in it must not make an argument of the template around it a named one; headings stay headings
                stack[-1].pieces.append(left if "\n" in left else left.replace("=", SHIELDED["="]))
        elif sign == "]]":
            if parts := _closed(stack, "[[", over=()):
                stack[-1].pieces.append(_link(parts, rules))
        elif sign[0] == "[":
            frame.pieces.append(sign)
        elif sign.endswith("{|"):
            if len(stack) < MAX_DEPTH:
                stack.append(_Frame("{|"))
                stack[-1].pieces.append("\n{|")  # if it never ends, this line goes with what it says of borders
        elif _closed(stack, "{|", over=("[[",) if text.startswith("}}", position) else ("[[", "{{")):
            position += 1
            stack[-1].pieces.append("\n")
        else:
            position -= 1
            frame.pieces.append(sign[:-1])
    stack[-1].pieces.append(text[position:])
    page = stack[0]
    for frame in stack[1:]:
        page.absorb(frame)
    return "".join(page.pieces)


def _closed(stack: list[_Frame], kind: str, over: tuple[str, ...]) -> list[str]:
    """Close the innermost frame of a kind, unless one is open in it that is not `over`: its parts; else none."""
    depth = len(stack) - 1
    while stack[depth].kind in over:
        depth -= 1
    frame = stack[depth]
    if frame.kind != kind:
        return []
    for above in stack[depth + 1 :]:
        frame.absorb(above)
    del stack[depth:]
    frame.cut()
    return frame.parts


def _link(parts: list[str], rules: Rules) -> str:
    """A link as wikiextractor can read it, or what it shows: wikiextractor drops all whose target has a colon."""
    target, *label = parts
    if "\n" in target:
        return "|".join(parts)  # no link: brackets that were never closed met others
    prefix, colon, rest = target.strip().partition(":")
    if not colon or rest.startswith("//"):
        return f"[[{'|'.join(parts)}]]"
    if rules.is_hidden(prefix.strip()):
        return ""
    if not prefix:  # [[:Category:…]] and [[:en:…]] are links that show
        prefix, _, name = rest.partition(":")
        rest = name if rules.is_hidden(prefix.strip()) else rest
        return "|".join(label) or rest
    return "|".join(label) or target.strip()


def _lines(text: str, rules: Rules, lists: bool) -> Iterator[str]:
    """Lines with their marks, without the marks of wikitext and without apparatus."""
    dropped = 0  # level of the apparatus section that we are in
    in_table = False  # in one that does not end before the next heading
    for line in text.split("\n"):
        line = line.strip()
        if not line:
            continue
        if line[0] == "=" and (level := _level(line)):
            in_table = False
            if not dropped or level <= dropped:
                heading = line[level:-level].replace(BREAK, " ").strip()
                dropped = level if rules.is_apparatus(heading) else 0
                if not dropped:
                    yield f"{MARK}{level}{heading}"
        elif line.startswith("{|"):
            in_table = True
        elif dropped or (in_table and line[0] in "|!") or LEFTOVER.match(line):
            continue
        elif line[0] in "*#:;":
            if lists or line[0] == ":":
                item = line.lstrip("*#:;").strip()
                if line[0] == ";" and (term := TERM.match(item)):
                    item = f"{term[1]}{BREAK}{item[term.end() :]}"
                yield f"{MARK}0{item}"
        else:
            yield f"{MARK}0{line.lstrip('-').strip() if line.startswith('----') else line}"


def _sealed(line: str) -> str:
    """A line whose external links all end: wikiextractor's search for the end of others is quadratic."""
    end = line.rfind("]") + 1
    return line[:end] + SINGLE.sub(SHIELDED["["], line[end:]) if "//" in line[end:] else line


def _level(line: str) -> int:
    """Level of a heading, 0 if the line is none."""
    opening, closing = len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("="))
    return min(opening, closing, 6) if opening < len(line) else 0


# ---- after wikiextractor


def finish(text: str, *, headings: bool = True) -> str:
    """Text from wikiextractor without marks, shields and empty brackets; a heading with nothing below it goes."""
    text = EMPTY.sub("", text.replace(BREAK, "\n"))
    text = DOUBLED.sub("、", text)
    text = EMPTY.sub("", CLOSED.sub(r"\1", OPENED.sub(r"\1", text)))
    text = SPACES.sub(" ", PRIVATE.sub(lambda match: UNSHIELD.get(match[0], match[0]), text))
    lines, pending = [], []  # pending: (level, heading) with no text yet
    for line in text.split("\n"):
        level = 0
        if line.startswith(MARK):
            level, line = int(line[1]), line[2:]
        line = line.strip()
        if level and line:
            pending = [entry for entry in pending if entry[0] < level] + [(level, line)]
        elif WORD.search(line):  # a lone 。 is left of something dropped
            if headings:
                lines += [heading for _, heading in pending]
            pending = []
            lines.append(line)
    return "\n".join(lines)


SPACE = " \u3000"
EMPTY = re.compile(f"[（(][{SPACE}、，,;；:：・/／]*[）)]")
WORD = re.compile(r"\w")
DOUBLED = re.compile(f"、(?:[{SPACE}]*、)+")
SPACES = re.compile(" {2,}")
OPENED = re.compile(f"([（(])(?:[{SPACE}]*[、，][{SPACE}、，]*|[;,] )")
CLOSED = re.compile(f"[、，][{SPACE}]*([）)])")
