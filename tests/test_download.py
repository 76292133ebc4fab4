import bz2
import datetime
import errno
import hashlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

import jalm
from jalm.cli import DiskFull
from jalm.formats import blocks
from jalm.knobs import ConfigError
from jalm.stages import download

DATE = "20261101"
DUMP = f"jawiki-{DATE}-pages-articles-multistream.xml.bz2"
STATUS = "dumpstatus.json"
KANJI = "".join(map(chr, range(0x4E00, 0x9F00)))
PAGES = ["".join(random.Random(n).choices(KANJI, k=4000)).encode() for n in range(3)]
TEXTS = [b"<mediawiki>\n", *PAGES, b"</mediawiki>\n"]
STREAMS = list(map(bz2.compress, TEXTS))
WHOLE = b"".join(STREAMS)
PARTS = {
    f"jawiki-2026-11-01-p{n}p{n + 8}.xml.bz2": bz2.compress(TEXTS[0] + page + TEXTS[-1])
    for n, page in zip((1, 9, 10), PAGES, strict=True)
}
CONTENT = "other/mediawiki_content_current/jawiki/2026-11-01/xml/bzip2"


def serve(root: Path, *, date=DATE, dump=WHOLE, status="done") -> Path:
    """A mirror's folder with one dump."""
    folder, name = root / "jawiki" / date, DUMP.replace(DATE, date)
    folder.mkdir(parents=True)
    (folder / name).write_bytes(dump)
    sha1 = hashlib.sha1(dump, usedforsecurity=False).hexdigest()
    listed = {name: {"size": len(dump), "url": f"/jawiki/{date}/{name}", "sha1": sha1}}
    jobs = {"articlesmultistreamdump": {"status": status, "files": listed}, "metahistory7z": {"status": "waiting"}}
    (folder / STATUS).write_text(json.dumps({"jobs": jobs}), encoding="utf-8")
    return root


