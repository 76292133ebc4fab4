"""Turn the articles of one part of a dump into documents: the text that a reader sees.

wikiextractor does the cleaning, between a pass of our own before it and one after it (`formats/wikitext.py`). It is
run as a program (its licence is the AGPL) over XML that we have read, checked and written ourselves, because it hangs
on what is truncated and skips what it cannot read. What it gives back is counted.

Articles that an earlier dump has with the same wikitext and title are taken over from its documents, if the same code
made them with the same knobs: an article's text depends on nothing else.
"""

import hashlib
import importlib.metadata
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice, takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree.ElementTree import Element, ParseError, fromstring
from xml.sax.saxutils import escape

import orjson

from jalm import Fault, cli
from jalm.config import Extract
from jalm.formats import documents, earlier, templates, wikitext
from jalm.formats.blocks import Block, content, read_index
from jalm.knobs import flags

BATCH = 8_000_000  # characters given to one run of wikiextractor; its start costs 0.1 s
PROGRAM = [sys.executable, "-u", "-m", "wikiextractor.WikiExtractor"]  # -u: no finished text is lost in its buffer
BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"

# the option that makes wikiextractor work in one process, where an error ends it instead of leaving it waiting for a
# worker that died, demands a file of templates; it learns from it what their titles begin with
TEMPLATES = "<page>\n<title>Template:none</title>\n<text></text>\n</page>\n"


class DumpError(Fault):
    """A dump that cannot be read, or does not fit its index."""


class WikiextractorError(Fault):
    """wikiextractor is missing, or fails whatever it is given."""


@dataclass
class Page:
    """A page of the dump, as written."""

    id: int
    title: str
    namespace: int
    redirect: bool
    model: str
    revision: int
    sha1: str  # of the wikitext, base 36
    wikitext: str


@dataclass
class Article:
    """An article on its way through wikiextractor."""

    id: int
    revision: int
    sha1: str
    title: str
    prepared: str  # wikitext after our first pass
    text: str | None = None  # of an earlier document, in place of what is to be made


def part_of(index: list[Block], part: int, parts: int) -> range:
    """The blocks of one of `parts` parts with about equal bytes, by their places in the index; each is in one part."""
    total = sum(block.end - block.begin for block in index)
    chosen, before = [], 0
    for number, block in enumerate(index):
        length = block.end - block.begin
        if (2 * before + length) * parts // (2 * total) == part:  # by its middle
            chosen.append(number)
        before += length
    return range(chosen[0], chosen[-1] + 1) if chosen else range(0)


def sha1(text: str) -> str:
    """SHA-1 of a text as MediaWiki writes it: base 36, 31 digits."""
    number, digits = int(hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), 16), ""
    for _ in range(31):
        number, digit = divmod(number, 36)
        digits = BASE36[digit] + digits
    return digits


def page(element: Element) -> Page:
    """Page of a <page> element."""
    revision = element.find("revision")
    text = revision.find("text")
    wikitext = text.text or ""
    return Page(
        id=int(element.findtext("id")),
        title=element.findtext("title"),
        namespace=int(element.findtext("ns")),
        redirect=element.find("redirect") is not None,
        model=revision.findtext("model") or "wikitext",
        revision=int(revision.findtext("id")),
        sha1=text.get("sha1") or revision.findtext("sha1") or sha1(wikitext),
        wikitext=wikitext,
    )


def why_dropped(page: Page, rules: templates.Rules) -> str | None:
    """Why a page is no article, None if it is one."""
    if page.namespace:
        return "pages of other namespaces"
    if page.redirect or wikitext.is_redirect(page.wikitext):
        return "redirects"
    if page.model != "wikitext":
        return "pages that are no wikitext"
    if rules.is_disambiguation(page.wikitext):
        return "disambiguation pages"
    return None


def prepare(
    pages: Iterable[Page], rules: templates.Rules, known: earlier.Earlier, *, lists: bool, dropped: Counter
) -> Iterator[Article]:
    """The articles among some pages, with their texts where known; the other pages are counted in `dropped`, by reason."""
    for page in pages:
        if reason := why_dropped(page, rules):
            dropped[reason] += 1
        elif text := known.text(page.id, page.sha1, page.title):
            yield Article(page.id, page.revision, page.sha1, page.title, "", text)
        else:
            prepared = wikitext.prepare(page.wikitext, page.title, rules, lists=lists)
            yield Article(page.id, page.revision, page.sha1, page.title, prepared)


