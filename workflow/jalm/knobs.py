"""What a section of the configuration is made of, and how it goes to a command line and back."""

import difflib
import json
import shlex
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from jalm import Fault

NAME = r"^[A-Za-z][A-Za-z0-9_.]*(-[A-Za-z0-9_.]+)*$"  # of corpora, tokenizers, models: they appear in paths
SHA1, DATE, WIKI = r"^[0-9a-f]{40}$", r"^\d{8}$", r"^[a-z][a-z_0-9]*$"
WORDS = r"[A-Za-z0-9_]+([.-][A-Za-z0-9_]+)*"
REPOSITORY = rf"^{WORDS}/{WORDS}$"
PATTERNS = {  # in words
    NAME: "a name begins with a letter of A-Z or a-z and has such letters, digits, _ . and single - between them",
    SHA1: "a sha1 is 40 digits of 0-9 and a-f",
    DATE: "a date is 8 digits, YYYYMMDD",
    REPOSITORY: "a repository is NAMESPACE/NAME, both of letters, digits and _ with single - and . between them",
    WIKI: "the name of a wiki begins with a small letter and has small letters, digits and _",
}


class ConfigError(Fault):
    """A configuration that cannot be used; one line for each mistake."""


def knob(description: str, *, neutral: bool = False, **bounds: Any) -> Any:
    """A field of a section; `neutral` ones cannot change a result (the batch per device: but for rounding and dropout)."""
    return Field(description=description, json_schema_extra={"neutral": neutral}, **bounds)


class Section(BaseModel):
    """A group of knobs."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, protected_namespaces=())


def reason(error: dict, section: type[Section] | None) -> str:
    """What is wrong with a value, by pydantic's error; `section` is the one that an unknown key was written in."""
    if error["type"] == "extra_forbidden":
        known = list(section.model_fields) if section else []
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        return "not a known key" + (f"; did you mean {near[0]}?" if near else f"; known are: {', '.join(known)}")
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "string_pattern_mismatch":
        return PATTERNS[error["ctx"]["pattern"]]
    return error["msg"]


def is_neutral(info: FieldInfo) -> bool:
    """Whether a knob cannot change the bytes of a result."""
    return bool(info.json_schema_extra and info.json_schema_extra["neutral"])


def flags(section: Section, kind: type[Section] | None = None, *, neutral: bool = False) -> str:
    """Options that spell out every knob of `section`, defaults too, quoted for a shell.

    Args:
        section: the knobs.
        kind: the base class of `section` whose knobs are meant, when a stage is not told all.
        neutral: the knobs that cannot change a result instead of those that can.
    """
    return " ".join(
        f"--{name.replace('_', '-')}={shlex.quote(_encode(getattr(section, name)))}"  # =, or a value -x were an option
        for name, info in (kind or type(section)).model_fields.items()
        if is_neutral(info) == neutral
    )


def settings(section: Section) -> dict[str, Any]:
    """Every knob that can change a result, by name; sections in it likewise."""
    values = {n: getattr(section, n) for n, info in type(section).model_fields.items() if not is_neutral(info)}
    return {name: settings(value) if isinstance(value, Section) else value for name, value in values.items()}


def parse_flags(spelt: str) -> dict[str, str]:
    """Name of each knob, and its value as text, in what `flags` spelt out."""
    words = (word.removeprefix("--").partition("=") for word in shlex.split(spelt))
    return {name.replace("-", "_"): value for name, _, value in words}


def decode(section: type[Section], values: Mapping[str, str]) -> Section:
    """The section that options with these values spell out.

    Raises:
        ConfigError: a value outside its bounds.
    """
    try:
        return section(**{name: _decode(section.model_fields[name], value) for name, value in values.items()})
    except ValidationError as error:
        lines = []
        for e in error.errors():
            option = "--" + str(e["loc"][0]).replace("_", "-") + ": " if e["loc"] else ""
            whole = isinstance(e["input"], (Mapping, BaseModel))
            lines.append(f"{option}{reason(e, None)}" if whole else f"{option}{e['input']!r}: {reason(e, None)}")
        raise ConfigError("\n".join(lines)) from None


def help_text(info: FieldInfo) -> str:
    """Help text of a knob: its meaning and default."""
    default = "" if info.is_required() else f" (default: {_encode(info.default) or repr('')})"
    return (info.description + default).replace("%", "%%")


def _encode(value: Any) -> str:
    if isinstance(value, str):
        return value
    plain = value.model_dump() if isinstance(value, BaseModel) else value
    return json.dumps(plain, ensure_ascii=False)


def _decode(info: FieldInfo, text: str) -> Any:
    union = get_origin(info.annotation) in (Union, UnionType)
    kinds = get_args(info.annotation) if union else (info.annotation,)
    if str in kinds:
        return None if text == "null" and NoneType in kinds else text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
