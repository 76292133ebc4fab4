import bz2
import hashlib
import json
import subprocess
from collections import Counter
from xml.etree import ElementTree

import pytest
from wiki import pack

NS = "{http://www.mediawiki.org/xml/export-0.11/}"


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    """Both dates, packed."""
    folder = tmp_path_factory.mktemp("dumps")
    for date in pack.DATES:
        pack.pack(folder, date, pages_per_stream=8)
    return folder / "jawiki"


def dump(mirror, date) -> bytes:
    return (mirror / date / f"jawiki-{date}-pages-articles-multistream.xml.bz2").read_bytes()


def index(mirror, date) -> list[tuple[int, int, str]]:
    packed = (mirror / date / f"jawiki-{date}-pages-articles-multistream-index.txt.bz2").read_bytes()
    lines = (line.split(":", 2) for line in bz2.decompress(packed).decode().splitlines())
    return [(int(offset), int(page), title) for offset, page, title in lines]


def parsed(xml: bytes) -> ElementTree.Element:
    return ElementTree.fromstring(xml)  # noqa: S314 (we wrote it)


def pages(mirror, date) -> dict[int, ElementTree.Element]:
    found = parsed(bz2.decompress(dump(mirror, date))).findall(f"{NS}page")
    return {int(page.findtext(f"{NS}id")): page for page in found}


def test_packing_again_gives_the_same_bytes(mirror, tmp_path):
    for date in pack.DATES:
        pack.pack(tmp_path, date, pages_per_stream=8)
    one, other = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (mirror, tmp_path / "jawiki")
    )
    assert one == other
    assert len(one) == 2 * 5


@pytest.mark.parametrize("date", pack.DATES)
def test_the_dump_is_well_formed_and_its_pages_come_in_the_order_of_their_ids(mirror, date):
    ids = list(pages(mirror, date))
    assert ids == sorted(ids)
    titles = Counter(page.findtext(f"{NS}title") for page in pages(mirror, date).values())
    assert set(titles.values()) == {1}


@pytest.mark.parametrize("date", pack.DATES)
def test_the_index_says_in_which_stream_each_page_begins(mirror, date):
    whole, found = dump(mirror, date), set()
    for offset in {offset for offset, _, _ in index(mirror, date)}:
        stream = parsed(b"<s>" + bz2.BZ2Decompressor().decompress(whole[offset:]) + b"</s>")
        found |= {(offset, int(page.findtext("id")), page.findtext("title")) for page in stream}
    assert set(index(mirror, date)) == found
    assert [page for _, page, _ in index(mirror, date)] == list(pages(mirror, date))


@pytest.mark.parametrize("date", pack.DATES)
def test_a_stream_holds_as_many_pages_as_was_asked_for(mirror, date):
    sizes = list(Counter(offset for offset, _, _ in index(mirror, date)).values())
    assert set(sizes[:-1]) == {8}
    assert 1 <= sizes[-1] <= 8


@pytest.mark.parametrize("date", pack.DATES)
@pytest.mark.parametrize("kind", ["md5", "sha1"])
def test_the_sums_are_right(mirror, date, kind):
    told = subprocess.run(
        [f"{kind}sum", "--check", f"jawiki-{date}-{kind}sums.txt"], cwd=mirror / date, capture_output=True, text=True
    )
    assert (told.returncode, told.stdout.count(": OK")) == (0, 2)


@pytest.mark.parametrize("date", pack.DATES)
def test_the_status_lists_size_address_and_sums_of_each_file(mirror, date):
    (job,) = json.loads((mirror / date / "dumpstatus.json").read_text(encoding="utf-8"))["jobs"].values()
    assert job["status"] == "done"
    for name, listed in job["files"].items():
        content = (mirror.parent / listed["url"].lstrip("/")).read_bytes()
        assert listed["url"].endswith(f"/{date}/{name}")
        assert listed["size"] == len(content)
        assert listed["sha1"] == hashlib.sha1(content, usedforsecurity=False).hexdigest()
        assert listed["md5"] == hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert len(job["files"]) == 2


