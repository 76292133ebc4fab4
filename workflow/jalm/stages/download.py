"""Fetch a Wikipedia dump from a mirror, verify it, and note where it can be cut.

Sizes and checksums come from the mirror; a dump that is not done is refused. The files keep their names from the mirror,
and the output is a folder of hard links to them: made stale, this stage verifies what is there instead of loading it
again, also when the mirror has given the dump up. A download that was cut off is resumed. A dump that is on disk
already is linked from where it lies: mirror is then its path (file:/…/jawiki-20261101-pages-articles.xml.bz2).
"""

import datetime
import hashlib
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from jalm import Fault, __version__, cli
from jalm.config import Download
from jalm.formats import blocks

CHUNK = 1 << 16  # bytes read at once; a connection that breaks loses at most so many
TIMEOUT = 60  # seconds without a byte before a connection counts as lost
BACKOFF = 1  # seconds before a failed request is made again, twice as many each time
PATIENCE = 600  # seconds that a mirror may ask us to wait
LAYOUTS = {  # folder of the dates of a wiki, and how dates are written there
    "classic": ("{wiki}", r"\d{8}"),
    "content": ("other/mediawiki_content_current/{wiki}", r"\d{4}-\d\d-\d\d"),
}


class MirrorError(Fault):
    """A mirror that does not have, or does not give, what was asked for."""


class ConnectionLost(MirrorError):
    """A connection that broke while a file was on its way."""


class ChecksumError(Fault):
    """A file whose size or checksum is not what its mirror lists, or that is no dump."""


class Listed(NamedTuple):
    """What a mirror lists of a file."""

    url: str  # below the mirror's root
    size: int | None  # bytes
    sums: dict[str, str]  # by algorithm


class Body(NamedTuple):
    """A file on its way."""

    start: int  # byte that it begins at
    size: int | None  # bytes that the whole file has, as far as the mirror says
    parts: Iterator[bytes]


class Folder:
    """A mirror in a local folder (`file:`)."""

    retries = 0  # it has no more bytes the next time

    def __init__(self, root: Path) -> None:
        if root.is_file():
            raise MirrorError(f"mirror file:{root} is one dump on disk: there are no dates to list")
        if not root.is_dir():
            raise MirrorError(f"mirror file:{root}: there is no folder {root.absolute()}, and no dump")
        self.root = root

    def names(self, path: str) -> list[str]:
        """Names of what is in a folder."""
        return sorted(found.name for found in self.root.glob(f"{path}/*"))

    def text(self, path: str) -> str | None:
        """A small file, None if the mirror has no such file."""
        file = self.root / path
        return file.read_text(encoding="utf-8") if file.is_file() else None

    def body(self, path: str, start: int) -> Body:
        """A file from byte `start` on."""
        file = self.root / path
        if not file.is_file():
            raise MirrorError(f"mirror file:{self.root} lists {path} but does not have it")
        return Body(start, None, _read(file, start))


