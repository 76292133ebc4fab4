"""Fetch a Wikipedia dump from a mirror, verify it, and note where its pages lie.

Size and checksums come from the mirror's dumpstatus.json; a dump that is not done is refused. The file keeps its name
from the mirror, and the output is a hard link to it: made stale, this stage verifies what is there instead of loading
it again. A download that was cut off is resumed.
"""

import bz2
import datetime
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from jalm import Fault, __version__, cli
from jalm.config import Download

CHUNK = 1 << 20  # bytes read at once
LISTED = {"size", "url", "sha1"}  # what must be known of a file
TIMEOUT = 60  # seconds without a byte before a connection counts as lost


class MirrorError(Fault):
    """A mirror that does not have, or does not give, what was asked for."""


class ChecksumError(Fault):
    """A file whose size or checksum is not what its mirror lists."""


class Folder:
    """A mirror in a local folder (`file:`)."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.root = Path(unquote(parts.netloc + parts.path))
        if not self.root.is_dir():
            raise MirrorError(f"mirror {address}: there is no folder {self.root.absolute()}")

    def dates(self, wiki: str) -> list[str]:
        """Dates of the dumps that the mirror has, oldest first."""
        return sorted(path.name for path in self.root.glob(f"{wiki}/*") if re.fullmatch(r"\d{8}", path.name))

    def text(self, path: str) -> str | None:
        """A small file, None if the mirror has no such file."""
        file = self.root / path
        return file.read_text(encoding="utf-8") if file.is_file() else None

    def blocks(self, path: str, start: int) -> tuple[int, Iterator[bytes]]:
        """Where the blocks begin (`start` if the mirror can resume there), and the blocks of a file from there."""
        file = self.root / path
        if not file.is_file():
            raise MirrorError(f"mirror file:{self.root} lists {path} but does not have it")
        return start, _read(file, start)


class Website:
    """A mirror behind http or https."""

    def __init__(self, address: str, contact: str, retries: int) -> None:
        import requests
        from urllib3.util import Retry

        if address.startswith("https:") and not contact:
            raise MirrorError(
                "contact is '' in config.yaml: Wikimedia asks for a mail address or page in the User-Agent "
                "and refuses programs that hide it; set contact"
            )
        self.root = address.rstrip("/")
        self.retries = retries
        self.session = requests.Session()
        self.session.headers["User-Agent"] = f"jalm/{__version__} ({contact})"
        retry = Retry(retries, backoff_factor=1, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False)
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))

    def dates(self, wiki: str) -> list[str]:
        """Dates of the dumps that the mirror has, oldest first."""
        return sorted(set(re.findall(r'href="(\d{8})/?"', self.text(f"{wiki}/") or "")))

    def text(self, path: str) -> str | None:
        """A small file, None if the mirror has no such file."""
        response = self._get(path)
        return None if response.status_code == 404 else response.content.decode("utf-8")

    def blocks(self, path: str, start: int) -> tuple[int, Iterator[bytes]]:
        """Where the blocks begin (`start` if the mirror can resume there), and the blocks of a file from there."""
        response = self._get(path, {"Range": f"bytes={start}-"} if start else {}, stream=True)
        if response.status_code == 404:
            raise MirrorError(f"{self.root}/{path} is listed by the mirror, which answers 404 for it")
        return start if response.status_code == 206 else 0, self._stream(response)

    def _get(self, path: str, headers: dict[str, str] | None = None, stream: bool = False):
        import requests

        url = f"{self.root}/{path}"
        try:
            response = self.session.get(url, headers=headers, stream=stream, timeout=TIMEOUT)
        except requests.RequestException as error:
            raise MirrorError(
                f"{url} cannot be reached ({error}); check mirror in config.yaml and the network"
            ) from None
        if response.status_code == 403:
            raise MirrorError(f"{url} answers 403 (forbidden): the mirror wants a User-Agent with a real contact")
        if response.status_code >= 400 and response.status_code != 404:
            raise MirrorError(f"{url} answers {response.status_code} after {self.retries} retries; try again later")
        return response

    def _stream(self, response) -> Iterator[bytes]:
        import requests

        try:
            yield from response.iter_content(CHUNK)
        except requests.RequestException as error:
            cli.log.info("connection lost (%s)", error)  # the caller sees that bytes are missing, and resumes


Mirror = Folder | Website


def mirror_at(config: Download) -> Mirror:
    """The mirror that the configuration names."""
    if config.mirror.startswith("file:"):
        return Folder(config.mirror)
    return Website(config.mirror, config.contact, config.retries)


def listed_files(mirror: Mirror, wiki: str, date: str) -> dict[str, dict]:
    """Name to size, url, md5 and sha1 of each file of the finished jobs of a dump.

    Raises:
        MirrorError: the mirror has no dump of that date.
    """
    status = mirror.text(f"{wiki}/{date}/dumpstatus.json")
    if status is None:
        dates = ", ".join(mirror.dates(wiki)) or f"none of {wiki}"
        raise MirrorError(f"dump_date is {date}, which {mirror.root} does not have; it has: {dates}")
    try:
        done = [job for job in json.loads(status)["jobs"].values() if job["status"] == "done"]
        return {name: file for job in done for name, file in job.get("files", {}).items() if file.keys() >= LISTED}
    except json.JSONDecodeError as error:
        raise MirrorError(f"{mirror.root}/{wiki}/{date}/dumpstatus.json is no JSON ({error}); check mirror") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise MirrorError(f"{mirror.root}/{wiki}/{date}/dumpstatus.json lacks {error}; check mirror") from None


def fetch(mirror: Mirror, listed: dict[str, dict], name: str, folder: Path, retries: int) -> Path:
    """Bring the file `name` into `folder`, verified; what is there already is verified only.

    Raises:
        MirrorError: the dump has no such file, or not yet.
        ChecksumError: the file is not what the mirror lists.
    """
    if name not in listed:
        raise MirrorError(f"{mirror.root} does not list {name} as done; choose another dump_date, or wait until it is")
    want, path = listed[name], folder / name
    if path.is_file() and path.stat().st_size == want["size"] and _sha1(path) == want["sha1"]:
        cli.log.info("%s is here already, and as the mirror lists it", name)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(name + ".part")
    for _ in range(retries + 1):
        if part.is_file() and part.stat().st_size >= want["size"]:  # a mirror has no bytes to give from there on
            break
        _resume(mirror, want["url"].lstrip("/"), part, want["size"])
    size = part.stat().st_size
    if size < want["size"]:
        raise ChecksumError(
            f"{name} ends after {size:,} bytes, {mirror.root} lists {want['size']:,}; "
            "the partial file was kept as *.part, run again to resume"
        )
    sha1 = _sha1(part)
    if sha1 != want["sha1"]:
        part.unlink()
        raise ChecksumError(
            f"sha1 of {name} is {sha1}, {mirror.root} lists {want['sha1']}; the file was removed, run again to load it anew"
        )
    part.replace(path)
    return path


def _resume(mirror: Mirror, url: str, part: Path, size: int) -> None:
    """Append to `part` what is missing of the file at `url`."""
    start, blocks = mirror.blocks(url, part.stat().st_size if part.is_file() else 0)
    with open(part, "r+b" if start else "wb") as file:
        file.seek(start)
        for block in cli.progress(blocks, unit=" MiB", total=(size - start) // CHUNK):
            file.write(block)


def streams(dump: Path, index: Path) -> list[tuple[int, int]]:
    """Offset and length in bytes of each bz2 stream of a multistream dump that holds pages.

    Raises:
        ChecksumError: the index does not belong to the dump.
    """
    size = dump.stat().st_size
    with bz2.open(index, "rt", encoding="utf-8") as lines:
        offsets = sorted({int(line.split(":", 1)[0]) for line in lines})
    if not offsets or offsets[-1] >= size:
        raise ChecksumError(f"{index.name} does not fit {dump.name} of {size:,} bytes; remove both and run again")
    with open(dump, "rb") as file:  # the closing tag is a stream of its own, which the index does not have
        file.seek(offsets[-1])
        decompressor = bz2.BZ2Decompressor()
        while not decompressor.eof:
            block = file.read(CHUNK)
            if not block:
                raise ChecksumError(f"{dump.name} ends in the middle of its last stream; remove it and run again")
            try:
                decompressor.decompress(block)
            except OSError as error:
                raise ChecksumError(
                    f"{index.name} does not fit {dump.name}: no stream begins at byte {offsets[-1]:,} ({error})"
                ) from None
        end = file.tell() - len(decompressor.unused_data)
    return [(begin, after - begin) for begin, after in zip(offsets, [*offsets[1:], end], strict=True)]


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, Download, "download")
    parser.add_argument("--list", action="store_true", help="show the dates that the mirror has, and do nothing else")
    parser.add_argument("--dump", type=Path, metavar="FILE", help="the dump, as it is at the mirror (.xml.bz2)")
    parser.add_argument("--index", type=Path, metavar="FILE", help="where its streams of pages lie (.tsv)")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="what came from where, and when (.json)")
    args, config = cli.parse(parser, argv)
    mirror = mirror_at(config)
    if args.list:
        for date in mirror.dates(config.wiki):
            begun = mirror.text(f"{config.wiki}/{date}/dumpstatus.json") is not None
            name = f"{config.wiki}-{date}-pages-articles-multistream.xml.bz2"
            print(date, "complete" if begun and name in listed_files(mirror, config.wiki, date) else "not complete")
        return
    if None in (config.date, args.dump, args.index, args.manifest):
        parser.error("--date, --dump, --index and --manifest are needed (or --list)")

    listed = listed_files(mirror, config.wiki, config.date)
    folder, stem = args.dump.parent, f"{config.wiki}-{config.date}-pages-articles-multistream"
    offered = listed.get(f"{stem}.xml.bz2", {}).get("sha1")
    if config.sha1 and offered and offered != config.sha1:  # known before any of it is loaded
        raise ChecksumError(f"sha1 of {stem}.xml.bz2 is {offered} at the mirror, config.yaml demands {config.sha1}")
    index = fetch(mirror, listed, f"{stem}-index.txt.bz2", folder, config.retries)
    dump = fetch(mirror, listed, f"{stem}.xml.bz2", folder, config.retries)
    found = streams(dump, index)
    with cli.writing(args.dump, args.index, args.manifest) as (linked, table, manifest):
        try:
            os.link(dump, linked)
        except OSError:
            cli.log.info("this file system has no hard links: %s is copied", dump.name)
            shutil.copyfile(dump, linked)
        table.write_text("offset\tlength\n" + "".join(f"{a}\t{n}\n" for a, n in found), encoding="utf-8")
        record = {
            "wiki": config.wiki,
            "date": config.date,
            "mirror": config.mirror,
            "files": {path.name: listed[path.name] for path in (dump, index)},
            "verified": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        manifest.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    cli.closing("download", f"{dump.name}, {dump.stat().st_size:,} bytes", f"{len(found):,} streams of pages")


def _sha1(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()


def _read(path: Path, start: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(start)
        while block := file.read(CHUNK):
            yield block
