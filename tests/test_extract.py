import bz2
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from html import escape
from itertools import chain
from pathlib import Path
from xml.etree.ElementTree import XMLPullParser

import pytest

from jalm import cli
from jalm.formats import blocks, documents, earlier, templates, wikitext
from jalm.formats.blocks import Block
from jalm.stages import download, extract

RULES = templates.load(templates.TABLE)
FORBIDDING = "[http://a " * 50_000  # wikiextractor takes hours for it, which our first pass spares it


def page(number: int, title: str, text: str, *, ns: int = 0, redirect: bool = False, sha1: str = "") -> str:
    return (
        f"  <page>\n    <title>{title}</title>\n    <ns>{ns}</ns>\n    <id>{number}</id>\n"
        + ('    <redirect title="東京" />\n' if redirect else "")
        + f"    <revision>\n      <id>{number + 1000}</id>\n      <contributor><username>誰か</username><id>7</id>"
        f"</contributor>\n      <model>wikitext</model>\n      <format>text/x-wiki</format>\n"
        f'      <text bytes="1" {sha1} xml:space="preserve">{escape(text)}</text>\n    </revision>\n  </page>\n'
    )


PAGES = [
    [
        page(
            5,
            "東京都",
            "'''{{読み仮名|東京都|とうきょうと}}'''は、[[日本]]の[[首都]]である。\n* [[千代田区]]\n== 脚注 ==\n",
        ),
        page(6, "都", "#転送 [[東京都]]", redirect=True),
        page(8, "Wikipedia:井戸端", "話し合い", ns=4),
    ],
    [
        page(9, "東京", "* [[東京都]]\n* [[東京 (曲)]]\n{{aimai}}"),
        page(10, "空", "{{箱}}\n[[Category:空]]"),
        page(
            3,
            "両国国技館",
            "両国{{要曖昧さ回避}}の「国技館」......だ。\n\n== 歴史 ==\nAT&amp;T < 3 [http://a.example 例]",
            sha1='sha1="abc"',
        ),
    ],
]


@pytest.fixture
def dump(tmp_path):
    """A dump of two streams of pages between its head and its foot, and the index of their blocks."""
    head, foot = "<mediawiki>\n  <siteinfo><sitename>Wikipedia</sitename></siteinfo>\n", "</mediawiki>\n"
    streams = [bz2.compress(text.encode()) for text in [head, *map("".join, PAGES), foot]]
    return written(tmp_path, {"dump.xml.bz2": b"".join(streams)})


def written(folder: Path, files: dict[str, bytes]) -> Path:
    """The last file of a dump, beside the index of all."""
    (folder / "dump").mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / "dump" / name).write_bytes(content)
    found = [block for name in files for block in blocks.find(folder / "dump" / name)]
    blocks.write_index(folder / "blocks.tsv", found)
    return folder / "dump" / name


def index_of(dump: Path) -> Path:
    return dump.parents[1] / "blocks.tsv"


def documents_of(dump: Path, part: int = 0) -> Path:
    return dump.parents[1] / f"{part:03}.jsonl.zst"


def arguments(dump: Path, part: int = 0, parts: int = 1) -> list[str]:
    files = ["--dump", dump.parent, "--index", index_of(dump)]
    return [*map(str, [*files, "--part", part, "--parts", parts, "--output", documents_of(dump, part)])]


def run(dump: Path, *knobs: str, part: int = 0, parts: int = 1) -> list[dict]:
    extract.main([*arguments(dump, part, parts), *knobs])
    return list(documents.read(documents_of(dump, part)))


# ---- the stage, with the real wikiextractor