class Website:
    """A mirror behind http or https."""

    def __init__(self, address: str, contact: str, retries: int) -> None:
        import requests
        from urllib3.util import Retry

        real = re.search(r"\S@\S|https?://\S", contact) and contact.isascii() and contact.isprintable()
        if not real and (contact or address.startswith("https:")):
            raise MirrorError(
                f"contact is {contact!r} in config.yaml: Wikimedia asks for a mail address or page (https://…) in the "
                "User-Agent and refuses programs that hide it; set contact"
            )
        self.root = address.rstrip("/")
        self.contact, self.retries = contact, retries
        self.session = requests.Session()
        self.session.headers["User-Agent"] = f"jalm/{__version__} ({contact})"
        self.session.headers["Accept-Encoding"] = "identity"  # compressed on the way, a Range would count other bytes
        logging.getLogger("urllib3.util.retry").setLevel(logging.DEBUG)  # the log says that a request is made again
        retry = Retry(
            retries,
            backoff_factor=BACKOFF,  # if there is no Retry-After
            retry_after_max=PATIENCE,
            status_forcelist=(429, 500, 502, 503, 504),
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))

    def names(self, path: str) -> list[str]:
        """Names of what is in a folder, by its listing."""
        return sorted(set(re.findall(r'href="(?:[^"]*/)?([^"/]+)/?"', self.text(f"{path}/") or "")))

    def text(self, path: str) -> str | None:
        """A small file, None if the mirror has no such file."""
        response = self._get(path)
        return None if response.status_code == 404 else response.content.decode("utf-8", errors="replace")

    def body(self, path: str, start: int) -> Body:
        """A file from byte `start` on, or from 0 if the mirror cannot resume there."""
        response = self._get(path, {"Range": f"bytes={start}-"} if start else {}, stream=True)
        if response.status_code == 404:
            raise MirrorError(
                f"{self.root}/{path} is listed by the mirror, which answers 404 for it; try another mirror"
            )
        if response.status_code == 416:  # it has no byte from there on
            return Body(start, None, iter(()))
        whole = response.headers.get("Content-Length", "")
        if response.status_code == 206:
            whole = response.headers.get("Content-Range", "").rpartition("/")[2]
        else:
            start = 0
        return Body(start, int(whole) if whole.isdecimal() else None, self._parts(response))

    def _get(self, path: str, headers: dict[str, str] | None = None, stream: bool = False):
        import requests

        url = f"{self.root}/{path}"
        try:
            response = self.session.get(url, headers=headers, stream=stream, timeout=TIMEOUT)
        except requests.RequestException as error:
            raise MirrorError(
                f"{url} cannot be reached ({error}); check mirror in config.yaml and the network"
            ) from None
        status = response.status_code
        if status == 403:
            raise MirrorError(
                f"{url} answers 403 (forbidden): the mirror wants a User-Agent with a real contact, and was told "
                f"{self.contact!r}; set contact in config.yaml, or try another mirror"
            )
        if status >= 400 and status != 404 and not (status == 416 and headers):
            raise MirrorError(
                f"{url} answers {status} ({response.reason}) after {self.retries} retries; "
                "try again later, or another mirror (https://dumps.wikimedia.org/mirrors.html)"
            )
        return response

    def _parts(self, response) -> Iterator[bytes]:
        import requests

        try:
            yield from response.iter_content(CHUNK)
        except requests.RequestException as error:
            raise ConnectionLost(str(error)) from None


Mirror = Folder | Website


def local(address: str) -> Path | None:
    """Path that a `file:` address names."""
    parts = urlsplit(address)
    return Path(unquote(parts.netloc + parts.path)) if parts.scheme == "file" else None


def mirror_at(config: Download) -> Mirror:
    """The mirror that the configuration names."""
    path = local(config.mirror)
    return Folder(path) if path is not None else Website(config.mirror, config.contact, config.retries)


# ---- what a mirror lists


def dates(mirror: Mirror, wiki: str, layout: str) -> list[str]:
    """Dates of a wiki's dumps in a layout, YYYYMMDD, oldest first; those that have only begun too."""
    folder, pattern = LAYOUTS[layout]
    names = mirror.names(folder.format(wiki=wiki))
    return sorted(name.replace("-", "") for name in names if re.fullmatch(pattern, name))


def listed_files(mirror: Mirror, wiki: str, date: str, layout: str) -> dict[str, Listed]:
    """Name to what is listed of each file of a dump, in the order of their pages; empty if the dump is not done."""
    return (_classic if layout == "classic" else _content)(mirror, wiki, date)


def _classic(mirror: Mirror, wiki: str, date: str) -> dict[str, Listed]:
    path, name = f"{wiki}/{date}/dumpstatus.json", f"{wiki}-{date}-pages-articles-multistream.xml.bz2"
    status = mirror.text(path)
    if status is None:
        return {}
    try:
        done = [job for job in json.loads(status)["jobs"].values() if job["status"] == "done"]
        files = {found: file for job in done for found, file in job.get("files", {}).items()}  # in whichever job it is
        return {
            found: Listed(file["url"].lstrip("/"), file["size"], {"sha1": file["sha1"]})
            for found, file in files.items()
            if found == name
        }
    except json.JSONDecodeError as error:
        raise MirrorError(f"{mirror.root}/{path} is no JSON ({error}); check mirror") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise MirrorError(f"{mirror.root}/{path} lacks {error}; check mirror") from None


