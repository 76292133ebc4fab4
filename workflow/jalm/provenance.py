"""Digests of the code and the dictionary behind a result, for the parameters of the rules.

A digest covers a stage's module and all it imports from this package, without comments, docstrings and blank lines, so
that editing prose makes nothing stale and editing a shared format makes exactly its users stale.
"""

import ast
import hashlib
import importlib.util
import io
import subprocess
import tokenize
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
PIECE = 4096  # bytes of a dictionary that are read at once
MISSING = "is not here"  # what is said of a dictionary
OUTSIDE = {
    "__init__",
    "cli",
    "config",
    "knobs",
    "sizes",
    "configfile",
    "provenance",
    "slurm",
}  # they change no result but through params.flags


@cache
def code(stage: str) -> str:
    """`module@digest` for each module that `stage` runs, sorted by name."""
    return " ".join(
        f"{module}@{hashlib.sha256(executable_lines(_source(module)).encode()).hexdigest()[:8]}"
        for module in closure(f"stages.{stage}")
    )


@cache
def recipe(stage: str) -> str:
    """The RECIPE number of a stage whose results are too expensive to go stale with every change of its code."""
    for node in ast.parse(_source(f"stages.{stage}")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "RECIPE":
            return f"recipe {ast.literal_eval(node.value)}"
    raise AssertionError(f"stages/{stage}.py has no RECIPE")


@cache
def dictionary(name: str) -> str:
    """`version@digest` of `unidic`, `unidic-lite` or a folder with a compiled dictionary, wherever it lies.

    Some 64 pieces of a large file and its size stand for the whole, so that parsing the workflow does not wait for it.
    """
    folder = Path(name)
    if name in ("unidic", "unidic-lite") and (package := importlib.util.find_spec(name.replace("-", "_"))):
        folder = Path(package.submodule_search_locations[0], "dicdir")
    digest = hashlib.sha256()
    try:
        for file in ("char.bin", "dicrc", "matrix.bin", "sys.dic", "unk.dic"):
            size = (folder / file).stat().st_size
            digest.update(f"{file} {size}\n".encode())
            with open(folder / file, "rb") as stream:
                for place in range(0, size, PIECE * max(1, size // (64 * PIECE))):
                    stream.seek(place)
                    digest.update(stream.read(PIECE))
    except OSError:
        return f"{name} {MISSING}"  # the rules and segment say what to do
    version = folder / "version"
    told = version.read_text(encoding="utf-8").strip() if version.is_file() else "unversioned"
    return f"{told}@{digest.hexdigest()[:8]}"


@cache
def revision() -> str:
    """Revision of the clone that this package is in; empty outside of one.

    It has -dirty behind it if something is changed, but for the configuration and the profiles: the one is recorded with
    each result, the others change none.
    """

    def git(*words: str) -> str:
        try:
            ran = subprocess.run(["git", "-C", str(PACKAGE), *words], capture_output=True, text=True)
        except FileNotFoundError:
            return ""
        return ran.stdout.strip()

    head = git("rev-parse", "HEAD")
    but = [":(top)", ":(top,exclude)config.yaml", ":(top,exclude)profiles"]
    return head + "-dirty" * bool(head and git("status", "--porcelain", "--untracked-files=no", "--", *but))


@cache
def closure(module: str) -> tuple[str, ...]:
    """`module` and every module of this package that it imports, directly or not; names relative to the package."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name not in seen and name not in OUTSIDE:
            seen.add(name)
            todo.extend(imports(_source(name)))
    return tuple(sorted(seen))


@cache
def imports(source: str) -> set[str]:
    """Modules of this package that `source` imports anywhere, names relative to the package."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "jalm":
            base = node.module.split(".")[1:]
            found.update(".".join([*base, alias.name]) for alias in node.names)
            found.add(".".join(base))
        elif isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[2] for alias in node.names if alias.name.split(".")[0] == "jalm")
    return {name for name in found if _path(name).is_file()}


@cache
def executable_lines(source: str) -> str:
    """`source` without comments, docstrings and blank lines; the same under every Python version."""
    lines = source.split("\n")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comment_at = {token.start[0]: token.start[1] for token in tokens if token.type == tokenize.COMMENT}
    prose: set[int] = set()
    literal: set[int] = set()  # lines that end inside a string, where white space is part of the code
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            prose.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
        elif isinstance(node, (ast.Constant, ast.JoinedStr)):
            literal.update(range(node.lineno, node.end_lineno))
    kept = []
    for number, line in enumerate(lines, 1):
        as_it_is = number in literal and number not in comment_at
        line = line if as_it_is else line[: comment_at.get(number)].rstrip()
        if number not in prose and (line or as_it_is):
            kept.append(line)
    return "\n".join(kept)


def _path(module: str) -> Path:
    return PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


@cache
def _source(module: str) -> str:
    return _path(module).read_text(encoding="utf-8")