def test_articles_become_documents_in_the_order_of_the_dump(dump, caplog):
    caplog.set_level("INFO")
    counts = dump.parents[1] / "counts.json"
    first, second = run(dump, "--counts", str(counts))
    text = "'''{{読み仮名|東京都|とうきょうと}}'''は、[[日本]]の[[首都]]である。\n* [[千代田区]]\n== 脚注 ==\n"
    assert first == {
        "id": 5,
        "revision": 1005,
        "sha1": extract.sha1(text),
        "title": "東京都",
        "text": "東京都（とうきょうと）は、日本の首都である。\n千代田区",
    }
    assert (second["id"], second["sha1"]) == (3, "abc")
    assert second["text"] == "両国の「国技館」......だ。\n歴史\nAT&T < 3 例"
    closing = caplog.messages[-1]
    assert "6 pages in, 2 documents out" in closing
    reasons = ("redirects", "pages of other namespaces", "disambiguation pages", "empty articles")
    for reason in reasons:
        assert f"1 {reason}" in closing
    counted = json.loads(counts.read_text(encoding="utf-8"))
    assert counted == {"in": 6, "out": 2, "dropped": counted["dropped"] | dict.fromkeys(reasons, 1)}
    assert sum(counted["dropped"].values()) == 4


def test_parts_together_are_the_whole_and_a_part_may_be_empty(dump):
    parts = [run(dump, part=part, parts=4) for part in range(4)]
    assert [*chain(*parts)] == run(dump)
    assert [] in parts


def test_the_same_part_gives_the_same_bytes(dump):
    run(dump)
    first = documents_of(dump).read_bytes()
    run(dump)
    assert documents_of(dump).read_bytes() == first


def test_list_items_and_headings_can_be_left_out(dump):
    first, second = run(dump, "--lists", "false", "--headings", "false")
    assert "千代田区" not in first["text"]
    assert "歴史" not in second["text"]


def test_a_page_that_wikiextractor_does_not_finish_costs_no_other(tmp_path):
    made, complaint = extract.run_wikiextractor(["甲。", FORBIDDING, "乙。"], tmp_path, 1)
    assert made == ["甲。"]
    assert "not finished after 1 seconds" in complaint


def test_the_gold_cases_come_out_as_a_reader_sees_them(shared, tmp_path):
    cases = [json.loads(line) for line in (shared / "data/gold/wikitext.jsonl").read_text("utf-8").splitlines()]
    kept = [
        case
        for case in cases
        if not wikitext.is_redirect(case["wikitext"]) and not RULES.is_disambiguation(case["wikitext"])
    ]
    prepared = [wikitext.prepare(case["wikitext"], case["title"], RULES) for case in kept]
    made, _ = extract.run_wikiextractor(prepared, tmp_path, 60)
    seen = {case["id"]: wikitext.finish(text) for case, text in zip(kept, made, strict=True)}
    wrong = [case["id"] for case in cases if seen.get(case["id"], "") not in (case["expected"], *case["accept"])]
    assert wrong == []


# ---- documents of an earlier dump


def stage(folder: Path, output: Path, part: int, parts: int, *options: object) -> list[dict]:
    files = ["--dump", folder / "dump", "--index", folder / "blocks.tsv", "--output", output]
    extract.main(list(map(str, [*files, "--part", part, "--parts", parts, *options])))
    return list(documents.read(output))


@pytest.fixture(scope="module")
def dates(shared, tmp_path_factory) -> Path:
    """Dumps of two dates, and the documents of the first in three parts."""
    folder = tmp_path_factory.mktemp("dates")
    mirror = f"--mirror=file:{shared / 'data/dumps'}"
    for date in ("20261001", "20261101"):
        names = {"--dump": "dump", "--index": "blocks.tsv", "--manifest": "manifest.json"}
        files = [word for option, name in names.items() for word in (option, str(folder / date / name))]
        download.main(["--wiki=jawiki", f"--date={date}", mirror, *files])
    for part in range(3):
        stage(folder / "20261001", folder / f"20261001/{part:03}.jsonl.zst", part, 3, "--code=a")
    return folder


def test_unchanged_articles_are_taken_over_and_the_bytes_are_the_same(dates, tmp_path, caplog):
    caplog.set_level("INFO")
    old = [doc for part in range(3) for doc in documents.read(dates / f"20261001/{part:03}.jsonl.zst")]
    known = {(doc["id"], doc["sha1"], doc["title"]) for doc in old}
    reused = 0
    for part in range(2):
        plain, quick = (tmp_path / name / f"{part:03}.jsonl.zst" for name in ("plain", "quick"))
        new = stage(dates / "20261101", plain, part, 2, "--code=a")
        stage(dates / "20261101", quick, part, 2, "--code=a", "--earlier", dates / "20261001")
        assert quick.read_bytes() == plain.read_bytes()
        same = sum((doc["id"], doc["sha1"], doc["title"]) in known for doc in new)
        assert f"{same} documents taken over from {dates / '20261001'}" in caplog.text
        reused += same
    assert reused > 200


