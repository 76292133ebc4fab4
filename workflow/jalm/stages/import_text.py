"""Bring local text in as documents: CC-100 and corpora of one's own.

A .txt or .txt.xz file holds documents separated by blank lines (as CC-100 does), a .jsonl, .jsonl.zst or .jsonl.xz file
one document a line, a .parquet file one a row, a folder one in each of its .txt files. Those below the sub-folders
train, valid and test of a folder stay on that side. A document's id is its file's name and its place in it (the byte it
begins at, or the line or row), so that ids depend neither on the number of parts nor on .xz or .zst.
"""

import json
import lzma
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from jalm import Fault, cli
from jalm.config import SIDES, ImportText
from jalm.formats import documents

CHUNK = 1 << 20  # bytes read at once
LOOK_BACK = 1 << 16  # bytes before a stretch that are read to see whether a document runs on into it
LARGEST = 1 << 26  # bytes of a document; where there is none below that, blank lines separate no documents
ROWS = 256  # of a parquet file in memory at once

BLANK = b" \t\n\v\f\r\xe3\x80"  # white space of ASCII, and the bytes of U+3000, of which UTF-8 makes nothing else
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # surrogates but those that stand for bytes
NO_UTF8 = "bytes that are no UTF-8"
CONTROLS = "control characters"
LONG_LINES = "lines longer than max_line_bytes"
MOST_NO_UTF8 = 0.1  # of the characters; more is another encoding, not damage


class TextError(Fault):
    """Local text that cannot be read as documents."""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file to read and seek in, decompressed if it is an .xz; a seek there costs the decompression of its block."""
    if path.suffix != ".xz":
        with open(path, "rb") as file:
            yield file
        return
    import xz

    try:
        with xz.open(path, "rb") as file:
            yield file
    except (xz.XZError, lzma.LZMAError, EOFError) as error:
        raise TextError(f"{path} is no whole .xz file ({error}); fetch it again, and test it with: xz -t") from None


def blocks(path: Path, part: int, parts: int, max_line_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Blank-line separated documents that begin in one of `parts` equal stretches of a file, with their offsets.

    White space makes a line no less blank, nor do ideographic spaces (U+3000) in one of at most `max_line_bytes`.
    Only the stretch is read, and what its last document has beyond it (of an .xz file also what lies between it and the
    beginning of the block that it begins in).

    Raises:
        TextError: a document that is larger than any.
    """
    with opened(path) as file:
        total = file.seek(0, os.SEEK_END)
        start, end = total * part // parts, total * (part + 1) // parts
        offset, before = _line_before(file, start)
        inside = False  # a document that began before the stretch
        begin, length, found = offset, 0, []
        for size, line in lines(file, max_line_bytes, before):
            here, offset = offset, offset + size
            if here >= end and not found:
                return
            if here < start:
                inside = not _is_blank(line, max_line_bytes)
            elif _is_blank(line, max_line_bytes):
                inside = False
                if found:
                    yield begin, b"".join(found)
                    found, length = [], 0
            elif not inside:
                begin = begin if found else here
                found.append(line)
                length += len(line)
                if length > LARGEST:
                    raise TextError(
                        f"{path} has no blank line in the {LARGEST:,} bytes after byte {begin:,}; put one between any "
                        "two documents, or make it a .jsonl"
                    )
        if found:
            yield begin, b"".join(found)


def _is_blank(line: bytes, most: int) -> bool:
    # of a line beyond `most`, `lines` may not show what it is made of
    return line.isspace() or (len(line) <= most and not line.strip(BLANK))


def _line_before(file: BinaryIO, start: int) -> tuple[int, bytes]:
    """Offset of a line that begins before `start` (or of the end of one that is not blank), and the bytes between."""
    back = LOOK_BACK
    while True:
        origin = max(0, start - back)
        file.seek(origin)
        before = file.read(start - origin)
        begin = before.find(b"\n", 0, -1) + 1
        if begin or origin == 0 or before.strip(BLANK):  # not even a piece of a blank line
            return origin + begin, before[begin:]
        back *= 2


def lines(file: BinaryIO, most: int, before: bytes = b"") -> Iterator[tuple[int, bytes]]:
    """Length and bytes of each line of `before` and the rest of a file; x stand for one far longer than `most`."""
    rest, left_out = before, 0
    while chunk := file.read(CHUNK):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield left_out + len(line) + 1, line + b"\n"
            left_out = 0
        if len(rest) > most + CHUNK:
            left_out += len(rest) - (most + 1)
            rest = (b" " if rest.isspace() else b"x") * (most + 1)
    if rest:
        yield left_out + len(rest), rest


