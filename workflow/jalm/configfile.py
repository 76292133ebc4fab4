"""The configuration out of its files: merged, with presets under its entries, its mistakes told with their places."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from jalm.config import (
    Config,
    Filter,
    Generation,
    MediaWiki,
    Model,
    Publish,
    TestSet,
    Text,
    Tokenizer,
    UnknownDate,
    WrongName,
)
from jalm.knobs import ConfigError, Section, reason

PRESETS = Path(__file__).parents[1] / "presets"


def load(values: Mapping[str, Any], sources: Mapping[str, Mapping[str, Any]] | None = None) -> Config:
    """The validated configuration.

    Args:
        values: the merged configuration, as Snakemake gives it.
        sources: where each key may come from: name of a file (or "--config") to its content, the later ones on top.

    Raises:
        UnknownDate: `dump_date` is no date.
        ConfigError: anything else that is wrong, all mistakes at once, each with its place.
    """
    values = _with_nulls(values)
    sources = sources or {"config.yaml": values}
    for group in ("corpora", "tokenizers", "models"):
        if isinstance(values.get(group), Mapping):
            values[group] = {str(name): entry for name, entry in values[group].items() if entry is not None}
    models, corpora, rules = (values.get(group) for group in ("models", "corpora", "filter"))
    if isinstance(values.get("tokenizers"), Mapping):
        values["tokenizers"] = {name: _without_nulls(entry) for name, entry in values["tokenizers"].items()}
    if isinstance(models, Mapping):
        values["models"] = {
            name: _with_preset(entry, PRESETS, ("models", name), sources) for name, entry in models.items()
        }
    if isinstance(corpora, Mapping):
        values["corpora"] = {name: _with_filter(entry, rules, name, sources) for name, entry in corpora.items()}
    if rules is not None:
        values["filter"] = _with_preset(rules, PRESETS / "filter", ("filter",), sources)
    try:
        return Config(**values)
    except ValidationError as error:
        lines = [f"{_place(_keys(e), sources)}: {_describe(e)}" for e in error.errors()]
        date_is_wrong = any(e["loc"] == ("dump_date",) for e in error.errors())
        raise (UnknownDate if date_is_wrong else ConfigError)("\n".join(lines)) from None


def _with_nulls(value: Any) -> Any:
    """`value` with None for "null", which is what Snakemake makes of a null inside --config."""
    if isinstance(value, Mapping):
        return {key: _with_nulls(entry) for key, entry in value.items()}
    return None if value == "null" else value


def _with_preset(entry: Any, folder: Path, keys: tuple[str, ...], sources: Mapping[str, Mapping[str, Any]]) -> Any:
    """An entry on top of its preset, without the corpora that it sets to null."""
    if not isinstance(entry, Mapping):
        return entry
    entry = dict(entry)
    if "preset" in entry:
        name = entry.pop("preset")
        presets = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
        if not isinstance(name, str) or name not in presets:
            where = f"{_place((*keys, 'preset'), sources)}: {'.'.join(keys)}"
            raise ConfigError(
                f"{where}.preset is {name!r}, which is not one of: {', '.join(presets)}; one of your own is a file "
                f"{folder.relative_to(PRESETS.parents[1])}/NAME.yaml"
            )
        entry = merge(yaml.safe_load(presets[name].read_text(encoding="utf-8")), entry)
    return _without_nulls(entry)


def _without_nulls(entry: Any) -> Any:
    """An entry without the corpora that it sets to null."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("corpora"), Mapping):
        return entry
    return {**entry, "corpora": {name: weight for name, weight in entry["corpora"].items() if weight is not None}}


def _with_filter(entry: Any, common: Any, name: str, sources: Mapping[str, Mapping[str, Any]]) -> Any:
    """A corpus with its own filter spelt out: on top of its own preset, else on top of the common rules."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("filter"), Mapping):
        return entry
    own = entry["filter"]
    if "preset" not in own and isinstance(common, Mapping):
        own = merge(common, own)
    return {**entry, "filter": _with_preset(own, PRESETS / "filter", ("corpora", name, "filter"), sources)}


def repeated_keys(path: Path) -> list[str]:
    """What a YAML file says twice, of which the last would count without a word; a line for each."""
    found = []

    def look(node: yaml.Node | None, keys: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if name in lines and key.tag != "tag:yaml.org,2002:merge":
                    where = ".".join((*keys, name))
                    found.append(
                        f"{path}: {where} is there twice, in lines {lines[name]} and {line}; rename or remove one"
                    )
                lines[name] = line
                look(value, (*keys, name))
        elif isinstance(node, yaml.SequenceNode):
            for entry in node.value:
                look(entry, keys)

    with contextlib.suppress(yaml.YAMLError):  # JSON may be none; what is neither, Snakemake refuses
        look(yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader), ())
    return found


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the keys of `above` on top, mappings inside merged likewise."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _keys(error: dict) -> tuple[str, ...]:
    """The keys that lead to a mistake."""
    if error["type"] == "value_error" and isinstance(error["ctx"]["error"], WrongName):
        return error["ctx"]["error"].loc
    keys = [str(key) for key in error["loc"] if key != "[key]"]  # pydantic's mark of a wrong key
    if keys[:1] == ["corpora"]:
        del keys[2:3]  # pydantic's name for the kind of corpus
    if keys[:1] == ["tokenizers"] and keys[2:3] == ["corpora"]:
        del keys[3:4]  # and for the form of the list
    if error["type"].startswith("union_tag"):
        keys.append("source")
    return tuple(keys)


def _place(keys: tuple[str, ...], sources: Mapping[str, Mapping[str, Any]]) -> str:
    """The source that the value at `keys` was last set in."""
    for name, content in reversed(sources.items()):
        for key in keys:
            if not isinstance(content, Mapping) or key not in content:
                break
            content = content[key]
        else:
            return name
    return ", ".join(sources)


def _describe(error: dict) -> str:
    path = ".".join(_keys(error))
    if error["type"] == "missing":
        return f"{path} is missing"
    if error["type"] == "union_tag_not_found":
        return f"{path} is missing: mediawiki (a dump) or text (local files)"
    if error["type"] == "union_tag_invalid":
        return f"{path} is {error['ctx']['tag']!r}, which is not one of: mediawiki, text"
    if error["type"] == "value_error" and isinstance(error["input"], (Mapping, BaseModel)):
        cause = error["ctx"]["error"]
        return str(cause) if isinstance(cause, WrongName) else f"{path}: {cause}"
    if error["type"] == "extra_forbidden":
        return f"{path} is {reason(error, _section_at(error['loc']))}"
    return f"{path} is {error['input']!r}: {reason(error, None)}"


def _section_at(loc: tuple) -> type[Section]:
    """The section that an unknown key at `loc` was written in."""
    if len(loc) == 1:
        return Config
    if loc[0] == "corpora":
        return Filter if loc[3] == "filter" else {"mediawiki": MediaWiki, "text": Text}[loc[2]]
    if loc[0] == "models":
        return {"generation": Generation, "publish": Publish}.get(loc[2], Model)
    return {"tokenizers": Tokenizer, "test_sets": TestSet}.get(loc[0]) or Config.model_fields[loc[0]].annotation
