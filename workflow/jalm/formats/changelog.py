"""The change log of an exported folder: what is other than in the model that it replaces."""

import json
import re
from pathlib import Path
from typing import Any

from jalm.formats.card import FIGURES, figure, table

NAME = "CHANGELOG.md"  # publish continues it at the Hub, so that nothing proves its bytes
COMPARED = ("bits_per_character", "by_document.bits_per_character", "perplexity", "pseudo_perplexity", "accuracy")


def read(path: Path) -> Any:
    """Content of a JSON file, None if there is none, or it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def undated(name: str) -> str:
    """The name of a corpus or test set without its date."""
    return re.sub(r"-\d{8}$", "", name)


def pairs(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Evaluations to compare: those on the same test set, else those on the same corpus of another date."""
    same = {one["test_set"]: one for one in before}
    alike = {undated(one["test_set"]): one for one in before}
    found = [(same.get(one["test_set"]) or alike.get(undated(one["test_set"])), one) for one in after]
    return [(old, new) for old, new in found if old]


def entry(earlier: Path, provenance: dict[str, Any], evaluations: list[dict[str, Any]]) -> str:
    """What is new in a model; what the earlier folder does not tell is said to be so.

    Args:
        earlier: the exported folder of the model that it replaces.
        provenance: of the new one.
        evaluations: of the new one.
    """
    lines = [f"## {provenance['model']}", "", f"{provenance['made'][:10]}. Takes the place of {earlier.name}.", ""]
    old = read(earlier / "provenance.json")
    if old is None:
        lines += [f"- {earlier.name} has no provenance.json: what it was made from is not known.", ""]
    else:
        lines += [f"- {change}" for change in changes(old, provenance)] + [""]
    lines += figures(read(earlier / "evaluation.json") or [], evaluations)
    return "\n".join(lines).rstrip() + "\n"


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What of the making is other, a line each."""
    told, before = [], {undated(one["name"]): one for one in old["corpora"]}
    for corpus in new["corpora"]:
        one = before.pop(undated(corpus["name"]), None)
        if one is None:
            told.append(f"{corpus['name']}: new")
        elif one["name"] != corpus["name"] or trained(one) != trained(corpus):
            told.append(f"{one['name']} → {corpus['name']}: articles in train {trained(one)} → {trained(corpus)}")
    told += [f"{one['name']}: no longer" for one in before.values()]
    kept = old["tokenizer"].get("sha256") == new["tokenizer"]["sha256"]
    told.append("the same tokenizer" if kept else "another tokenizer: ids, and perplexities, cannot be compared")
    tokens = [f"{one['training']['tokens']:,}" if "tokens" in one["training"] else "not recorded" for one in (old, new)]
    told.append(f"tokens seen: {' → '.join(tokens)}")
    knobs = sorted(old["config"].keys() | new["config"].keys())
    if not old["config"]:
        told.append("its knobs were not recorded")
        knobs = []
    for name in knobs:
        values = [json.dumps(one["config"].get(name), ensure_ascii=False) for one in (old, new)]
        if values[0] != values[1]:
            told.append(f"`{name}`: {' → '.join(values)}")
    if old.get("revision") != new["revision"]:
        told.append(f"code: {' → '.join(short(one.get('revision')) for one in (old, new))}")
    return told


def short(revision: str | None) -> str:
    """A git revision as people write it."""
    return re.sub(r"^(\w{12})\w*", r"\1", revision) if revision else "not recorded"


def trained(corpus: dict[str, Any]) -> str:
    """How many documents of a corpus are in train."""
    account = corpus.get("account")
    return f"{account['split']['out']['train']['documents']:,}" if account else "not recorded"


def figures(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[str]:
    """The figures of both, on what can be compared best."""
    rows, other = [], False
    for old, new in pairs(before, after):
        test_set = new["test_set"]
        if old["test_set"] != test_set:
            test_set, other = f"{old['test_set']} → {test_set}", True
        for name in COMPARED:
            values = [figure(one, name) for one in (old, new)]
            if None not in values:
                form, title, _ = FIGURES[name]
                rows.append([test_set, title, *(format(value, form) for value in values)])
    if not rows:
        return ["No figure of both can be compared."]
    made = [table(["test set", "figure", "before", "now"], rows)]
    if other:
        made += ["", "Test sets of two dates are not the same articles, so that small differences mean nothing."]
    return made


def write(earlier: Path, provenance: dict[str, Any], evaluations: list[dict[str, Any]]) -> str:
    """The change log: what is new, and below it the log of the earlier folder."""
    older = earlier / NAME
    rest = older.read_text(encoding="utf-8").removeprefix("# Changelog\n\n") if older.is_file() else ""
    return f"# Changelog\n\n{entry(earlier, provenance, evaluations)}{f'{chr(10)}{rest}' if rest else ''}"