def test_each_page_says_the_size_and_the_sum_of_its_text(mirror):
    for page in pages(mirror, "20261101").values():
        text = page.find(f"{NS}revision/{NS}text")
        content = text.text.encode()
        sha1 = hashlib.sha1(content, usedforsecurity=False).digest()
        assert int(text.get("bytes")) == len(content)
        assert int(text.get("sha1"), 36) == int.from_bytes(sha1, "big")
        assert page.findtext(f"{NS}revision/{NS}sha1") == text.get("sha1")


def test_sums_are_written_as_mediawiki_writes_them():
    empty = int.from_bytes(hashlib.sha1(b"", usedforsecurity=False).digest(), "big")
    assert pack.base36(empty) == "phoiac9h4m842xq45sp7s6u21eteeq1"
    assert pack.base36(35) == 30 * "0" + "z"


def test_a_redirect_names_its_target(mirror):
    redirects = {
        page.findtext(f"{NS}title"): page.find(f"{NS}redirect").get("title")
        for page in pages(mirror, "20261101").values()
        if page.find(f"{NS}redirect") is not None
    }
    assert redirects["電子計算機"] == "コンピュータ"
    assert redirects["炭酸ガス"] == "二酸化炭素"  # without the section
    assert redirects["画狂老人卍"] == "葛飾北斎"  # of ＃転送, with a full-width mark
    assert all(title != target for title, target in redirects.items())


@pytest.mark.parametrize(
    ("title", "key"), [("猿楽", "0"), ("Template:自然災害", "10"), ("ファイル:囲碁の対局例.jpg", "6")]
)
def test_a_page_lies_in_the_namespace_of_its_prefix(mirror, title, key):
    (page,) = (page for page in pages(mirror, "20261001").values() if page.findtext(f"{NS}title") == title)
    assert page.findtext(f"{NS}ns") == key


# ---- the second date


@pytest.fixture(scope="module")
def change(mirror):
    """Title and revision of each page, at the first and the second date."""
    return [
        {
            number: {
                "title": page.findtext(f"{NS}title"),
                "text": page.findtext(f"{NS}revision/{NS}text"),
                "revision": page.findtext(f"{NS}revision/{NS}id"),
                "day": page.findtext(f"{NS}revision/{NS}timestamp")[:10],
            }
            for number, page in pages(mirror, date).items()
        }
        for date in pack.DATES
    ]


def test_each_file_of_the_second_date_adds_edits_or_deletes_one_page(change):
    before, after = change
    added, gone = after.keys() - before.keys(), before.keys() - after.keys()
    edited = {number for number in before.keys() & after.keys() if before[number] != after[number]}
    assert len(added) + len(gone) + len(edited) == len(list((pack.HERE / "20261101").glob("*.wiki")))
    assert min(len(added), len(edited)) >= 5


def test_an_edited_page_has_a_new_revision_and_any_other_the_old_one(change):
    before, after = change
    for number in before.keys() & after.keys():
        edited = before[number]["text"] != after[number]["text"]
        assert edited == (before[number]["revision"] != after[number]["revision"])
        assert after[number]["day"] == ("2026-11-01" if edited else "2026-10-01")


def test_one_page_is_deleted_and_two_move_leaving_redirects(change):
    before, after = change
    assert [before[number]["title"] for number in before.keys() - after.keys()] == ["学校"]
    moved = {n: after[n]["title"] for n in before.keys() & after.keys() if before[n]["title"] != after[n]["title"]}
    assert moved == {1070: "コンピュータ", 4018: "ピタゴラスの定理"}
    for number, title in moved.items():
        (left,) = (page for page in after.values() if page["title"] == before[number]["title"])
        assert left["text"] == f"#転送 [[{title}]]"