def _content(mirror: Mirror, wiki: str, date: str) -> dict[str, Listed]:
    dashed = f"{date[:4]}-{date[4:6]}-{date[6:]}"
    folder = f"{LAYOUTS['content'][0].format(wiki=wiki)}/{dashed}/xml/bzip2"
    if mirror.text(f"{folder}/_SUCCESS") is None:
        return {}
    sums = mirror.text(f"{folder}/SHA256SUMS") or ""
    found = re.findall(rf"(?m)^([0-9a-f]{{64}}) [ *]({wiki}-{dashed}[\w.-]*\.xml\.bz2)$", sums)
    if not found:
        raise MirrorError(f"{mirror.root}/{folder}/SHA256SUMS lists no {wiki}-{dashed}-….xml.bz2; check mirror")
    found.sort(key=lambda entry: [int(number) for number in re.findall(r"\d+", entry[1])])  # by their first page
    return {name: Listed(f"{folder}/{name}", None, {"sha256": sha256}) for sha256, name in found}


def layouts(config: Download) -> list[str]:
    """Layouts that are asked for, the first choice first."""
    return list(LAYOUTS) if config.layout == "auto" else [config.layout]


def choose(mirror: Mirror, config: Download) -> tuple[str, str, dict[str, Listed]]:
    """Layout, mirror and files of the dump that the configuration wants.

    Raises:
        MirrorError: the mirror has no dump of that date, or not yet.
    """
    for layout in layouts(config):
        if files := listed_files(mirror, config.wiki, config.date, layout):
            return layout, config.mirror.rstrip("/"), files
    offered = {layout: dates(mirror, config.wiki, layout) for layout in layouts(config)}
    begun = [layout for layout in offered if config.date in offered[layout]]
    if begun:
        raise MirrorError(
            f"{mirror.root} has begun the dump {config.wiki} {config.date} ({', '.join(begun)}), but does not list it "
            "as done; choose another dump_date, or wait until it is"
        )
    known = "; ".join(f"{', '.join(found)} ({layout})" for layout, found in offered.items() if found)
    raise MirrorError(
        f"dump_date is {config.date}, which {mirror.root} does not have; it has: {known or f'none of {config.wiki}'}"
    )


# ---- files


def fetch(mirror: Mirror, name: str, listed: Listed, folder: Path, stop: threading.Event) -> None:
    """Bring the file `name` into `folder`, verified; what is there already is verified only.

    Raises:
        ChecksumError: the file is not what the mirror lists.
        ConnectionLost: `stop` was set.
    """
    path = folder / name
    ((algorithm, want),) = listed.sums.items()
    if _is(path, listed):
        cli.log.info("%s is here already, and as the mirror lists it", name)
        return
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(name + ".part")
    for attempt in range(mirror.retries + 1):
        stop.wait(BACKOFF * 2 ** (attempt - 1) if attempt else 0)
        if _resume(mirror, listed, part, stop):
            break
    else:
        size = f"{mirror.root} lists {listed.size:,}" if listed.size else "and the connection breaks"
        raise ChecksumError(
            f"{name} ends after {part.stat().st_size:,} bytes, {size}; "
            "the partial file was kept as *.part, run again to resume"
        )
    found = _checksum(part, algorithm)
    if found != want:
        part.unlink()
        raise ChecksumError(
            f"{algorithm} of {name} is {found}, {mirror.root} lists {want}; the file was removed, run again to load it "
            "anew, or try another mirror"
        )
    part.replace(path)