def serve_content(root: Path, *, done=True, date="2026-11-01") -> Path:
    """A mirror's folder with a dump of several parts."""
    folder = root / CONTENT.replace("2026-11-01", date)
    folder.mkdir(parents=True)
    sums = ""
    for name, content in reversed(PARTS.items()):
        name = name.replace("2026-11-01", date)
        (folder / name).write_bytes(content)
        sums += f"{hashlib.sha256(content).hexdigest()}  {name}\n"
    (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")
    if done:
        (folder / "_SUCCESS").touch()
    return root


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(download, "BACKOFF", 0)


@pytest.fixture
def mirror(tmp_path):
    return serve(tmp_path / "鏡 1")


@pytest.fixture
def here(tmp_path):
    """Where the dump is brought."""
    return tmp_path / "resources" / f"jawiki-{DATE}"


@pytest.fixture
def load(here):
    """Run the stage."""

    def run(mirror, *knobs, date=DATE):
        address = f"file:{mirror}" if isinstance(mirror, Path) else mirror
        files = {"dump": "dump", "index": "blocks.tsv", "manifest": "manifest.json"}
        outputs = [word for name, file in files.items() for word in (f"--{name}", str(here / file))]
        download.main(["--date", date, "--mirror", address, "--retries", "1", *knobs, *outputs])

    return run


class Site(ThreadingHTTPServer):
    """The folder of a mirror behind http, with the faults that such servers have."""

    ranges = True  # it can send the rest of a file
    meeting: threading.Barrier | None = None  # no dump is sent before so many are asked for

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked: list[tuple[str, str | None]] = []  # name and Range of each request
        self.agents: set[str] = set()
        self.refusals: list[int] = []  # statuses of the next answers
        self.retry_after = "0"
        self.breaks: list[int] = []  # bytes after which it lets go of the next dumps
        self.length: int | None = None  # what it says that a dump has, whatever is true

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        site = self.server
        site.asked.append((self.path.rpartition("/")[2], self.headers["Range"]))
        site.agents.add(self.headers["User-Agent"])
        if not re.fullmatch(r"jalm/[\d.]+ \(.*\)", self.headers["User-Agent"] or ""):
            return self.answer(403, b"a generic agent")
        file = site.folder / unquote(self.path).lstrip("/")
        if site.refusals:
            return self.answer(site.refusals.pop(0), b"", {"Retry-After": site.retry_after})
        if file.is_dir():
            return self.answer(200, "".join(f'<a href="{f.name}/">{f.name}/</a>\n' for f in file.iterdir()).encode())
        if not file.is_file():
            return self.answer(404, b"not found")
        content = file.read_bytes()
        if site.ranges and self.headers["Range"]:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.answer(416, b"")
            return self.answer(
                206, content[start:], {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            )
        return self.answer(200, content)

    def answer(self, status, content, headers=()):
        is_dump, site = self.path.endswith(".xml.bz2"), self.server
        self.send_response(status)
        lie = site.length if is_dump and status == 200 else None
        self.send_header("Content-Length", str(len(content) if lie is None else lie))
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        if is_dump and site.breaks:
            content = content[: site.breaks.pop(0)]
        if is_dump and site.meeting:
            site.meeting.wait(9)  # raises if fewer come
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def site(mirror, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Site(mirror) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


# ---- what is made


def forget(here):
    """Remove what Snakemake removes before it runs a stale rule."""
    shutil.rmtree(here / "dump")
    for output in ("blocks.tsv", "manifest.json"):
        (here / output).unlink()


def texts(here):
    """Text of each block of the dump that was brought."""
    made = []
    for block in blocks.read_index(here / "blocks.tsv"):
        with open(here / "dump" / block.file, "rb") as file:
            made.append(blocks.content(file, block))
    return made


def test_the_index_lists_the_blocks_of_the_dump(load, mirror, here):
    load(mirror)
    assert texts(here) == TEXTS


def test_the_manifest_says_what_came_from_where(load, mirror, here):
    load(mirror)
    manifest = json.loads((here / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["wiki"], manifest["date"], manifest["layout"]) == ("jawiki", DATE, "classic")
    told = subprocess.run(["sha1sum", DUMP], cwd=here / "dump", capture_output=True, text=True, check=True).stdout
    url = f"file:{mirror}/jawiki/{DATE}/{DUMP}"
    assert manifest["files"] == {DUMP: {"url": url, "size": len(WHOLE), "sums": {"sha1": told.split()[0]}}}
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(manifest["verified"])
    assert abs(age.total_seconds()) < 60


def test_the_dump_is_on_the_disk_once(load, mirror, here):
    load(mirror)
    assert (here / "dump" / DUMP).samefile(here / DUMP)


# ---- layouts


def test_a_content_dump_is_its_parts_in_the_order_of_their_pages(load, tmp_path, here):
    load(serve_content(tmp_path / "mirror"), "--layout", "content")
    assert b"".join(texts(here)) == b"".join(map(bz2.decompress, PARTS.values()))
    manifest = json.loads((here / "manifest.json").read_text(encoding="utf-8"))
    assert list(manifest["files"]) == list(PARTS)
    for name, file in manifest["files"].items():
        assert file["sums"] == {"sha256": hashlib.sha256(PARTS[name]).hexdigest()}
        assert file["size"] == len(PARTS[name])


@pytest.mark.parametrize(
    ("classic", "content", "chosen"),
    [("done", True, "classic"), ("in-progress", True, "content"), (None, True, "content"), ("done", False, "classic")],
)
def test_auto_takes_the_classic_layout_if_it_is_done(load, tmp_path, here, classic, content, chosen):
    mirror = serve_content(tmp_path / "mirror", done=content)
    if classic:
        serve(mirror, status=classic)
    load(mirror)
    assert json.loads((here / "manifest.json").read_text(encoding="utf-8"))["layout"] == chosen


def test_a_dump_that_no_layout_has_done_is_refused(load, tmp_path):
    mirror = serve_content(serve(tmp_path / "mirror", status="in-progress"), done=False)
    with pytest.raises(
        download.MirrorError, match=rf"begun the dump jawiki {DATE} \(classic, content\), .* wait until"
    ):
        load(mirror)


def test_sums_of_no_dump_are_refused(load, tmp_path):
    mirror = serve_content(tmp_path / "mirror")
    (mirror / CONTENT / "SHA256SUMS").write_text(
        f"{'0' * 64}  ../../jawiki-2026-11-01-p1p2.xml.bz2\n", encoding="utf-8"
    )
    with pytest.raises(download.MirrorError, match="SHA256SUMS lists no jawiki-2026-11-01-"):
        load(mirror)


def test_a_part_that_is_not_as_its_sum_says_is_removed(load, tmp_path, here):
    mirror = serve_content(tmp_path / "mirror")
    name = list(PARTS)[1]
    (mirror / CONTENT / name).write_bytes(PARTS[name][:-1])
    with pytest.raises(download.ChecksumError, match=rf"sha256 of {name} is [0-9a-f]{{64}}, .* removed"):
        load(mirror)
    assert not list(here.glob(f"{name}*"))


def test_a_sha1_is_no_demand_on_a_dump_of_several_files(load, tmp_path):
    with pytest.raises(download.ChecksumError, match=r"a content dump is 3 files .* remove sha1"):
        load(serve_content(tmp_path / "mirror"), "--sha1", "0" * 40)


# ---- a dump that is on disk already


@pytest.mark.parametrize("streams", [STREAMS, [bz2.compress(b"".join(TEXTS))]])
def test_a_dump_on_disk_is_linked_from_where_it_lies(load, tmp_path, here, streams):
    path = tmp_path / f"jawiki-{DATE}-pages-articles.xml.bz2"
    path.write_bytes(b"".join(streams))
    load(path)
    assert (here / "dump" / path.name).samefile(path)
    assert b"".join(texts(here)) == b"".join(TEXTS)
    (file,) = json.loads((here / "manifest.json").read_text(encoding="utf-8"))["files"].values()
    assert (file["url"], file["size"]) == (f"file:{path}", path.stat().st_size)


def test_a_dump_on_disk_is_kept_when_it_lies_there_no_more(load, tmp_path, here):
    path = tmp_path / f"jawiki-{DATE}-pages-articles.xml.bz2"
    path.write_bytes(WHOLE)
    load(path)
    path.unlink()
    forget(here)
    load(path)
    assert (here / "dump" / path.name).read_bytes() == WHOLE


def test_a_dump_on_disk_that_is_another_now_is_linked_anew(load, tmp_path, here):
    path = tmp_path / f"jawiki-{DATE}-pages-articles.xml.bz2"
    path.write_bytes(bz2.compress(b"".join(TEXTS)))
    load(path)
    path.unlink()  # or the kept one, which is the same file, would change too
    path.write_bytes(WHOLE)
    load(path)
    assert (here / "dump" / path.name).read_bytes() == WHOLE


def test_a_dump_that_already_lies_where_it_is_brought_stays(load, here):
    here.mkdir(parents=True)
    path = here / f"jawiki-{DATE}.xml.bz2"
    path.write_bytes(WHOLE)
    load(path)
    assert path.read_bytes() == WHOLE


def test_a_verified_dump_needs_neither_its_mirror_nor_a_contact(load, mirror, here):
    load(mirror)
    mirror.rename(mirror.with_name("not mounted"))
    forget(here)
    load(mirror)
    forget(here)
    load("https://dumps.example.org")
    assert (here / "dump" / DUMP).read_bytes() == WHOLE


def test_a_dump_on_disk_without_a_date_needs_its_checksum(load, tmp_path, here):
    path = tmp_path / "ダンプ.xml.bz2"
    path.write_bytes(WHOLE)
    sha1 = hashlib.sha1(WHOLE, usedforsecurity=False).hexdigest()
    with pytest.raises(download.MirrorError, match=rf"does not have dump_date {DATE}; if it is it, set sha1: {sha1}"):
        load(path)
    load(path, "--sha1", sha1)
    assert texts(here) == TEXTS
    path.write_bytes(STREAMS[0])
    with pytest.raises(download.ChecksumError, match=f"config.yaml demands {sha1}"):
        load(path, "--sha1", sha1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WHOLE[:-5], "do not add up|truncated"),
        (b"".join(STREAMS[:-1]), "ends in the middle of the dump"),
        (b"<mediawiki>", "no bz2 file"),
        (bz2.compress(b"<html>"), "is no dump"),
    ],
)
def test_a_file_that_is_no_dump_is_refused(load, tmp_path, here, content, message):
    path = tmp_path / f"jawiki-{DATE}.xml.bz2"
    path.write_bytes(content)
    with pytest.raises(download.ChecksumError, match=message):
        load(path)
    assert not here.exists()


# ---- what is refused


def test_a_dump_with_another_checksum_than_the_mirror_lists_is_removed(load, mirror, here):
    (mirror / "jawiki" / DATE / DUMP).write_bytes(WHOLE[:99] + b"\0" + WHOLE[100:])
    with pytest.raises(download.ChecksumError, match=rf"sha1 of {DUMP} is [0-9a-f]{{40}}, .* lists .* removed"):
        load(mirror)
    assert {path.name for path in here.iterdir()} == set()
    (mirror / "jawiki" / DATE / DUMP).write_bytes(WHOLE)
    load(mirror)
    assert (here / "dump" / DUMP).read_bytes() == WHOLE


def test_a_truncated_dump_is_kept_to_be_resumed(load, mirror, here):
    (mirror / "jawiki" / DATE / DUMP).write_bytes(WHOLE[:1234])
    with pytest.raises(
        download.ChecksumError, match=rf"{DUMP} ends after 1,234 bytes, .* lists {len(WHOLE):,}; .*resume"
    ):
        load(mirror)
    assert {path.name for path in here.iterdir()} == {f"{DUMP}.part"}
    (mirror / "jawiki" / DATE / DUMP).write_bytes(WHOLE)
    load(mirror)
    assert (here / "dump" / DUMP).read_bytes() == WHOLE


def test_an_unfinished_dump_is_refused(load, tmp_path):
    with pytest.raises(download.MirrorError, match=r"\(classic\), .* as done; choose another dump_date, or wait"):
        load(serve(tmp_path / "mirror", status="in-progress"))


def test_the_message_for_an_unknown_date_lists_the_dates(load, mirror):
    serve(mirror, date="20261001")
    with pytest.raises(
        download.MirrorError, match=r"dump_date is 20261201, .* it has: 20261001, 20261101 \(classic\)$"
    ):
        load(mirror, date="20261201")


def test_a_mirror_that_is_no_folder_is_named(load, tmp_path):
    with pytest.raises(download.MirrorError, match=rf"there is no folder {tmp_path}/無"):
        load(tmp_path / "無")


def test_a_status_that_is_no_json_is_refused(load, mirror):
    (mirror / "jawiki" / DATE / "dumpstatus.json").write_text("<html>工事中</html>", encoding="utf-8")
    with pytest.raises(download.MirrorError, match=rf"jawiki/{DATE}/dumpstatus\.json is no JSON"):
        load(mirror)


def test_a_dump_that_the_mirror_itself_has_truncated_is_refused(load, tmp_path):
    with pytest.raises(download.ChecksumError, match=r"middle of its last stream.* another mirror"):
        load(serve(tmp_path / "mirror", dump=WHOLE[: -len(STREAMS[4]) - 9]))


def test_a_checksum_given_by_the_user_is_demanded_before_the_dump_is_loaded(load, mirror, here):
    with pytest.raises(download.ChecksumError, match=f"sha1 of {DUMP} is .* config.yaml demands {'0' * 40}"):
        load(mirror, "--sha1", "0" * 40)
    assert not here.exists()
    load(mirror, "--sha1", hashlib.sha1(WHOLE, usedforsecurity=False).hexdigest())
    assert (here / "dump" / DUMP).read_bytes() == WHOLE


def test_a_listed_file_that_a_folder_lacks_is_named(load, mirror):
    (mirror / "jawiki" / DATE / DUMP).unlink()
    with pytest.raises(download.MirrorError, match=f"lists jawiki/{DATE}/{DUMP} but does not have it"):
        load(mirror)


# ---- behind http


def test_what_comes_by_http_is_what_the_mirror_has(load, site, here):
    load(site.address)
    assert (here / "dump" / DUMP).read_bytes() == WHOLE
    assert site.asked == [(STATUS, None), (DUMP, None)]


def test_the_mirror_is_told_whom_to_contact(load, site):
    load(site.address, "--contact", "mailto:jalm@example.org")
    assert site.agents == {f"jalm/{jalm.__version__} (mailto:jalm@example.org)"}


@pytest.mark.parametrize("contact", ["", "私", "jalm", "jalm@example.org\nX: y", "誰か@example.org"])
def test_https_without_a_real_contact_is_refused_before_any_request(load, contact):
    with pytest.raises(download.MirrorError, match=r"contact is '.*' in config\.yaml: .* set contact"):
        load("https://mirror.invalid", "--contact", contact)


def test_the_site_of_these_tests_refuses_generic_agents(site):
    import requests

    assert requests.get(f"{site.address}jawiki/{DATE}/{STATUS}", timeout=9).status_code == 403


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_is_taken_up_again(load, site, here, monkeypatch, ranges):
    monkeypatch.setattr(download, "CHUNK", 1000)
    site.ranges, site.breaks = ranges, [5500]
    load(site.address)
    assert (here / "dump" / DUMP).read_bytes() == WHOLE
    assert site.asked[-2:] == [(DUMP, None), (DUMP, "bytes=5000-")]


def test_a_connection_that_keeps_breaking_is_given_up_after_the_configured_retries(load, site, monkeypatch):
    monkeypatch.setattr(download, "CHUNK", 1000)
    site.breaks = [3000, 1000, 1000, 1000]
    with pytest.raises(download.ChecksumError, match=r"ends after 5,000 bytes"):
        load(site.address, "--retries", "2")
    assert [sent for name, sent in site.asked if name == DUMP] == [None, "bytes=3000-", "bytes=4000-"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_of_an_earlier_run_is_resumed(load, site, here, ranges):
    site.ranges = ranges
    here.mkdir(parents=True)
    (here / f"{DUMP}.part").write_bytes(WHOLE[:7000])
    load(site.address)
    assert (here / "dump" / DUMP).read_bytes() == WHOLE
    assert site.asked[-1] == (DUMP, "bytes=7000-")
    assert not (here / f"{DUMP}.part").exists()


def test_a_part_that_is_complete_is_only_verified(load, site, here):
    here.mkdir(parents=True)
    (here / f"{DUMP}.part").write_bytes(WHOLE)
    load(site.address)
    assert (here / "dump" / DUMP).read_bytes() == WHOLE
    assert DUMP not in dict(site.asked)


def test_a_part_of_something_else_is_removed(load, site, here):
    here.mkdir(parents=True)
    (here / f"{DUMP}.part").write_bytes(b"\0" * (len(WHOLE) + 1))
    with pytest.raises(download.ChecksumError, match="removed, run again"):
        load(site.address)
    load(site.address)
    assert (here / "dump" / DUMP).read_bytes() == WHOLE


def test_a_verified_file_is_not_loaded_again(load, site, here):
    load(site.address)
    forget(here)
    shutil.rmtree(site.folder / "jawiki")  # a dump is gone after some months
    site.asked.clear()
    load(site.address)
    assert site.asked == []
    assert (here / "dump" / DUMP).read_bytes() == WHOLE


def test_a_file_that_has_rotted_is_loaded_again(load, site, here):
    load(site.address)
    (here / "dump" / DUMP).write_bytes(WHOLE[:-1] + b"?")
    load(site.address)
    assert (here / "dump" / DUMP).read_bytes() == WHOLE


def in_a_second() -> str:
    return formatdate(time.time() + 2, usegmt=True)  # whole seconds: 1 to 2 from now


@pytest.mark.parametrize(("status", "after"), [(503, lambda: "1"), (429, lambda: "1"), (503, in_a_second)])
def test_a_busy_mirror_is_asked_again_when_it_says(load, site, here, caplog, status, after):
    site.refusals, site.retry_after = [status], after()
    begun = time.monotonic()
    load(site.address)
    assert time.monotonic() - begun >= 0.9
    assert f"Retry for (url='/jawiki/{DATE}/{STATUS}')" in caplog.text
    assert site.asked[:2] == [(STATUS, None), (STATUS, None)]
    assert (here / "dump" / DUMP).read_bytes() == WHOLE


def test_a_mirror_that_stays_busy_is_given_up(load, site):
    site.refusals = [503, 503]
    with pytest.raises(download.MirrorError, match=r"dumpstatus\.json answers 503 .* after 1 retries; try again later"):
        load(site.address)


def test_a_mirror_that_forbids_says_what_it_wants(load, site):
    site.refusals = [403]
    with pytest.raises(download.MirrorError, match=r"403 \(forbidden\): .* real contact, and was told ''; set contact"):
        load(site.address)


def test_an_unknown_date_is_answered_with_the_dates_of_the_listing(load, site):
    serve(site.folder, date="20261001")
    with pytest.raises(
        download.MirrorError, match=r"dump_date is 20261201, .* it has: 20261001, 20261101 \(classic\)$"
    ):
        load(site.address, date="20261201")


def test_a_listed_file_that_is_missing_is_named(load, site):
    (site.folder / "jawiki" / DATE / DUMP).unlink()
    with pytest.raises(download.MirrorError, match=rf"{DUMP} is listed by the mirror, which answers 404"):
        load(site.address)


def test_a_mirror_that_does_not_answer_is_named(load, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(download.MirrorError, match=rf"{address}/jawiki/.* cannot be reached .*check mirror"):
            load(address, "--retries", "0")


def test_pauses_between_lost_connections_double(load, site, monkeypatch):
    monkeypatch.setattr(download, "BACKOFF", 0.1)
    site.breaks = [9, 9, 9]
    begun = time.monotonic()
    load(site.address, "--retries", "3")
    assert 0.7 <= time.monotonic() - begun < 3  # 0.1 + 0.2 + 0.4


@pytest.mark.parametrize("said", [len(WHOLE) - 1, len(WHOLE) + 1])
def test_a_content_length_that_is_not_what_is_listed_is_refused(load, site, here, said):
    site.length = said
    with pytest.raises(
        download.MirrorError, match=rf"{said:,} bytes by its Content-Length, {len(WHOLE):,} by .* later"
    ):
        load(site.address)
    assert not list(here.glob("*.part"))


def test_a_content_length_that_promises_too_much_does_no_harm_to_what_has_a_checksum(load, site, here, monkeypatch):
    monkeypatch.setattr(download, "CHUNK", 1000)
    serve_content(site.folder)
    site.length = 10**6
    load(site.address, "--layout", "content", "--retries", "2")
    assert b"".join(texts(here)) == b"".join(map(bz2.decompress, PARTS.values()))


def test_a_content_length_that_promises_too_little_is_found_out(load, site):
    serve_content(site.folder)
    site.length = 5000
    with pytest.raises(download.ChecksumError, match=r"sha256 of .* removed"):
        load(site.address, "--layout", "content")


def test_corrupt_bytes_are_found_out(load, site, here):
    (site.folder / "jawiki" / DATE / DUMP).write_bytes(WHOLE[:99] + b"\0" + WHOLE[100:])
    with pytest.raises(download.ChecksumError, match=f"sha1 of {DUMP} is .* removed, run again .* another mirror"):
        load(site.address)
    assert not (here / "dump").exists()


def test_three_parts_are_loaded_at_once(load, site, here):
    serve_content(site.folder)
    site.meeting = threading.Barrier(3)
    load(site.address, "--layout", "content", "--connections", "3")
    assert b"".join(texts(here)) == b"".join(map(bz2.decompress, PARTS.values()))


def test_one_part_that_fails_ends_the_others(load, site, here):
    serve_content(site.folder)
    (site.folder / CONTENT / list(PARTS)[1]).unlink()
    with pytest.raises(download.MirrorError, match=r"p9p17\.xml\.bz2 is listed .* 404"):
        load(site.address, "--layout", "content", "--connections", "3")
    assert not (here / "dump").exists()


def test_more_connections_than_wikimedia_allows_are_refused(load, mirror):
    with pytest.raises(ConfigError, match="--connections"):
        load(mirror, "--connections", "4")


def test_a_full_disk_says_so_and_the_part_is_resumed(load, mirror, here, files_of, monkeypatch):
    monkeypatch.setattr(download, "CHUNK", 1000)
    told = rf"beyond 20,000 bytes of {len(WHOLE):,} .* make room and run again"
    with pytest.raises(DiskFull, match=told), files_of(20_000):
        load(mirror)
    assert (here / f"{DUMP}.part").read_bytes() == WHOLE[:20_000]
    load(mirror)
    assert (here / "dump" / DUMP).read_bytes() == WHOLE


def test_a_dump_on_disk_that_is_copied_to_a_full_disk_leaves_nothing_that_looks_finished(
    load, mirror, here, files_of, monkeypatch
):
    def no_links(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(DiskFull, match=rf"^{here / DUMP} cannot be written .* make room"), files_of(20_000):
        load(mirror / "jawiki" / DATE / DUMP)
    assert not (here / DUMP).exists()
    load(mirror / "jawiki" / DATE / DUMP)
    assert (here / "dump" / DUMP).read_bytes() == WHOLE


# ---- --list


@pytest.mark.parametrize("by", ["file", "http"])
def test_the_dates_are_listed_with_whether_they_are_complete(mirror, site, capsys, by):
    serve(mirror, date="20261001")
    serve(mirror, date="20261201", status="in-progress")
    (mirror / "jawiki" / "20270101").mkdir()  # a dump that has only begun has no status yet
    (mirror / "jawiki" / "latest").mkdir()
    serve_content(mirror)
    serve_content(mirror, date="2026-12-01", done=False)
    download.main(["--list", "--mirror", f"file:{mirror}" if by == "file" else site.address])
    assert capsys.readouterr().out.splitlines() == [
        "20261001 classic complete",
        "20261101 classic complete",
        "20261101 content complete",
        "20261201 classic not complete",
        "20261201 content not complete",
        "20270101 classic not complete",
    ]


def test_a_wiki_of_which_there_is_no_dump_is_no_empty_list(mirror):
    with pytest.raises(download.MirrorError, match=r"has no dump of nowiki \(layout classic or content\); check wiki,"):
        download.main(["--list", "--wiki", "nowiki", "--mirror", f"file:{mirror}"])


def test_a_dump_on_disk_has_no_dates(mirror):
    with pytest.raises(download.MirrorError, match=rf"{DUMP} is one dump on disk"):
        download.main(["--list", "--mirror", f"file:{mirror / 'jawiki' / DATE / DUMP}"])


def test_a_run_without_a_date_is_refused(here, mirror):
    with pytest.raises(SystemExit) as refusal:
        download.main(["--mirror", f"file:{mirror}", "--dump", str(here / "dump" / DUMP)])
    assert refusal.value.code == 2
