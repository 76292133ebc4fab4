import bz2
import hashlib
import json
import re
import sys
from html import escape
from itertools import chain
from pathlib import Path
from xml.etree.ElementTree import XMLPullParser

import pytest

from jalm import cli
from jalm.formats import blocks, documents, templates, wikitext
from jalm.formats.blocks import Block
from jalm.stages import extract

TEMPLATES = Path(wikitext.__file__).with_name("templates.yaml")
RULES = templates.load(TEMPLATES)
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
    files = ["--dump", dump.parent, "--index", index_of(dump), "--templates", TEMPLATES]
    return [*map(str, [*files, "--part", part, "--parts", parts, "--output", documents_of(dump, part)])]


def run(dump: Path, *knobs: str, part: int = 0, parts: int = 1) -> list[dict]:
    extract.main([*arguments(dump, part, parts), *knobs])
    return list(documents.read(documents_of(dump, part)))


# ---- the stage, with the real wikiextractor


def test_articles_become_documents_in_the_order_of_the_dump(dump, caplog):
    caplog.set_level("INFO")
    first, second = run(dump)
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
    for reason in ("1 redirects", "1 pages of other namespaces", "1 disambiguation pages", "1 empty articles"):
        assert reason in closing


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


# ---- damage


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
    assert all(part in message for part in (str(dump), f"byte {offset}", "'Wikipedia:井戸端'"))


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


def test_the_command_ends_with_a_message(dump):
    dump.write_bytes(b"")
    with pytest.raises(SystemExit, match=r"^extract: .*truncated"):
        cli.run(["extract", *arguments(dump)])