def rows(path: Path, part: int, parts: int, text_column: str) -> Iterator[tuple[int, bytes, str]]:
    """Number, text and title of the rows in one of `parts` equal stretches of a parquet file; a null is no text.

    Raises:
        TextError: no parquet file, or one without that column of strings.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, buffer_size=CHUNK) as file:
            names = file.schema_arrow.names
            if text_column not in names:
                raise TextError(f"{path} has no column {text_column!r}; set text_column to one of: {', '.join(names)}")
            columns = [name for name in (text_column, "title") if name in names]
            total, first = file.metadata.num_rows, 0
            start, end = total * part // parts, total * (part + 1) // parts
            for group in range(file.num_row_groups):
                number, first = first, first + file.metadata.row_group(group).num_rows
                if first <= start or number >= end:
                    continue
                for batch in file.iter_batches(ROWS, row_groups=[group], columns=columns):
                    # as bytes: pyarrow reads strings that are no UTF-8, but makes no Python strings of them
                    strings = [batch.column(name).cast(pyarrow.binary()).to_pylist() for name in columns]
                    for text, *title in zip(*strings, strict=True):
                        if start <= number < end:
                            yield number, text or b"", (title[0] or b"").decode(errors="replace") if title else ""
                        number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise TextError(f"{path} cannot be read as parquet with a column {text_column!r} of text ({error})") from None


def entries(path: Path, part: int, parts: int, config: ImportText) -> Iterator[tuple[str, bytes, dict]]:
    """Id, text and other fields of each document that one part of `parts` takes from a file or folder.

    Raises:
        TextError: a file of an unknown kind, a name that is no UTF-8, or a line that is no JSON object with a text.
    """
    name = called(path)
    if path.is_dir():
        files = sorted(path.rglob("*.txt"), key=os.fspath)
        others = []
        if part == 0 or not files:  # one walk of the folder, one line in the logs
            others = sorted(
                (file for file in path.rglob("*") if file.suffix != ".txt" and file.is_file()), key=os.fspath
            )
        named = ", ".join(map(repr, map(str, others[:5]))) + ", …" * (len(others) > 5)
        if not files:
            hint = f", but {len(others)} of other kinds ({named}); list these themselves in paths" if others else ""
            raise TextError(f"the folder {path} has no .txt files{hint}")
        if others:
            cli.log.info("%s: %d files are passed over, because they are no .txt: %s", path, len(others), named)
        for file in files[part::parts]:
            try:
                inner = os.fsencode(file.relative_to(path)).decode()
            except UnicodeDecodeError as error:
                raise TextError(f"the name of {str(file)!r} is no UTF-8 ({error}); rename it") from None
            if file.stat().st_size > LARGEST:
                raise TextError(f"{file} is larger than a document ({LARGEST:,} bytes); give it as a path of its own")
            top = inner.partition("/")[0]
            yield f"{name}/{inner}", file.read_bytes(), {"title": file.stem, **({"side": top} if top in SIDES else {})}
    elif name.endswith(".jsonl"):
        for number, line in enumerate(_json_lines(path), 1):
            if number % parts == part % parts and line.strip():
                text, title = _fields(line, path, number, config.text_column)
                yield f"{name}:{number}", text, {"title": title}
    elif path.suffix == ".parquet":
        for number, text, title in rows(path, part, parts, config.text_column):
            yield f"{name}:{number}", text, {"title": title}
    elif path.suffix in (".txt", ".xz") and Path(name).suffix in (".txt", ""):
        for offset, block in blocks(path, part, parts, config.max_line_bytes):
            yield f"{name}:{offset}", block, {"title": ""}
    else:
        raise TextError(
            f"{path} is no folder, .txt, .xz, .jsonl, .jsonl.zst or .parquet file; decompress or convert it"
        )


def _json_lines(path: Path) -> Iterator[bytes]:
    if path.suffix == ".zst":
        yield from documents.lines(path, "fetch or make it anew, and test it with: zstd -t")
    else:
        with opened(path) as file:
            for _, line in lines(file, LARGEST):
                yield line


def _fields(line: bytes, path: Path, number: int, text_column: str) -> tuple[bytes, str]:
    """Text and title of a line of JSON; bytes of the text that are no UTF-8 are left for `tidy` to count."""
    try:
        fields = json.loads(line.decode(errors="surrogateescape"))
        text = fields.get(text_column) if isinstance(fields, dict) else None
        # half a pair (\\ud83d) is no text: like a byte that is no UTF-8
        raw = HALF.sub("\udcff", text).encode(errors="surrogateescape") if isinstance(text, str) else None
    except ValueError as error:
        raise TextError(f"{path}: line {number} is no JSON ({error})") from None
    if not isinstance(fields, dict):
        raise TextError(f"{path}: line {number} is no JSON object ({{…}}) with a key {text_column!r}")
    if text_column not in fields:
        known = ", ".join(fields) or "(none)"
        raise TextError(f"{path}: line {number} has no key {text_column!r}; set text_column to one of: {known}")
    if raw is None:
        raise TextError(f"{path}: line {number} has no text under {text_column!r} (text_column), but {text!r:.60}")
    return raw, str(fields.get("title") or "").encode(errors="replace").decode()


def tidy(raw: bytes, counts: Counter, max_line_bytes: int) -> str:
    """Text with LF line ends, without empty and too long lines and control characters; what was mended is counted."""
    if len(raw) > max_line_bytes:
        kept = [line for line in raw.split(b"\n") if len(line) <= max_line_bytes or not line.strip()]
        counts[LONG_LINES] += raw.count(b"\n") + 1 - len(kept)
        raw = b"\n".join(kept)
    decoded = raw.decode(errors="replace")
    counts[NO_UTF8] += decoded.count("\ufffd") - raw.count("\ufffd".encode())
    text, removed = CONTROL.subn("", decoded.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n"))
    counts[CONTROLS] += removed
    lines = (line.strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def called(path: Path) -> str:
    """Name of a file or folder in ids, which stay when it is decompressed."""
    return re.sub(r"\.(xz|zst)$", "", path.name)


def distinct(paths: list[Path]) -> None:
    """Refuse paths of one name, whose ids would clash.

    Raises:
        TextError: two of them have one.
    """
    seen: dict[str, Path] = {}
    for path in paths:
        if other := seen.get(called(path)):
            both = f"{other} and {path} are both called {called(path)} in ids; rename one"
            raise TextError(f"{path} is listed twice in paths; remove one" if other == path else both)
        seen[called(path)] = path


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, ImportText, "import_text")
    parser.add_argument("--input", type=Path, nargs="+", required=True, metavar="PATH", help="files and folders")
    parser.add_argument("--part", type=int, required=True, metavar="N", help="which part to make, from 0")
    parser.add_argument("--parts", type=int, required=True, metavar="N", help="how many parts there are")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="documents (.jsonl.zst)")
    parser.add_argument("--counts", type=Path, metavar="FILE", help="what came in, and why the rest went (.json)")
    args, config = cli.parse(parser, argv)
    distinct(args.input)
    mended, first, taken, empty = Counter(), {}, 0, 0
    with cli.writing(args.output) as (output,), documents.writing(output) as writer:
        for path in args.input:
            characters, broken = 0, 0
            for name, raw, fields in cli.progress(entries(path, args.part, args.parts, config), unit=" documents"):
                taken += 1
                counts = Counter()
                text = tidy(raw, counts, config.max_line_bytes)
                for what in +counts:
                    first.setdefault(what, name)
                    if config.strict:
                        raise TextError(f"{name} has {counts[what]:,} {what}; mend it, or set strict: false")
                mended += counts
                characters += len(text)
                broken += counts[NO_UTF8]
                if text:
                    writer.write({"id": name, **fields, "text": text})
                else:
                    empty += 1
            if broken > characters * MOST_NO_UTF8:
                raise TextError(f"{path} is no UTF-8; convert it, for example with: iconv -f CP932 -t UTF-8")
    for what, count in mended.items():
        cli.log.info("%s replaced or removed: %s, the first in %s", what, f"{count:,}", first[what])
    if args.counts:
        with cli.writing(args.counts) as (path,):
            counts = {"in": taken, "out": writer.count, "dropped": {"empty": empty}}
            path.write_text(json.dumps(counts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    cli.closing("import_text", f"{taken:,} documents", f"{writer.count:,} documents", {"empty": empty})