def test_what_is_taken_over_is_not_cleaned_again(dump, tmp_path, monkeypatch):
    expected = stage(dump.parents[1], tmp_path / "old/000.jsonl.zst", 0, 1, "--code=a")
    (tmp_path / "new").mkdir()
    cleaned = []
    monkeypatch.setattr(wikitext, "prepare", lambda text, title, *_, **__: cleaned.append(title) or "")
    made = stage(dump.parents[1], tmp_path / "new/000.jsonl.zst", 0, 1, "--code=a", "--earlier", tmp_path / "old")
    assert made == expected[:1]
    assert cleaned == ["空", "両国国技館"]  # it left no document; its id does not ascend


@pytest.mark.parametrize(
    "options", [["--code=b"], ["--code=a", "--lists=false"], ["--code=a", "--templates={mine}"], []]
)
def test_nothing_is_taken_over_from_other_code_knobs_or_tables(dump, tmp_path, caplog, options):
    caplog.set_level("INFO")
    mine = tmp_path / "mine.yaml"
    mine.write_text('templates: {"": [読み仮名]}')
    stage(dump.parents[1], tmp_path / "old/000.jsonl.zst", 0, 1, "--code=a")
    options = [option.format(mine=mine) for option in options]
    stage(dump.parents[1], tmp_path / "new/000.jsonl.zst", 0, 1, "--earlier", tmp_path / "old", *options)
    assert "0 documents taken over" in caplog.text


@pytest.mark.parametrize("damage", ["truncated", "another", "no note", "broken note", "no folder"])
def test_damaged_earlier_documents_are_passed_over(dump, tmp_path, caplog, damage):
    caplog.set_level("INFO")
    old = tmp_path / "old/000.jsonl.zst"
    expected = stage(dump.parents[1], old, 0, 1, "--code=a")
    note = old.with_name("000.made.json")
    match damage:
        case "truncated":
            old.write_bytes(old.read_bytes()[:-9])
        case "another":
            with documents.writing(old) as writer:
                writer.write(expected[0] | {"text": "別物"})
        case "no note":
            note.unlink()
        case "broken note":
            note.write_text('{"made_by": ')
        case "no folder":
            old.parent.rename(tmp_path / "moved")
    made = stage(dump.parents[1], tmp_path / "new/000.jsonl.zst", 0, 1, "--code=a", "--earlier", old.parent)
    assert made == expected
    assert "0 documents taken over" in caplog.text
    assert ("nothing is taken over from it" in caplog.text) == (damage != "no folder")


def test_a_moved_article_and_a_failed_run_leave_nothing_to_take_over(dump, tmp_path):
    stage(dump.parents[1], tmp_path / "000.jsonl.zst", 0, 1, "--code=a")
    digest = json.loads((tmp_path / "000.made.json").read_text())["made_by"]
    first, _ = documents.read(tmp_path / "000.jsonl.zst")
    known = earlier.Earlier(tmp_path, digest)
    assert known.text(first["id"], first["sha1"], "別の題") is None
    assert known.text(first["id"], first["sha1"], first["title"]) == first["text"]
    dump.write_bytes(dump.read_bytes()[:-100])
    with pytest.raises(extract.DumpError):
        stage(dump.parents[1], tmp_path / "000.jsonl.zst", 0, 1, "--code=a")
    assert not (tmp_path / "000.made.json").exists()


# ---- damage


def test_ctrl_c_ends_it_at_once_and_leaves_no_process(dump, tmp_path):
    slow = tmp_path / "slow"
    slow.mkdir()
    program = "import sys, time; open(sys.argv[-1] + '.begun', 'w'); time.sleep(60)"
    code = f"import sys; from jalm import cli; from jalm.stages import extract; extract.PROGRAM = [sys.executable, '-c', {program!r}]"
    command = [sys.executable, "-c", f"{code}; cli.run(sys.argv[1:])", "extract", *arguments(dump)]
    running = subprocess.Popen(command, env=os.environ | {"TMPDIR": str(slow)}, start_new_session=True)
    while not list(slow.rglob("*.begun")):
        assert running.poll() is None
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(timeout=50) == 130  # before the program would have ended
    with pytest.raises(ProcessLookupError):  # the whole group is gone
        os.killpg(running.pid, 0)
    assert not documents_of(dump).exists()
    assert list(slow.iterdir()) == []