def batches(articles: Iterable[Article], size: int) -> Iterator[list[Article]]:
    """Articles in batches of `size` characters or a little more; the last may have less.

    Texts that are known cost memory only, and count an eighth.
    """
    batch, characters = [], 0
    for article in articles:
        batch.append(article)
        characters += len(article.prepared) + len(article.text or "") // 8
        if characters >= size:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def xml(texts: Iterable[str]) -> str:
    """Dump of some texts, with the line breaks that wikiextractor wants; pages are numbered from 0.

    All of them have one short title: wikiextractor makes nothing of it.
    """
    pages = (
        f"<page>\n<title>page</title>\n<ns>0</ns>\n<id>{number}</id>\n<text>{escape(text)}</text>\n</page>\n"
        for number, text in enumerate(texts)
    )
    return f"<mediawiki>\n{''.join(pages)}</mediawiki>\n"


# ---- files and processes

# of a corrupt dump; one that mirror names on disk is linked again as it is, unless its checksum is demanded
ANEW = (
    "remove the folder {}, if download made it, so that download verifies the dump and loads it anew (one of your own, "
    "which mirror names on disk, has to be got anew first)"
)


def read_pages(dump: Path, index: list[Block], chosen: range) -> Iterator[Page]:
    """Pages that begin in some blocks of a dump, in order.

    Raises:
        DumpError: a file of the dump is truncated or corrupt, or its pages are not well-formed.
    """
    files = [(name, list(numbers)) for name, numbers in groupby(chosen, lambda number: index[number].file)]
    for name, numbers in files:
        size = (dump / name).stat().st_size
        if index[numbers[-1]].end > 8 * size:
            raise DumpError(
                f"{dump / name} has {size} bytes, but its index a block that ends at byte {index[numbers[-1]].end // 8};"
                " it is truncated, or the index is another dump's: " + ANEW.format(dump)
            )
    for name, numbers in files:
        following = takewhile(lambda block, name=name: block.file == name, islice(index, numbers[0], None))
        yield from _pages(dump / name, following, len(numbers))


def _pages(path: Path, blocks: Iterable[Block], own: int) -> Iterator[Page]:
    """Pages that begin in the first `own` blocks; the last of them may end in a later one."""
    text, limit, begin, title = b"", None, -1, None
    with open(path, "rb") as file:
        for number, block in enumerate(blocks):
            if number == own:
                limit = len(text) + len(b"<page>") - 1  # a tag that ends here begins in a block of ours
            try:
                text += content(file, block)
                at = 0
                while (begin := text.find(b"<page>", at, limit)) >= 0 and (end := text.find(b"</page>", begin)) >= 0:
                    at = end + len(b"</page>")
                    read = page(fromstring(text[begin:at]))  # noqa: S314  (an element has no DTD)
                    title = read.title
                    yield read
            except (OSError, ParseError, AttributeError, TypeError, ValueError) as error:
                raise _corrupt(path, block, error, title) from None
            if limit is not None and begin < 0:
                return
            kept = begin if begin >= 0 else max(at, len(text) - len(b"<page>") + 1)
            text, limit = text[kept:], limit if limit is None else limit - kept
    if begin >= 0:
        raise _corrupt(path, block, "it ends within a page", title)


def _corrupt(path: Path, block: Block, why: object, title: str | None) -> DumpError:
    last = f"; the last page read is {title!r}" if title else ""
    return DumpError(
        f"{path}: the block at byte {block.begin // 8} cannot be read ({why}){last}; it is corrupt: "
        + ANEW.format(path.parent)
    )


def run_wikiextractor(texts: list[str], folder: Path, time_limit: float) -> tuple[list[str], str]:
    """What wikiextractor makes of the first texts, in order, and its complaint if these are not all."""
    dump, templates, output, errors = (folder / name for name in ("dump.xml", "templates.xml", "output", "errors"))
    dump.write_text(xml(texts), encoding="utf-8", newline="\n")
    templates.write_text(TEMPLATES, encoding="utf-8", newline="\n")
    options = ["--json", "--no-templates", "--article", "--templates", str(templates), str(dump)]
    with open(output, "wb") as out, open(errors, "wb") as err:
        try:
            status = subprocess.run(
                PROGRAM + options, stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=time_limit, check=False
            ).returncode
            if status == -signal.SIGINT:  # Ctrl-C reached it, whether or not it reached us
                raise KeyboardInterrupt
            complaint = f"exit status {status}"
        except subprocess.TimeoutExpired:
            complaint = f"not finished after {time_limit} seconds"
    made = []
    for number, line in enumerate(output.read_bytes().split(b"\n")[:-1]):
        document = orjson.loads(line)
        if int(document["id"]) != number:
            break
        made.append(document["text"])
    return made, f"{complaint} {errors.read_text(encoding='utf-8', errors='replace')[-2000:].strip()}"


