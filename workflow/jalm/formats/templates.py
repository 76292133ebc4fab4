"""The table of templates: what the templates of the Japanese Wikipedia leave in the text, and what of a page is no text.

It is data (`templates.yaml`, whose comments say what its entries mean), which a user's table (`extract.templates`) extends.
"""

import difflib
import re
from collections.abc import Callable
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from jalm import Fault

TABLE = Path(__file__).with_name("templates.yaml")


class TemplateError(Fault):
    """A table of templates that cannot be read."""


class Table(BaseModel):
    """What a file of templates says; its comments say what each entry means."""

    model_config = ConfigDict(extra="forbid")

    templates: dict[str, list[str]] = {}
    languages: dict[str, str] = {}
    short: dict[str, str] = {}
    countries: dict[str, str] = {}
    apparatus: list[str] = []
    disambiguation: list[str] = []
    hidden: list[str] = []


Form = list  # of literals (str), arguments to choose from (tuple of names) and optional groups (Form)


class Rules:
    """Tables of templates, made ready for look-up; what a later one says of a name goes before the earlier ones."""

    def __init__(self, *tables: Table) -> None:
        self._forms: dict[str, tuple[Form, str] | None] = {}  # by template name: its form, what * stands for in it
        self._wild: list[tuple[re.Pattern, Form]] = []
        self._languages: dict[str, str] = {}
        self._short: dict[str, str] = {}
        self._countries: dict[str, str] = {}
        self._apparatus: set[str] = set()
        self._hidden: set[str] = set()
        disambiguation = []
        for table in tables:
            for text, names in table.templates.items():
                for name in names:
                    if "*" in name:
                        self._wild.insert(0, (_pattern(name), _form(text)))
                    else:
                        self._forms[_normal(name)] = _form(text), ""
            for code in table.countries:
                self._forms[code] = _form("{country}"), code
            self._languages |= table.languages
            self._short |= table.short
            self._countries |= table.countries
            self._apparatus |= {_squeezed(name) for name in table.apparatus}
            self._hidden |= {prefix.casefold() for prefix in table.hidden}
            disambiguation += [_pattern(name).pattern for name in table.disambiguation]
        self._wild.sort(key=lambda entry: -len(entry[0].pattern))  # lang-*-short before lang-*
        self._disambiguation = re.compile("|".join(disambiguation) or "(?!)")

    def template(self, parts: list[str], title: str) -> str:
        """Text that a template leaves; `parts` are its name and its arguments as written, templates in them resolved."""
        name, colon, argument = parts[0].partition(":")
        if colon:
            name = name.strip().lower()
            if name in FUNCTIONS:
                return FUNCTIONS[name](argument.strip(), [part.strip() for part in parts[1:]])
            name = argument if name in ("template", "テンプレート") else parts[0]
        form, star = self._look_up(name) or ([], "")
        if not form:
            return ""
        positional, named = _arguments(parts[1:])

        def value(key: str) -> str:
            function, colon, argument = key.partition(":")
            if colon:
                return SHOWN[function](value(argument))
            if key.isdecimal():
                number = int(key)
                return named.get(key) or (positional[number - 1] if number <= len(positional) else "")
            if key[0] == "*":
                return key[1:].join(filter(None, positional))
            match key:
                case "measure":
                    return _measure(positional)
                case "number":
                    return _formatnum(value("1"), []) if named.get("fmt") == "commas" else value("1")
                case "title":
                    return title
                case "language" | "short":
                    return self._language(star, short=key == "short")
                case "country":
                    code = star or value("1")
                    return self._countries.get(code, code)
            return named.get(key, "")

        return _filled(form, value)

    def _look_up(self, name: str) -> tuple[Form, str] | None:
        written = name.strip()
        if written in self._countries:  # capital letters: {{MAR}} is Morocco, {{mar}} is not
            return self._forms[written]
        name = _normal(name)
        if name not in self._forms:
            found = next(((form, match[1]) for wild, form in self._wild if (match := wild.fullmatch(name))), None)
            self._forms[name] = found
        return self._forms[name]

    def _language(self, code: str, *, short: bool) -> str:
        code = code if code in self._languages else code.partition("-")[0]  # zh-hans is zh
        name = self._languages.get(code, "")
        return self._short.get(code, name) if short else name

    def is_apparatus(self, heading: str) -> bool:
        """Whether a section is one of notes, sources or links, or of several of them (脚注と出典)."""
        name = _squeezed(re.sub(r"\[\[(?:[^|\]]*\|)?", "", heading).replace("]]", ""))
        return name in self._apparatus or all(part in self._apparatus for part in AND.split(name))

    def is_disambiguation(self, wikitext: str) -> bool:
        """Whether a page is a disambiguation page; one that has only a note pointing to such a page is not."""
        names = {_normal(name) for name in CALLED.findall(COMMENT.sub("", wikitext))}
        return any(map(self._disambiguation.fullmatch, names))

    def is_hidden(self, prefix: str) -> bool:
        """Whether a link with this prefix shows nothing: a file, a category, the article in another language."""
        return prefix.casefold() in self._hidden or bool(LANGUAGE.fullmatch(prefix))


def load(*paths: Path) -> Rules:
    """Rules of a table of templates, and of others that extend it.

    Raises:
        TemplateError: a file is missing or no YAML, or an entry of it is not what it should be.
    """
    return Rules(*map(_table, paths))