def refused(dump: Path, **changed: int) -> str:
    with pytest.raises(extract.DumpError) as fault:
        run(dump, **changed)
    assert not documents_of(dump).exists()
    return str(fault.value)


def test_a_corrupt_stream_is_refused_with_its_place_and_the_last_title(dump):
    data = bytearray(dump.read_bytes())
    offset = blocks.find(dump)[2].begin // 8  # the second of pages, after that of the head
    data[offset + 60] ^= 0xFF
    dump.write_bytes(data)
    message = refused(dump)
    told = (str(dump), f"byte {offset}", "'Wikipedia:井戸端'", f"remove the folder {dump.parent}, if download made it")
    assert all(part in message for part in told)


def test_a_truncated_dump_is_refused_at_once(dump):
    dump.write_bytes(dump.read_bytes()[:-100])
    assert "it is truncated" in refused(dump)


def test_an_index_that_does_not_fit_is_refused(dump):
    found = blocks.find(dump)
    blocks.write_index(index_of(dump), [block._replace(end=block.end - 20) for block in found])
    assert "Invalid data stream" in refused(dump)
    index_of(dump).write_text("5\t9\n")
    with pytest.raises(blocks.BlockError, match="is no index of blocks"):
        run(dump)


def test_xml_that_is_no_pages_is_refused(tmp_path):
    dump = written(tmp_path, {"dump.xml.bz2": bz2.compress("<page><title>東京</titel></page>".encode())})
    assert "mismatched tag" in refused(dump)
    dump = written(tmp_path, {"dump.xml.bz2": bz2.compress("<page><title>東京</title></pge>".encode())})
    assert "ends within a page" in refused(dump)


def test_a_wikiextractor_that_fails_on_everything_ends_the_stage_with_its_words(dump, monkeypatch):
    monkeypatch.setattr(extract, "PROGRAM", [sys.executable, "-c", "import sys; sys.exit('壊れています')"])
    with pytest.raises(extract.WikiextractorError, match="壊れています"):
        run(dump)
    assert not documents_of(dump).exists()


# ---- pure functions


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 32, 100])
def test_every_block_is_in_exactly_one_part_and_parts_are_about_equal(parts):
    lengths = [1 + (number * 7919) % 997 for number in range(500)]
    index = [Block("鏡", sum(lengths[:number]), sum(lengths[: number + 1])) for number in range(500)]
    made = [extract.part_of(index, part, parts) for part in range(parts)]
    assert [*chain(*made)] == [*range(500)]
    sizes = [sum(lengths[number] for number in part) for part in made]
    assert max(sizes) - min(sizes) <= 2 * max(lengths)


def test_an_index_without_blocks_makes_empty_parts():
    assert list(extract.part_of([], 0, 3)) == []


LONG = [page(number, f"題{number}", "長い文。" * (99_000 if number == 3 else 5)) for number in range(9)]


def stored(text: bytes, cuts: list[int]) -> bytes:
    """A bz2 file with blocks that end at `cuts`: each is a stream of its own, which makes no difference to a reader."""
    return b"".join(bz2.compress(text[a:b]) for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True))


@pytest.mark.parametrize("cut", [*range(len("<page>") + 1), 20, -3, -8])
def test_a_page_is_read_once_wherever_a_block_begins(tmp_path, cut):
    text = "".join(["<mediawiki>\n", *LONG, "</mediawiki>\n"]).encode()
    cuts = [found.start() + cut for found in re.finditer(b"<page>", text)]
    dump = written(tmp_path, {"dump.xml.bz2": stored(text, cuts)})
    index = blocks.read_index(index_of(dump))
    assert len(index) == len(LONG) + 2  # the long page has 1.2 MB
    for parts in (1, 3, len(index)):
        made = [extract.read_pages(dump.parent, index, extract.part_of(index, part, parts)) for part in range(parts)]
        assert [page.title for page in chain(*made)] == [f"題{number}" for number in range(9)]


