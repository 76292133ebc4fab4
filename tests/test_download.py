import bz2
import hashlib
import json
import random
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

import jalm
from jalm.stages import download

DATE = "20261101"
STEM = f"jawiki-{DATE}-pages-articles-multistream"
DUMP, INDEX = f"{STEM}.xml.bz2", f"{STEM}-index.txt.bz2"
KANJI = "".join(map(chr, range(0x4E00, 0x9F00)))
PAGES = ["".join(random.Random(n).choices(KANJI, k=4000)).encode() for n in range(3)]
STREAMS = [bz2.compress(part) for part in (b"<mediawiki>\n", *PAGES, b"</mediawiki>\n")]
OFFSETS = [sum(map(len, STREAMS[:n])) for n in range(len(STREAMS) + 1)]
WHOLE = b"".join(STREAMS)
LINES = f"{OFFSETS[1]}:5:「『江戸』」\n{OFFSETS[1]}:6:a:b\n{OFFSETS[2]}:7:ｶﾅ\n{OFFSETS[3]}:9:😀\n"


def serve(root: Path, *, date=DATE, dump=WHOLE, index=LINES, status="done") -> Path:
    """A mirror's folder with one dump."""
    folder = root / "jawiki" / date
    folder.mkdir(parents=True)
    listed = {}
    for name, content in {DUMP: dump, INDEX: bz2.compress(index.encode())}.items():
        (folder / name.replace(DATE, date)).write_bytes(content)
        listed[name.replace(DATE, date)] = {
            "size": len(content),
            "url": f"/jawiki/{date}/{name.replace(DATE, date)}",
            "sha1": hashlib.sha1(content, usedforsecurity=False).hexdigest(),
        }
    jobs = {"articlesmultistreamdump": {"status": status, "files": listed}, "metahistory7z": {"status": "waiting"}}
    (folder / "dumpstatus.json").write_text(json.dumps({"jobs": jobs}), encoding="utf-8")
    return root


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
        files = {"dump": "dump.xml.bz2", "index": "streams.tsv", "manifest": "manifest.json"}
        outputs = [word for name, file in files.items() for word in (f"--{name}", str(here / file))]
        download.main(["--date", date, "--mirror", address, "--retries", "1", *knobs, *outputs])

    return run


class Site(ThreadingHTTPServer):
    """The folder of a mirror behind http, with the faults that such servers have."""

    ranges = True  # it can send the rest of a file

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked: list[tuple[str, str | None]] = []  # name and Range of each request
        self.agents: set[str] = set()
        self.refusals: list[int] = []  # statuses of the next answers
        self.breaks: list[int] = []  # bytes after which it lets go of the next dumps

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        site = self.server
        site.asked.append((self.path.rpartition("/")[2], self.headers["Range"]))
        site.agents.add(self.headers["User-Agent"])
        file = site.folder / unquote(self.path).lstrip("/")
        if site.refusals:
            return self.answer(site.refusals.pop(0), b"", {"Retry-After": "0"})
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
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.path.endswith(DUMP) and self.server.breaks:
            content = content[: self.server.breaks.pop(0)]
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