def _resume(mirror: Mirror, listed: Listed, part: Path, stop: threading.Event) -> bool:
    """Append to `part` what is missing of a file; whether all of it is there then."""
    have = part.stat().st_size if part.is_file() else 0
    if listed.size is not None and have >= listed.size:  # a mirror has no bytes to give from there on
        return True
    start, size, parts = mirror.body(listed.url, have)
    if None not in (size, listed.size) and size != listed.size:
        raise MirrorError(
            f"{mirror.root}/{listed.url} has {size:,} bytes by its Content-Length, {listed.size:,} by the mirror's list; "
            "nothing of it was loaded: try again later, or another mirror"
        )
    total = listed.size or size
    try:
        with open(part, "r+b" if start else "wb") as file:
            file.seek(start)
            for block in cli.progress(parts, unit=" x 64 KiB", total=(total - start) // CHUNK if total else None):
                if stop.is_set():
                    raise ConnectionLost("another file failed")
                file.write(block)
    except ConnectionLost as error:
        if stop.is_set():
            raise
        cli.log.info("connection lost after byte %s (%s)", f"{part.stat().st_size:,}", error)
        return False
    except OSError as error:
        if error.errno not in cli.FULL:
            raise
        raise cli.DiskFull(
            f"{part} cannot grow beyond {part.stat().st_size:,} bytes{f' of {total:,}' if total else ''} "
            f"({error.strerror}); it was kept: make room and run again to resume"
        ) from None
    return listed.size is None or part.stat().st_size >= listed.size


def fetch_all(mirror: Mirror, files: dict[str, Listed], folder: Path, connections: int) -> None:
    """Bring all files of a dump, `connections` at a time."""
    stop = threading.Event()
    if connections == 1:  # without threads, so that Ctrl-C ends any pause
        for name, listed in files.items():
            fetch(mirror, name, listed, folder, stop)
        return
    with ThreadPoolExecutor(connections) as pool:
        brought = [pool.submit(fetch, mirror, name, listed, folder, stop) for name, listed in files.items()]
        try:
            for failed in wait(brought, return_when=FIRST_EXCEPTION).done:
                failed.result()
        finally:  # the others end at their next block
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def earlier(record: Path, config: Download) -> tuple[str, str, dict[str, Listed]] | None:
    """Layout, mirror and files on record, if they are what the configuration wants and are all here, unchanged."""
    if not record.is_file():
        return None
    known = json.loads(record.read_text(encoding="utf-8"))
    # a dump on disk is kept for the day when it lies there no more, not for a mirror that was asked for in its place
    allowed = ["file"] if config.mirror.endswith(".bz2") else layouts(config)
    if known["layout"] not in allowed or (known["wiki"], known["date"]) != (config.wiki, config.date):
        return None
    root = known["mirror"]
    files = {name: Listed(**file) for name, file in known["files"].items()}
    files = {name: file._replace(url=file.url.removeprefix(f"{root}/")) for name, file in files.items()}
    if not all(_is(record.parent / name, file) for name, file in files.items()):
        return None
    return known["layout"], root, files


def on_disk(path: Path, config: Download) -> dict[str, Listed]:
    """The one file of a dump that is on disk already.

    Raises:
        ChecksumError: it has another checksum than is demanded.
        MirrorError: nothing says that it is of the wanted date.
    """
    sha1 = _checksum(path, "sha1")
    if config.sha1 and sha1 != config.sha1:
        raise ChecksumError(f"sha1 of {path} is {sha1}, config.yaml demands {config.sha1}")
    if not config.sha1 and config.date not in path.name.replace("-", ""):
        raise MirrorError(
            f"mirror is {path}, whose name does not have dump_date {config.date}; if it is it, set sha1: {sha1}"
        )
    return {path.name: Listed(path.name, path.stat().st_size, {"sha1": sha1})}


def cut(path: Path) -> list[blocks.Block]:
    """The blocks of a dump's file.

    Raises:
        ChecksumError: it is damaged, or no dump.
    """
    try:
        found = blocks.find(path)
        with open(path, "rb") as file:
            beginning, *ending = (blocks.content(file, block) for block in (found[0], *found[-2:]))
    except (blocks.BlockError, OSError, ValueError) as error:
        raise ChecksumError(f"{error}; get it anew, from another mirror") from None
    if b"<mediawiki" not in beginning[:1000]:
        raise ChecksumError(f"{path} is no dump: it begins with {beginning[:40]!r}; check mirror")
    if not b"".join(ending).rstrip().endswith(b"</mediawiki>"):
        raise ChecksumError(f"{path} ends in the middle of the dump; get it anew, from another mirror")
    return found


def link(path: Path, target: Path) -> None:
    """Make `target` the same file, or a copy where that cannot be."""
    if target.exists() and target.samefile(path):
        return
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:
        cli.log.info("no hard link to %s can be made here: it is copied", path)
        with cli.writing(target) as (copy,):
            shutil.copyfile(path, copy)


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, Download, "download")
    parser.add_argument("--list", action="store_true", help="show the dates that the mirror has, and do nothing else")
    parser.add_argument("--dump", type=Path, metavar="FOLDER", help="the dump's files, as at the mirror (.xml.bz2)")
    parser.add_argument("--index", type=Path, metavar="FILE", help="where their blocks lie (.tsv)")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="what came from where, and when (.json)")
    args, config = cli.parse(parser, argv)
    if args.list:
        _list(mirror_at(config), config)
        return
    if None in (config.date, args.dump, args.index, args.manifest):
        parser.error("--date, --dump, --index and --manifest are needed (or --list)")

    folder = source = args.dump.parent
    record = folder / "verified.json"  # the manifest again, which Snakemake does not know of
    path = local(config.mirror)
    if path and path.is_file():
        layout, root, listed = "file", f"file:{path.absolute().parent}", on_disk(path, config)
        source = path.parent
    elif known := earlier(record, config):
        layout, root, listed = known
        _demand(config.sha1, listed)
        cli.log.info("all files are here already, and as they were verified before")
    else:
        mirror = mirror_at(config)
        layout, root, listed = choose(mirror, config)
        _demand(config.sha1, listed)
        fetch_all(mirror, listed, folder, config.connections)
    found = [source / name for name in listed]
    index = [block for file in found for block in cut(file)]
    files = {
        file.name: {
            "url": f"{root}/{listed[file.name].url}",
            "size": file.stat().st_size,
            "sums": listed[file.name].sums,
        }
        for file in found
    }
    manifest = {
        "wiki": config.wiki,
        "date": config.date,
        "layout": layout,
        "mirror": root,
        "files": files,
        "verified": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    with cli.writing(args.dump, args.index, args.manifest, record) as (dump, table, *records):
        dump.mkdir()
        for file in found:
            link(file, folder / file.name)  # a dump on disk is kept too: dump/ goes when this stage runs again
            link(folder / file.name, dump / file.name)
        blocks.write_index(table, index)
        for written in records:
            written.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    size = sum(file["size"] for file in files.values())
    cli.closing("download", f"{len(found)} files ({layout}), {size:,} bytes", f"{len(index):,} blocks")


def _list(mirror: Mirror, config: Download) -> None:
    """Print date, layout and state of each dump that the mirror has."""
    offered = [(date, layout) for layout in layouts(config) for date in dates(mirror, config.wiki, layout)]
    if not offered:
        raise MirrorError(
            f"{mirror.root} has no dump of {config.wiki} (layout {' or '.join(layouts(config))}); "
            "check wiki, layout and mirror"
        )
    for date, layout in sorted(offered):
        done = listed_files(mirror, config.wiki, date, layout)
        print(date, layout, "complete" if done else "not complete")


def _demand(sha1: str | None, files: dict[str, Listed]) -> None:
    """Refuse files that are not what the user demands, before any of it is loaded."""
    for name, listed in files.items():
        if sha1 and sha1 != (offered := listed.sums.get("sha1")):
            raise ChecksumError(
                f"sha1 of {name} is {offered} at the mirror, config.yaml demands {sha1}"
                if offered
                else f"config.yaml demands sha1 {sha1}, but a content dump is {len(files)} files with SHA256SUMS of "
                "their own; remove sha1, or set layout: classic"
            )


def _is(path: Path, listed: Listed) -> bool:
    """Whether a file is here, and as it is listed."""
    ((algorithm, want),) = listed.sums.items()
    size = path.stat().st_size if path.is_file() else None
    return size is not None and listed.size in (None, size) and _checksum(path, algorithm) == want


def _checksum(path: Path, algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _read(path: Path, start: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(start)
        while block := file.read(CHUNK):
            yield block
