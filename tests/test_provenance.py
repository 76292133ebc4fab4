import ast
import inspect
import shutil
import subprocess
from pathlib import Path

import pytest
import unidic_lite

from jalm import provenance

SPLIT = '''"""Assign documents to sides."""

from jalm import cli
from jalm.config import Split
from jalm.formats import documents


def side(name):
    """Name of the side that `name` belongs to."""
    return "train"  # all of them, for now
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of a few modules; returns a function that writes one of them anew."""

    def write(module: str, source: str) -> None:
        path = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(source, encoding="utf-8")
        forget()

    def forget() -> None:
        for cached in (provenance.code, provenance.recipe, provenance.closure, provenance.imports, provenance._source):
            cached.cache_clear()

    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    write("__init__", "VERSION = 1\n")
    write("cli", "import jalm.formats.logs\n")
    write("config", "class Split: ...\n")
    write("formats.logs", "LEVEL = 1\n")
    write("formats.sides", "SIDES = 3\n")
    write("formats.documents", "from jalm.formats.sides import SIDES\n")
    write("stages.split", SPLIT)
    yield write
    forget()


# ---- a digest of code


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("  # all of them, for now", ""),
        ("all of them, for now", "「全部」、1,234件"),
        ("Name of the side that `name` belongs to.", "側の名前。\n\n    Source: 広辞苑 😀\n    "),
        ("Assign documents to sides.", "文書を分ける。"),
        ('    """Name of the side that `name` belongs to."""\n', ""),
        ("\n\n\n", "\n# ---- 側\n\n"),
        ("\n\ndef", "\n\n\n\n\ndef"),
    ],
)
def test_prose_does_not_change_the_digest(package, before, after):
    digest = provenance.code("split")
    assert before in SPLIT
    package("stages.split", SPLIT.replace(before, after))
    assert provenance.code("split") == digest


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"train"', '"valid"'),
        ('"train"', '"train" or name'),
        ('"train"', '"# train"'),
        ("def side", "@cache\ndef side"),
        ("return", "pass\n    return"),
        ('"train"', "'''「\n」'''"),
    ],
)
def test_code_does(package, before, after):
    digest = provenance.code("split")
    package("stages.split", SPLIT.replace(before, after))
    assert provenance.code("split") != digest


@pytest.mark.parametrize(
    ("before", "after"), [("一\n二", "一\n\n二"), ("一\n二", "一 \n二"), ("一\n二", "一\n# 注\n二")]
)
def test_blank_lines_and_spaces_in_a_string_are_code(before, after):
    for quoted in ('CARD = """{}"""\n', 'CARD = f"""{}{{name}}"""\n'):
        one, other = (provenance.executable_lines(quoted.format(text)) for text in (before, after))
        assert one != other


def test_a_character_that_ends_lines_elsewhere_ends_none_here():
    source = 'BREAKS = "\u2028\x85\x0c"  # 改行\nB = 1  # 注\n'
    assert provenance.executable_lines(source) == 'BREAKS = "\u2028\x85\x0c"\nB = 1'


def test_what_remains_is_the_same_program():
    source = inspect.getsource(provenance)
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef)) and ast.get_docstring(node):
            del node.body[0]
    assert ast.dump(ast.parse(provenance.executable_lines(source))) == ast.dump(tree)


# ---- whose code


def test_a_change_of_what_is_imported_changes_the_digest(package):
    digest = provenance.code("split")
    package("formats.documents", "from jalm.formats.sides import SIDES\nLEVEL = 3\n")
    assert provenance.code("split") != digest


def test_so_does_a_change_of_what_that_imports(package):
    digest = provenance.code("split")
    package("formats.sides", "SIDES = 2\n")
    assert provenance.code("split") != digest


def test_what_is_visible_in_the_flags_does_not(package):
    digest = provenance.code("split")
    for module in ("cli", "config", "provenance", "__init__", "formats.logs"):
        package(module, "CHANGED = True\n")
    assert provenance.code("split") == digest


def test_the_digest_names_the_modules_that_run(package):
    names = [word.partition("@")[0] for word in provenance.code("split").split()]
    assert names == ["formats.documents", "formats.sides", "stages.split"]


@pytest.mark.parametrize(
    "line",
    [
        "from jalm.formats import sides",
        "from jalm.formats.sides import SIDES",
        "import jalm.formats.sides",
        "def later():\n    import jalm.formats.sides as s, json",
        "if False:\n    from jalm.formats import (logs, sides)",
    ],
)
def test_an_import_is_found_in_any_form_and_place(package, line):
    assert "formats.sides" in provenance.imports(line)


@pytest.mark.parametrize(
    "line", ["import jalmx.formats.sides", "from formats import sides", "'import jalm.formats.sides'"]
)
def test_what_is_no_import_of_this_package_is_not(package, line):
    assert provenance.imports(line) == set()


def test_modules_that_import_each_other_end(package):
    package("formats.sides", "import jalm.formats.documents\n")
    assert provenance.closure("stages.split") == ("formats.documents", "formats.sides", "stages.split")


def test_the_stages_of_this_package_run_what_they_import():
    assert provenance.closure("stages.dedup") == ("formats.documents", "formats.sides", "stages.dedup")
    assert provenance.closure("stages.segment") == ("formats.documents", "formats.words", "stages.segment")


# ---- recipes


def test_a_recipe_is_read_without_running_the_module(package):
    package("stages.pretrain", "import torch_that_is_not_here\nRECIPE = 7  # 「七」\nraise SystemExit\n")
    assert provenance.recipe("pretrain") == "recipe 7"


def test_a_stage_without_a_recipe_is_our_mistake(package):
    with pytest.raises(AssertionError, match=r"stages/split\.py has no RECIPE"):
        provenance.recipe("split")


# ---- dictionaries


@pytest.fixture
def folder(tmp_path) -> Path:
    """A dictionary in a folder of our own: 3 MB in two of its files."""
    for name in ("char.bin", "dicrc", "unk.dic"):
        shutil.copy(Path(unidic_lite.DICDIR, name), tmp_path)
    for name in ("matrix.bin", "sys.dic"):
        with open(Path(unidic_lite.DICDIR, name), "rb") as file:
            (tmp_path / name).write_bytes(file.read(3_000_000))
    return tmp_path


def test_a_dictionary_is_known_by_what_is_in_it_not_by_where_it_lies(folder):
    version, digest = provenance.dictionary("unidic-lite").split("@")
    assert version == Path(unidic_lite.DICDIR, "version").read_text().strip()
    assert len(digest) == 8
    assert provenance.dictionary(unidic_lite.DICDIR) == f"{version}@{digest}"
    assert provenance.dictionary(str(folder)) == provenance.dictionary(f"{folder}/../{folder.name}")


@pytest.mark.parametrize("name", ["char.bin", "dicrc", "matrix.bin", "sys.dic", "unk.dic"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_dictionary_with_another_beginning_or_size_is_another(folder, name, place):
    before = provenance.dictionary(str(folder))
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(b"?" + content[1:] if place == 0 else content[:-1])
    provenance.dictionary.cache_clear()
    assert provenance.dictionary(str(folder)) != before


def test_a_dictionary_that_is_not_here_is_left_for_segment_to_report(tmp_path):
    assert provenance.dictionary(str(tmp_path)) == f"{tmp_path} is not here"


def test_a_revision_is_dirty_when_code_changed_but_not_for_the_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "workflow")
    provenance.PACKAGE.mkdir()

    def revision() -> str:
        provenance.revision.cache_clear()
        return provenance.revision()

    def git(*words: str) -> str:
        command = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@example.org", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert revision() == ""
    git("init")
    for name in ("config.yaml", "workflow/a.py"):
        (tmp_path / name).write_text("1", encoding="utf-8")
    git("add", ".")
    git("commit", "-m", "a")
    assert revision() == git("rev-parse", "HEAD")
    (tmp_path / "config.yaml").write_text("2", encoding="utf-8")
    assert revision() == git("rev-parse", "HEAD")
    (tmp_path / "workflow/a.py").write_text("2", encoding="utf-8")
    assert revision() == git("rev-parse", "HEAD") + "-dirty"
    provenance.revision.cache_clear()