def test_a_part_that_lies_in_two_files_has_the_pages_of_both(tmp_path):
    texts = {f"p{n}.xml.bz2": "".join(["<mediawiki>\n", *LONG[n : n + 3], "</mediawiki>\n"]) for n in (0, 3, 6)}
    dump = written(tmp_path, {name: stored(text.encode(), [99, 700]) for name, text in texts.items()})
    index = blocks.read_index(index_of(dump))
    for parts in (1, 2, 4):
        made = [extract.read_pages(dump.parent, index, extract.part_of(index, part, parts)) for part in range(parts)]
        assert [page.id for page in chain(*made)] == [*range(9)]


def test_every_layout_of_a_real_dump_has_the_same_pages(shared, tmp_path):
    folder = shared / "data/dumps"
    classic = folder / "jawiki/20261001"
    layouts = [
        [classic / "jawiki-20261001-pages-articles-multistream.xml.bz2"],
        [classic / "jawiki-20261001-pages-articles.xml.bz2"],  # one stream
        [*(folder / "other/mediawiki_content_current/jawiki/2026-10-01/xml/bzip2").glob("*.bz2")],
    ]
    whole = bz2.decompress(layouts[1][0].read_bytes()).decode()
    wanted = sorted(map(int, re.findall(r"</ns>\n    <id>(\d+)</id>", whole)))
    for files in layouts:
        index = [block for file in files for block in blocks.find(file)]
        parts = [extract.read_pages(files[0].parent, index, extract.part_of(index, part, 5)) for part in range(5)]
        assert sorted(page.id for page in chain(*parts)) == wanted


def test_sha1_is_written_as_mediawiki_does():
    # 31 digits of base 36; int() reads them back
    digest = extract.sha1("東京")
    assert len(digest) == 31
    assert int(digest, 36) == int(hashlib.sha1("東京".encode(), usedforsecurity=False).hexdigest(), 16)


def test_sha1_is_the_one_that_the_dump_has(shared):
    folder = shared / "data/dumps/jawiki/20261001"
    data = bz2.decompress((folder / "jawiki-20261001-pages-articles.xml.bz2").read_bytes())[:2_000_000].decode()
    assert data.count(" sha1=") > 3
    parser = XMLPullParser(["end"])
    parser.feed(data)
    texts = [element for _, element in parser.read_events() if element.tag.endswith("}text")]
    assert all(extract.sha1(text.text or "") == text.get("sha1") for text in texts)


def test_batches_are_bounded_and_keep_the_order():
    articles = [extract.Article(number, 0, "", "", "あ" * 30) for number in range(10)]
    made = list(extract.batches(articles, 100))
    assert [len(batch) for batch in made] == [4, 4, 2]
    assert [*chain(*made)] == articles


def test_an_article_that_fails_is_named_and_the_others_are_kept(tmp_path, monkeypatch, caplog):
    runs = []

    def fake(texts, folder, time_limit):
        runs.append(len(texts))
        good = texts[: texts.index("毒")] if "毒" in texts else texts
        return [text * 2 for text in good], "Traceback: 毒"

    monkeypatch.setattr(extract, "run_wikiextractor", fake)
    batch = [
        extract.Article(number, 0, "", f"題{number}", text) for number, text in enumerate(["甲", "乙", "毒", "丙"])
    ]
    assert list(extract.cleaned(batch, tmp_path, 60)) == ["甲甲", "乙乙", None, "丙丙"]
    assert "'題2' (page 2): Traceback: 毒" in caplog.text
    assert runs == [4, 1, 1, 1]  # all, the third alone, a harmless text, the rest


def test_a_part_that_does_not_exist_is_a_mistake_on_the_command_line(dump, capsys):
    with pytest.raises(SystemExit):
        run(dump, part=4, parts=4)
    assert "--part 4 is not one of 0 to 3" in capsys.readouterr().err


def test_the_command_ends_with_a_message(dump, capsys):
    dump.write_bytes(b"")
    with pytest.raises(SystemExit, match=r"^1$"):
        cli.run(["extract", *arguments(dump)])
    assert re.fullmatch(r"extract: .*truncated.*\n", capsys.readouterr().err)