def cleaned(batch: list[Article], folder: Path, time_limit: float) -> Iterator[str | None]:
    """Text that wikiextractor makes of each article, None for one that it does not bring back even alone.

    Raises:
        WikiextractorError: it does not bring back anything.
    """
    done = 0
    while done < len(batch):
        made, complaint = run_wikiextractor([article.prepared for article in batch[done:]], folder, time_limit)
        yield from made
        done += len(made)
        if done < len(batch):
            cli.log.info("extract: wikiextractor stopped at %r (%s); it goes on alone", batch[done].title, complaint)
            yield _alone(batch[done], folder, time_limit)
            done += 1


def texts(batch: list[Article], folder: Path, config: Extract) -> Iterator[str | None]:
    """Text of each article, None for one that wikiextractor fails on."""
    made = cleaned([article for article in batch if article.text is None], folder, config.time_limit)
    for article in batch:
        if article.text is not None:
            yield article.text
        else:
            raw = next(made)
            yield None if raw is None else wikitext.finish(raw, headings=config.headings)


def _alone(article: Article, folder: Path, time_limit: float) -> str | None:
    made, complaint = run_wikiextractor([article.prepared], folder, time_limit)
    if made:
        return made[0]
    if not run_wikiextractor(["文。"], folder, time_limit)[0]:
        raise WikiextractorError(f"wikiextractor fails on any page: {complaint}")
    cli.log.warning("extract: wikiextractor fails on %r (page %d): %s", article.title, article.id, complaint)
    return None


def made_by(code: str, config: Extract, tables: Iterable[Path]) -> str:
    """Digest of all that decides what an article's wikitext becomes."""
    version = importlib.metadata.version("wikiextractor")
    said = [code, flags(config), version, *(path.read_text(encoding="utf-8") for path in tables)]
    return hashlib.sha256("\0".join(said).encode()).hexdigest()


def main(argv: list[str] | None = None) -> None:
    """Write the documents of one part of a dump."""
    parser = cli.parser(__doc__, Extract, "extract")
    parser.add_argument("--dump", type=Path, required=True, metavar="FOLDER", help="files of the dump (.xml.bz2)")
    parser.add_argument("--index", type=Path, required=True, metavar="FILE", help="where their blocks lie (.tsv)")
    parser.add_argument("--part", type=int, required=True, metavar="N", help="which part to make, from 0")
    parser.add_argument("--parts", type=int, required=True, metavar="N", help="how many parts there are")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the documents (.jsonl.zst)")
    parser.add_argument("--counts", type=Path, metavar="FILE", help="what came in, and why the rest went (.json)")
    parser.add_argument(
        "--code", default="", help="digest of this code; without it, nothing is taken over, now or later"
    )
    parser.add_argument("--earlier", type=Path, metavar="FOLDER", help="documents of an earlier dump to take over from")
    args, config = cli.parse(parser, argv)
    if not 0 <= args.part < args.parts:
        parser.error(f"--part {args.part} is not one of 0 to {args.parts - 1}")
    tables = [templates.TABLE, *map(Path, filter(None, [config.templates]))]
    rules = templates.load(*tables)
    try:
        digest = made_by(args.code, config, tables)
    except importlib.metadata.PackageNotFoundError:
        raise WikiextractorError(f"{sys.executable} has no wikiextractor; install envs/requirements.txt") from None
    known = earlier.Earlier(args.earlier if args.code else None, digest)
    index = read_index(args.index)
    dropped, ids = Counter(), []
    earlier.forget(args.output)
    with cli.writing(args.output) as (partial,), documents.writing(partial) as writer, TemporaryDirectory() as folder:
        pages = cli.progress(read_pages(args.dump, index, part_of(index, args.part, args.parts)), unit=" pages")
        for batch in batches(prepare(pages, rules, known, lists=config.lists, dropped=dropped), BATCH):
            for article, text in zip(batch, texts(batch, Path(folder), config), strict=True):
                if text:
                    document = {"id": article.id, "revision": article.revision, "sha1": article.sha1}
                    writer.write(document | {"title": article.title, "text": text})
                    ids.append(article.id)
                else:
                    dropped["failed articles" if text is None else "empty articles"] += 1
    if args.counts:
        with cli.writing(args.counts) as (path,):
            counts = {"in": writer.count + dropped.total(), "out": writer.count, "dropped": dropped}
            path.write_text(json.dumps(counts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if args.code:
        earlier.note(args.output, digest, ids)
    if args.earlier:
        cli.log.info("extract: %s documents taken over from %s", f"{known.reused:,}", args.earlier)
    cli.closing("extract", f"{writer.count + dropped.total():,} pages", f"{writer.count:,} documents", dropped)