def _table(path: Path) -> Table:
    try:
        table = Table.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        for text in table.templates:
            _form(text)
    except yaml.YAMLError as error:
        raise TemplateError(f"{path} is no YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the table"
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(where, Table.model_fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are: {', '.join(Table.model_fields)}"
            raise TemplateError(f"{path}: {where} is not a known key; {hint}") from None
        raise TemplateError(f"{path}: {where} is {first['input']!r}: {first['msg']}") from None
    except TemplateError as error:
        raise TemplateError(f"{path}: {error}") from None
    return table


AND = re.compile("[・、,，/／&＆と]|及び|および")
CALLED = re.compile(r"\{\{([^{}|<>\[\]]{1,80})[|}]")
COMMENT = re.compile(r"<!--(?:.*?-->|.*)", re.DOTALL)
# prefixes of the other Wikipedias; the four excepted are other sites, links to which show
LANGUAGE = re.compile("(?!(?:mw|wmf|voy|doi)$)[a-z]{2,3}(?:-[a-z]+)*|simple")
FORM = re.compile(r"\{([^{}]+)\}|([\[\]])|([^\[\]{}]+)")


def _normal(name: str) -> str:
    return name.strip().replace("_", " ").casefold()


def _squeezed(name: str) -> str:
    return "".join(name.split()).casefold()


def _pattern(name: str) -> re.Pattern:
    return re.compile("(.+)".join(map(re.escape, _normal(name).split("*"))))


def _form(text: str) -> Form:
    groups: list[Form] = [[]]
    for token in FORM.finditer(text):
        argument, bracket, literal = token.groups()
        if bracket == "[":
            groups.append([])
        elif bracket and len(groups) > 1:
            groups[-2].append(groups.pop())
        else:
            names = tuple((argument or "").split("|"))
            for name in names:
                if ":" in name and name.partition(":")[0] not in SHOWN:
                    raise TemplateError(f"templates.{text!r}: {name!r} does not begin with one of: {', '.join(SHOWN)}")
            groups[-1].append(names if argument else literal or bracket)
    if len(groups) > 1 or "".join(token[0] for token in FORM.finditer(text)) != text:
        raise TemplateError(f"templates.{text!r}: brackets that do not match")
    return groups[0]


def _filled(form: Form, value: Callable[[str], str]) -> str:
    pieces = []
    for part in form:
        if isinstance(part, tuple):
            found = next(filter(None, map(value, part)), "")
            if not found:
                return ""
            pieces.append(found)
        else:
            pieces.append(part if isinstance(part, str) else _filled(part, value))
    return "".join(pieces)


def _arguments(parts: list[str]) -> tuple[list[str], dict[str, str]]:
    positional, named = [], {}
    for part in parts:
        key, equals, value = part.partition("=")
        key = key.strip()
        if equals and NAME.fullmatch(key):
            named[key] = value.strip()
        else:
            positional.append(part.strip())
    return positional, named


NAME = re.compile(r"[\w -]{1,40}")


def _chem(formula: str) -> str:
    """Chemical formula of {{chem2}} with its bonds, arrows and charges."""
    for written, sign in SIGNS.items():
        formula = formula.replace(written, sign)
    return CHARGE.sub(lambda charge: (charge[1] or charge[0]).replace("-", "−"), formula)


SIGNS = {"\\s": "–", "\\d": "=", "\\t": "≡", "<->": "⇌", "<=>": "⇌", "->": "→"}
CHARGE = re.compile(r"\(([0-9]*[+−-])\)|(?<=[A-Za-z0-9)\]])[+−-](?![\w(\[])")


def _character(code: str) -> str:
    character = chr(int(code, 16)) if re.fullmatch("[0-9A-Fa-f]{1,5}", code) else ""
    return character if character.isprintable() else ""  # no surrogates, nor what a line or a mark is made of


# what a form may do with an argument
SHOWN: dict[str, Callable[[str], str]] = {"lower": str.lower, "character": _character, "chem": _chem}


def _measure(arguments: list[str]) -> str:
    """Numbers of {{convert}} and the words between them, with the unit that they are given in."""
    shown, rest = [], [*arguments, ""]
    while len(rest) > 3 and rest[1] in BETWEEN:
        shown += [_formatnum(rest[0], []), BETWEEN[rest[1]]]
        rest = rest[2:]
    return " ".join(filter(None, [*shown, _formatnum(rest[0], []), *rest[1:2]]))


# words between the numbers of {{convert}}, and what they show
BETWEEN = {"-": "-", "–": "–", "to": "–", "and": "と", "x": "×", "×": "×", "by": "×", "*": "×", "±": "±", "+/-": "±"}


def _formatnum(number: str, _: list[str]) -> str:
    whole, point, fraction = number.partition(".")
    if re.fullmatch("-?[0-9]{1,30}", whole):
        whole = re.sub("(?<=[0-9])(?=(?:[0-9]{3})+$)", ",", whole)
    return whole + point + fraction


# the functions of MediaWiki's parser that articles show text with; others ({{#tag:ref|…}}) leave nothing
FUNCTIONS: dict[str, Callable[[str, list[str]], str]] = {
    "formatnum": _formatnum,
    "lc": lambda text, _: text.lower(),
    "uc": lambda text, _: text.upper(),
    "lcfirst": lambda text, _: text[:1].lower() + text[1:],
    "ucfirst": lambda text, _: text[:1].upper() + text[1:],
    "#if": lambda test, branches: [*branches, "", ""][0 if test else 1],
}
