"""Bring local text in as documents: CC-100 and corpora of one's own.

A .txt file holds documents separated by blank lines (as CC-100 does), a .jsonl or .jsonl.zst file one document a line
with a `text` field, a folder one document in each of its .txt files. A document's id is its file's name and its place
in it (the byte it begins at, or the line), so that ids do not depend on the number of parts.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import orjson

from jalm import Fault, cli
from jalm.config import NoKnobs
from jalm.formats import documents

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
NO_UTF8 = "bytes that are no UTF-8"
MOST_NO_UTF8 = 0.1  # of the characters; more is another encoding, not damage


class TextError(Fault):
    """Local text that cannot be read as documents."""


def blocks(path: Path, part: int, parts: int) -> Iterator[tuple[int, bytes]]:
    """Blank-line separated documents that begin in one of `parts` equal stretches of a file, with their offsets.

    Only the stretch is read, and what its last document has beyond it.
    """
    size = path.stat().st_size
    start, end = size * part // parts, size * (part + 1) // parts
    with open(path, "rb") as file:
        offset = _first_line(file, start)
        # a line belongs to a document of this stretch unless a document that began before it runs on
        inside = start > 0 and not _follows_a_blank_line(file, offset)
        file.seek(offset)
        begin, lines = offset, []
        for line in file:
            here, offset = offset, offset + len(line)
            if here >= end and not lines:
                return
            if not line.strip():
                inside = False
                if lines:
                    yield begin, b"".join(lines)
                    lines = []
            elif not inside:
                begin = begin if lines else here
                lines.append(line)
        if lines:
            yield begin, b"".join(lines)


def _first_line(file, start: int) -> int:
    """Offset of the first line that begins at `start` or after it."""
    if start == 0:
        return 0
    file.seek(start - 1)
    return start - 1 + len(file.readline())


def _follows_a_blank_line(file, offset: int) -> bool:
    """Whether the line before the one at `offset` is blank."""
    size = 64  # bytes to look back, more where these are the white space at the end of one line
    while True:
        back = max(0, offset - size)
        file.seek(back)
        _, whole, line = file.read(offset - back).removesuffix(b"\n").rpartition(b"\n")
        if line.strip() or whole or back == 0:
            return not line.strip()
        size *= 2


def entries(path: Path, part: int, parts: int) -> Iterator[tuple[str, str | bytes, dict]]:
    """Id, text and other fields of each document that one part of `parts` takes from a file or folder.

    Raises:
        TextError: a file of an unknown kind, a name that is no UTF-8, or a line that is no JSON object with a text.
    """
    if path.is_dir():
        files = sorted(path.rglob("*.txt"), key=os.fspath)
        if not files:
            raise TextError(f"the folder {path} has no .txt files")
        for file in files[part::parts]:
            try:
                name = os.fsencode(file.relative_to(path)).decode()
            except UnicodeDecodeError as error:
                raise TextError(f"the name of {str(file)!r} is no UTF-8 ({error}); rename it") from None
            yield f"{path.name}/{name}", file.read_bytes(), {"title": file.stem}
    elif path.name.endswith((".jsonl", ".jsonl.zst")):
        for number, line in enumerate(_json_lines(path), 1):
            if number % parts == part % parts and line.strip():
                fields = _fields(line, path, number)
                yield f"{path.name}:{number}", fields["text"], {"title": str(fields.get("title") or "")}
    elif path.suffix == ".txt":
        for offset, block in blocks(path, part, parts):
            yield f"{path.name}:{offset}", block, {"title": ""}
    else:
        raise TextError(f"{path} is no folder, .txt, .jsonl or .jsonl.zst file; decompress or convert it first")


def _json_lines(path: Path) -> Iterator[bytes]:
    if path.suffix == ".zst":
        yield from documents.lines(path)
    else:
        with open(path, "rb") as file:
            yield from file


def _fields(line: bytes, path: Path, number: int) -> dict:
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise TextError(f"{path}: line {number} is no JSON ({error})") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("text"), str):
        raise TextError(f"{path}: line {number} is no object with a text")
    return fields


def tidy(text: str | bytes, counts: Counter) -> str:
    """Text with LF line ends, without empty lines and control characters; what was mended is counted."""
    if isinstance(text, bytes):
        decoded = text.decode("utf-8", errors="replace")
        counts[NO_UTF8] += decoded.count("\ufffd") - text.count("\ufffd".encode())
        text = decoded.removeprefix("\ufeff")
    text, removed = CONTROL.subn("", text.replace("\r\n", "\n").replace("\r", "\n"))
    counts["control characters"] += removed
    lines = (line.strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, NoKnobs, "import_text")
    parser.add_argument("--input", type=Path, nargs="+", required=True, metavar="PATH", help="files and folders")
    parser.add_argument("--part", type=int, required=True, metavar="N", help="which part to make, from 0")
    parser.add_argument("--parts", type=int, required=True, metavar="N", help="how many parts there are")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="documents (.jsonl.zst)")
    parser.add_argument("--counts", type=Path, metavar="FILE", help="what came in, and why the rest went (.json)")
    args, _ = cli.parse(parser, argv)
    names = Counter(path.name for path in args.input)
    if twice := [name for name, count in names.items() if count > 1]:
        raise TextError(f"two paths are called {twice[0]}, so that ids would clash; rename one")
    mended, taken, empty, characters = Counter(), 0, 0, 0
    with cli.writing(args.output) as (output,), documents.writing(output) as writer:
        for path in args.input:
            for name, raw, fields in cli.progress(entries(path, args.part, args.parts), unit=" documents"):
                taken += 1
                text = tidy(raw, mended)
                characters += len(text)
                if text:
                    writer.write({"id": name, **fields, "text": text})
                else:
                    empty += 1
            if mended[NO_UTF8] > characters * MOST_NO_UTF8:
                raise TextError(f"{path} is no UTF-8; convert it, for example with: iconv -f CP932 -t UTF-8")
    for what, count in mended.items():
        if count:
            cli.log.info("%s replaced or removed: %s", what, f"{count:,}")
    if args.counts:
        with cli.writing(args.counts) as (path,):
            counts = {"in": taken, "out": writer.count, "dropped": {"empty": empty}}
            path.write_text(json.dumps(counts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    cli.closing("import_text", f"{taken:,} documents", f"{writer.count:,} documents", {"empty": empty})