def test_the_table_lists_the_streams_of_pages_only(load, mirror, here):
    load(mirror)
    header, *rows = (here / "streams.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "offset\tlength"
    streams = [tuple(map(int, row.split("\t"))) for row in rows]
    assert streams == [(OFFSETS[n], len(STREAMS[n])) for n in (1, 2, 3)]
    dump = (here / "dump.xml.bz2").read_bytes()
    assert [bz2.decompress(dump[offset : offset + length]) for offset, length in streams] == PAGES


def test_the_manifest_says_what_came_from_where(load, mirror, here):
    load(mirror)
    manifest = json.loads((here / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["wiki"], manifest["date"], manifest["mirror"]) == ("jawiki", DATE, f"file:{mirror}")
    sums = {f"{listed['sha1']}  {name}" for name, listed in manifest["files"].items()}
    told = subprocess.run(["sha1sum", DUMP, INDEX], cwd=here, capture_output=True, text=True, check=True)
    assert set(told.stdout.splitlines()) == sums


def test_the_dump_is_on_the_disk_once(load, mirror, here):
    load(mirror)
    assert (here / "dump.xml.bz2").samefile(here / DUMP)


# ---- what is refused


def test_a_dump_with_another_checksum_than_the_mirror_lists_is_removed(load, mirror, here):
    (mirror / "jawiki" / DATE / DUMP).write_bytes(WHOLE[:99] + b"\0" + WHOLE[100:])
    with pytest.raises(download.ChecksumError, match=rf"sha1 of {DUMP} is [0-9a-f]{{40}}, .* lists .* removed"):
        load(mirror)
    assert {path.name for path in here.iterdir()} == {INDEX}
    (mirror / "jawiki" / DATE / DUMP).write_bytes(WHOLE)
    load(mirror)
    assert (here / "dump.xml.bz2").read_bytes() == WHOLE


def test_a_truncated_dump_is_kept_to_be_resumed(load, mirror, here):
    (mirror / "jawiki" / DATE / DUMP).write_bytes(WHOLE[:1234])
    with pytest.raises(
        download.ChecksumError, match=rf"{DUMP} ends after 1,234 bytes, .* lists {len(WHOLE):,}; .*resume"
    ):
        load(mirror)
    assert {path.name for path in here.iterdir()} == {INDEX, f"{DUMP}.part"}
    (mirror / "jawiki" / DATE / DUMP).write_bytes(WHOLE)
    load(mirror)
    assert (here / "dump.xml.bz2").read_bytes() == WHOLE


def test_an_unfinished_dump_is_refused(load, tmp_path):
    with pytest.raises(download.MirrorError, match=rf"{STEM}.* as done; choose another dump_date, or wait"):
        load(serve(tmp_path / "mirror", status="in-progress"))


def test_the_message_for_an_unknown_date_lists_the_dates(load, mirror):
    serve(mirror, date="20261001")
    with pytest.raises(download.MirrorError, match=r"dump_date is 20261201, .* it has: 20261001, 20261101$"):
        load(mirror, date="20261201")


def test_a_mirror_that_is_no_folder_is_named(load, tmp_path):
    with pytest.raises(download.MirrorError, match=rf"there is no folder {tmp_path}/無"):
        load(tmp_path / "無")


def test_a_status_that_is_no_json_is_refused(load, mirror):
    (mirror / "jawiki" / DATE / "dumpstatus.json").write_text("<html>工事中</html>", encoding="utf-8")
    with pytest.raises(download.MirrorError, match=rf"jawiki/{DATE}/dumpstatus\.json is no JSON"):
        load(mirror)


@pytest.mark.parametrize("offset", [OFFSETS[3] + 1, len(WHOLE), 10**9])
def test_an_index_that_does_not_fit_the_dump_is_refused(load, tmp_path, here, offset):
    with pytest.raises(download.ChecksumError, match=f"{INDEX} does not fit {DUMP}"):
        load(serve(tmp_path / "mirror", index=f"{LINES}{offset}:10:終\n"))
    assert not (here / "dump.xml.bz2").exists()


def test_an_index_of_no_pages_is_refused(load, tmp_path):
    with pytest.raises(download.ChecksumError, match="does not fit"):
        load(serve(tmp_path / "mirror", index=""))


def test_a_dump_that_the_mirror_itself_has_truncated_is_refused(load, tmp_path):
    with pytest.raises(download.ChecksumError, match="ends in the middle of its last stream"):
        load(serve(tmp_path / "mirror", dump=WHOLE[: OFFSETS[4] - 1]))


def test_a_checksum_given_by_the_user_is_demanded_before_the_dump_is_loaded(load, mirror, here):
    with pytest.raises(download.ChecksumError, match=f"sha1 of {DUMP} is .* config.yaml demands {'0' * 40}"):
        load(mirror, "--sha1", "0" * 40)
    assert not here.exists()
    load(mirror, "--sha1", hashlib.sha1(WHOLE, usedforsecurity=False).hexdigest())
    assert (here / "dump.xml.bz2").read_bytes() == WHOLE


def test_a_listed_file_that_a_folder_lacks_is_named(load, mirror):
    (mirror / "jawiki" / DATE / DUMP).unlink()
    with pytest.raises(download.MirrorError, match=f"lists jawiki/{DATE}/{DUMP} but does not have it"):
        load(mirror)


# ---- behind http


def test_what_comes_by_http_is_what_the_mirror_has(load, site, here):
    load(site.address)
    assert (here / "dump.xml.bz2").read_bytes() == WHOLE
    assert site.asked == [("dumpstatus.json", None), (INDEX, None), (DUMP, None)]


def test_the_mirror_is_told_whom_to_contact(load, site):
    load(site.address, "--contact", "mailto:jalm@example.org")
    assert site.agents == {f"jalm/{jalm.__version__} (mailto:jalm@example.org)"}


def test_https_without_a_contact_is_refused_before_any_request(load):
    with pytest.raises(download.MirrorError, match=r"contact is '' in config\.yaml"):
        load("https://mirror.invalid")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_is_taken_up_again(load, site, here, monkeypatch, ranges):
    monkeypatch.setattr(download, "CHUNK", 1000)
    site.ranges, site.breaks = ranges, [5500]
    load(site.address)
    assert (here / "dump.xml.bz2").read_bytes() == WHOLE
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
    assert (here / "dump.xml.bz2").read_bytes() == WHOLE
    assert site.asked[-1] == (DUMP, "bytes=7000-")
    assert not (here / f"{DUMP}.part").exists()


def test_a_part_that_is_complete_is_only_verified(load, site, here):
    here.mkdir(parents=True)
    (here / f"{DUMP}.part").write_bytes(WHOLE)
    load(site.address)
    assert (here / "dump.xml.bz2").read_bytes() == WHOLE
    assert DUMP not in dict(site.asked)


def test_a_part_of_something_else_is_removed(load, site, here):
    here.mkdir(parents=True)
    (here / f"{DUMP}.part").write_bytes(b"\0" * (len(WHOLE) + 1))
    with pytest.raises(download.ChecksumError, match="removed, run again"):
        load(site.address)
    load(site.address)
    assert (here / "dump.xml.bz2").read_bytes() == WHOLE


def test_a_verified_file_is_not_loaded_again(load, site, here):
    load(site.address)
    for output in ("dump.xml.bz2", "streams.tsv", "manifest.json"):  # as Snakemake does before it runs a stale rule
        (here / output).unlink()
    site.asked.clear()
    load(site.address)
    assert site.asked == [("dumpstatus.json", None)]
    assert (here / "dump.xml.bz2").read_bytes() == WHOLE


def test_a_file_that_has_rotted_is_loaded_again(load, site, here):
    load(site.address)
    (here / "dump.xml.bz2").write_bytes(WHOLE[:-1] + b"?")
    load(site.address)
    assert (here / "dump.xml.bz2").read_bytes() == WHOLE


def test_a_busy_mirror_is_asked_again(load, site, here):
    site.refusals = [503]
    load(site.address)
    assert site.asked[:2] == [("dumpstatus.json", None), ("dumpstatus.json", None)]
    assert (here / "dump.xml.bz2").read_bytes() == WHOLE


def test_a_mirror_that_stays_busy_is_given_up(load, site):
    site.refusals = [503, 503]
    with pytest.raises(download.MirrorError, match=r"dumpstatus\.json answers 503 after 1 retries"):
        load(site.address)


def test_a_mirror_that_forbids_says_what_it_wants(load, site):
    site.refusals = [403]
    with pytest.raises(download.MirrorError, match=r"403 \(forbidden\): .* real contact"):
        load(site.address)


def test_an_unknown_date_is_answered_with_the_dates_of_the_listing(load, site):
    serve(site.folder, date="20261001")
    with pytest.raises(download.MirrorError, match=r"dump_date is 20261201, .* it has: 20261001, 20261101$"):
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


# ---- --list


@pytest.mark.parametrize("by", ["file", "http"])
def test_the_dates_are_listed_with_whether_they_are_complete(mirror, site, capsys, by):
    serve(mirror, date="20261001")
    serve(mirror, date="20261201", status="in-progress")
    (mirror / "jawiki" / "20270101").mkdir()  # a dump that has only begun has no status yet
    (mirror / "jawiki" / "latest").mkdir()
    download.main(["--list", "--mirror", f"file:{mirror}" if by == "file" else site.address])
    assert capsys.readouterr().out.splitlines() == [
        "20261001 complete",
        "20261101 complete",
        "20261201 not complete",
        "20270101 not complete",
    ]


def test_a_run_without_a_date_is_refused(here, mirror):
    with pytest.raises(SystemExit) as refusal:
        download.main(["--mirror", f"file:{mirror}", "--dump", str(here / "dump.xml.bz2")])
    assert refusal.value.code == 2
