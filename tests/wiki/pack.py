"""Pack the embedded wiki as a mirror of dumps.wikimedia.org has it, byte for byte the same each time.

usage: pack.py FOLDER [--pages-per-stream N]

Each date gets the classic layout: multistream dump, its index, md5 and sha1 sums, dumpstatus.json. A page is a file of
header lines (`id`, `title`), a line `---`, and wikitext. 20261101/ holds only what changed since 20261001/: the same file
name is an edited page (moved, if its title changed), a new name a new page, `deleted: yes` a page that is gone.
"""

import argparse
import bz2
import hashlib
import json
from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
DATES = ("20261001", "20261101")
NAMESPACES = {"Wikipedia": 4, "ファイル": 6, "Template": 10, "Category": 14}
REDIRECT = ("#REDIRECT", "#転送", "＃転送")
HEADER = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="ja">
  <siteinfo>
    <sitename>jalm demo wiki</sitename>
    <dbname>jawiki</dbname>
    <namespaces>
      <namespace key="0" case="first-letter" />
{namespaces}
    </namespaces>
  </siteinfo>
"""
PAGE = """  <page>
    <title>{title}</title>
    <ns>{ns}</ns>
    <id>{id}</id>
{redirect}    <revision>
      <id>{revision}</id>
      <timestamp>{timestamp}</timestamp>
      <contributor>
        <username>jalm</username>
        <id>1</id>
      </contributor>
      <model>wikitext</model>
      <format>text/x-wiki</format>
      <text bytes="{size}" sha1="{sha1}" xml:space="preserve">{text}</text>
      <sha1>{sha1}</sha1>
    </revision>
  </page>
"""


def pages(date: str) -> list[dict]:
    """Pages that the wiki has at a date, by id."""
    found = {}
    for day in DATES[: DATES.index(date) + 1]:
        for path in sorted((HERE / day).glob("*.wiki")):
            head, _, text = path.read_text(encoding="utf-8").partition("\n---")
            page = dict(line.split(": ", 1) for line in head.splitlines())
            found[path.name] = {**page, "text": text.strip("\n"), "date": day}
    return sorted((page for page in found.values() if "deleted" not in page), key=lambda page: int(page["id"]))


def base36(number: int) -> str:
    """A SHA-1 as MediaWiki writes it: 31 digits of base 36."""
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits.zfill(31)


def element(page: dict) -> str:
    """The <page> element of a page."""
    text, prefix = page["text"], page["title"].partition(":")[0]
    redirect = ""
    if text.startswith(REDIRECT):
        target = text.split("[[", 1)[1].split("]]", 1)[0].split("#")[0]
        redirect = f'    <redirect title="{escape(target, {chr(34): "&quot;"})}" />\n'
    day = page["date"]
    return PAGE.format(
        id=page["id"],
        title=escape(page["title"]),
        ns=NAMESPACES.get(prefix, 0),
        redirect=redirect,
        revision=f"{day[2:]}{int(page['id']):05d}",
        timestamp=f"{day[:4]}-{day[4:6]}-{day[6:]}T00:00:00Z",
        size=len(text.encode()),
        sha1=base36(int(hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), 16)),
        text=escape(text),
    )


def pack(mirror: Path, date: str, pages_per_stream: int) -> None:
    """Write the dump of a date below `mirror`."""
    folder = mirror / "jawiki" / date
    folder.mkdir(parents=True, exist_ok=True)
    namespaces = "\n".join(f'      <namespace key="{key}">{name}</namespace>' for name, key in NAMESPACES.items())
    dump, index, all_pages = bz2.compress(HEADER.format(namespaces=namespaces).encode()), "", pages(date)
    for first in range(0, len(all_pages), pages_per_stream):
        chunk = all_pages[first : first + pages_per_stream]
        index += "".join(f"{len(dump)}:{page['id']}:{page['title']}\n" for page in chunk)
        dump += bz2.compress("".join(map(element, chunk)).encode())
    dump += bz2.compress(b"</mediawiki>\n")
    stem = f"jawiki-{date}-pages-articles-multistream"
    files = {f"{stem}.xml.bz2": dump, f"{stem}-index.txt.bz2": bz2.compress(index.encode())}
    listed = {}
    for name, content in files.items():
        (folder / name).write_bytes(content)
        sums = {kind: hashlib.new(kind, content).hexdigest() for kind in ("md5", "sha1")}
        listed[name] = {"size": len(content), "url": f"/jawiki/{date}/{name}", **sums}
    for kind in ("md5", "sha1"):
        lines = "".join(f"{entry[kind]}  {name}\n" for name, entry in listed.items())
        (folder / f"jawiki-{date}-{kind}sums.txt").write_text(lines, encoding="utf-8")
    job = {"status": "done", "updated": f"{date[:4]}-{date[4:6]}-03 00:00:00", "files": listed}
    status = {"version": "0.8", "jobs": {"articlesmultistreamdumprecombine": job}}
    (folder / "dumpstatus.json").write_text(json.dumps(status, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pages-per-stream", type=int, default=8, metavar="N")
    args = parser.parse_args()
    for day in DATES:
        pack(args.folder, day, args.pages_per_stream)
