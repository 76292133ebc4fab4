"""The report's pages: what they say of what is there, and of what is not."""

import base64
import html
import json
import math
import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import browser
import pytest

from jalm.stages import report

SIZE = {"documents": 10, "sentences": 100, "characters": 12345, "bytes": 37000}
ACCOUNT = {
    "intake": {"in": 1500, "out": 1000, "dropped": {"redirects": 480, "disambiguation pages": 20, "empty": 0}},
    "filter": {
        "in": {"documents": 1000, "sentences": 20000, "characters": 1234567, "bytes": 3600000},
        "out": {"documents": 940, "sentences": 19000, "characters": 1214567, "bytes": 3540000},
        "dropped": {"shorter than min_characters": {**SIZE, "documents": 60}},
    },
    "dedup": {"contamination": {"before": {"train": 3, "valid": 0}, "after": {"train": 0, "valid": 0}}},
    "split": {
        "out": {
            "train": {"documents": 900, "sentences": 18000, "characters": 1100000, "bytes": 3300000},
            "valid": SIZE,
            "test": {**SIZE, "documents": 20},
        },
        "dropped": {"near to another": SIZE},
    },
}
PIECE = {"score": -5.5, "uses": 1234}
VALID = {"tokens": 20000, "unknown": 0, "byte_pieces": 30, "characters_per_token": 1.98765, "bytes_per_token": 5.5}
SCRIPTS = {"kanji": 20000, "hiragana": 6000, "katakana": 4000, "Latin": 1000, "other letters": 737}
LONG, RARE = ("アメリカ合衆国", "▁the", "<b>&amp;", "𠮷野家"), ("한국어", "🙂🙃", "ｶﾞｷﾞ", "がぎ", "鬱")
PIECES = {"special": 7, "bytes": 256, "unused": 1234, "scripts": SCRIPTS}
PIECES |= {
    "longest": [{"piece": piece} | PIECE for piece in LONG],
    "rarest": [{"piece": piece} | PIECE for piece in RARE],
}
TOKENIZER = {"tokenizer": "unigram-32k-20261101", "vocab_size": 32000, "valid": {"jawiki": VALID}, "pieces": PIECES}
TRAINING = {"steps": 1000, "tokens": 524_288_000, "parameters": 124_000_000, "device": "NVIDIA H100"}
TRAINING |= {"versions": {"torch": "2.13.0"}}
TEXT = {"test_set": "jawiki-20261101", "documents": 20, "characters": 12345, "bytes": 37000}
MASKED = TEXT | {"perplexity": 5.09, "accuracy": 0.6321, "predicted_tokens": 12345, "mlm_probability": 0.15}
BERT = MASKED | {"nsp_loss": 0.31, "nsp_accuracy": 0.87, "pairs": 4321, "pseudo_perplexity": 5.4}
READ = {"perplexity": 18.2, "bits_per_character": 3.05, "bits_per_byte": 1.01, "predicted_tokens": 1234000}
CAUSAL = TEXT | READ | {"accuracy": 0.4321, "bits_per_character": 3.14159}
FULL = CAUSAL | {"unknown_share": 0.0, "byte_share": 0.0015, "sliding": READ, "loss_by_position": [4.0, 3.5, 3.2, 3.1]}
FULL |= {"by_document": READ | {"bits_per_character": 3.11, "bits_per_character_interval": [3.02, 3.21]}}
FILLED = [
    {"token": "京", "probability": 0.4, "text": "東京は"},
    {"token": "🙂", "probability": 0.001, "text": "東🙂は"},
]
SAMPLES = [{"prompt": "日本の", "text": "日本の首都は<b>東京</b>である。\n次の行 𠮷 🙂"}]
DUMP = {"wiki": "jawiki", "date": "20261101", "mirror": "https://dumps.wikimedia.org"}
CORPUS = {"name": "jawiki-20261101", "license": "CC-BY-SA-4.0", "attribution": "Wikipedia", "dump": DUMP}
PROVENANCE = {
    "made": "2026-11-28T07:03:18+00:00",
    "jalm": "0.1.0",
    "revision": f"{'0123456789abcdef' * 2}-dirty",
    "corpora": [CORPUS],
}
PROVENANCE |= {"versions": {"sentencepiece": "0.2.3"}}


def log(steps=1000, every=1, valid=100, kind="gpt2", start=10.4, end=3.2):
    """Lines as pretrain writes them."""
    for step in range(every, steps + 1, every):
        loss = end + (start - end) * math.exp(-6 * step / steps) + 0.05 * math.sin(7 * step)
        line = {"step": step, "tokens": step * 524288, "loss": loss, "grad_norm": 0.5 + 4 / step}
        line |= {"learning_rate": 6e-4 * min(1, 20 * step / steps, 5 * (1.001 - step / steps))}
        yield {**line, "tokens_per_second": 310000.0 + 9000 * math.sin(step), "mfu": 0.412, "memory_gib": 61.2}
        if valid and step % valid == 0:
            line = {"step": step, "tokens": step * 524288, "valid_loss": loss + 0.1}
            if kind == "bert":
                line |= {"valid_mlm_loss": loss - 0.3, "valid_nsp_loss": 0.4}
            if kind == "gpt2":
                line["valid_loss_by_position"] = [loss + 1 / (part + 1) for part in range(8)]
            yield line


class Made:
    """What the report reads, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.accounts, self.tokenizers, self.models, self.exports, self.evaluations = [], [], [], [], []

    def write(self, path: str, content: object) -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        file.write_text(text, encoding="utf-8")
        return file

    def corpus(self, name="jawiki-20261101", account=ACCOUNT) -> None:
        self.accounts.append(self.write(f"split/{name}/account.json", account))

    def tokenizer(self, tokenizer=TOKENIZER) -> None:
        self.tokenizers.append(self.write(f"train_tokenizer/{tokenizer['tokenizer']}/report.json", tokenizer))

    def model(self, name="gpt2-small-20261101", kind="gpt2", lines=None, samples=SAMPLES, provenance=None, **training):
        self.write(f"pretrain/{name}/config.json", {"model_type": kind})
        self.write(f"pretrain/{name}/training.json", {**TRAINING, **training})
        told = "".join(json.dumps(line) + "\n" for line in (log(kind=kind) if lines is None else lines))
        self.models.append(self.write(f"pretrain/{name}/log.jsonl", told).parent)
        self.exports.append(self.folder / "export" / name)
        if samples is not None:
            self.write(f"export/{name}/samples.json", samples)
        if provenance:
            self.write(f"export/{name}/provenance.json", provenance)

    def evaluated(self, record, name="gpt2-small-20261101", **changed) -> None:
        record = {"model": name, **record, **changed}
        self.evaluations.append(self.write(f"evaluate/{name}/{record['test_set']}.json", record))

    def pages(self, *names: str) -> dict[str, str]:
        """The pages, all of them unless some are named."""
        names = names or report.PAGES
        options = ["--date=20261101", "--benchmarks", str(self.folder / "benchmarks")]
        for option in ("accounts", "tokenizers", "models", "exports", "evaluations"):
            options += [f"--{option}", *map(str, getattr(self, option))]
        files = [self.folder / "report" / f"{name}.html" for name in names]
        report.main([*options, "--pages", *map(str, files)])
        return {file.stem: file.read_text(encoding="utf-8") for file in files}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def whole(made: Made) -> Made:
    """Three models of three kinds, and all that can be known of them."""
    made.corpus()
    made.corpus("cc100", {**ACCOUNT, "intake": {"in": 1000, "out": 1000, "dropped": {"empty": 0}}})
    made.tokenizer()
    made.tokenizer({**TOKENIZER, "tokenizer": "bpe-8k-20261101", "vocab_size": 8000})
    made.model(provenance=PROVENANCE)
    masked = [{"prompt": "東[MASK]は", "candidates": FILLED}]
    made.model("roberta-base-20261101", "roberta", list(log(700, kind="roberta", end=2.0)), masked, PROVENANCE)
    made.model("bert-base-20261101", "bert", list(log(800, 50, kind="bert", end=2.4)), masked)
    made.evaluated(FULL)
    made.evaluated(MASKED, "roberta-base-20261101")
    made.evaluated(BERT, "bert-base-20261101", accuracy=0.61)
    made.evaluated({**FULL, "by_document": {**FULL["by_document"], "bits_per_character": 3.3}}, "gpt2-small-20261001")
    for stage, memory in (("segment", 812.5), ("pretrain", 61000), ("evaluate", 9000)):
        name = "jawiki-20261101/000" if stage == "segment" else "gpt2-small-20261101"
        head = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
        made.write(f"benchmarks/{stage}/{name}.tsv", f"{head}3725.5\t1:02:05\t{memory}\t1\t1\t1\t1\t1\t98.0\t3600.25\n")
    return made


def words(page: str) -> str:
    """The text of a page as a reader sees it, without pictures."""
    body = page.partition("<body>")[2]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", body)))


def row(page: str, *beginning: str) -> list[str]:
    """Cells of the table row that begins so."""
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", found) for found in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)]
    (found,) = [cells for cells in rows if cells[: len(beginning)] == list(beginning)]
    return found[len(beginning) :]


def pictures(page: str) -> list[str]:
    """The figures of a page, as SVG."""
    return [base64.b64decode(data).decode() for data in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)]


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> dict[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # matplotlib warns of a missing glyph, and of what does not fit
        return whole(Made(tmp_path_factory.mktemp("whole"))).pages()


def test_each_page_is_whole_in_itself_and_small_enough_for_a_frame(full):
    assert list(full) == list(report.PAGES)
    for page in full.values():
        assert page.startswith("<!DOCTYPE html>")
        assert not re.search(r'(src|href)="(?!data:)|url\("(?!data:)|<script|@import', page)
        assert len(page) < report.FRAME


def test_a_page_too_large_for_snakemakes_frame_is_said_to_be(made, caplog, monkeypatch):
    made.corpus()
    monkeypatch.setattr(report, "FRAME", 1000)
    made.pages("corpora")
    assert "corpora.html has 0.1 MB, and Chromium shows 0.0 in Snakemake's report" in caplog.text


def test_many_long_trainings_fit_into_a_frame(made):
    lines = list(log(500))
    for number in range(20):
        made.model(f"gpt2-{number}-20261101", lines=lines)
    assert len(made.pages("training")["training"]) < report.FRAME


def test_figures_are_drawn_of_paths_so_that_no_font_is_needed(full):
    drawn = [picture for page in full.values() for picture in pictures(page)]
    assert len(drawn) > 10
    for picture in drawn:
        assert "<text" not in picture
        assert picture.count("<path") > 20


def test_the_same_input_gives_the_same_bytes(made):
    made.tokenizer()
    assert made.pages("tokenizers") == made.pages("tokenizers")


def test_the_overview_has_the_main_figures_and_where_they_come_from(full):
    page = full["overview"]
    assert "Japanese language models of 2026-11-01" in words(page)
    assert "1,800 documents to train on" in words(page)
    assert "3.110 bits a character on jawiki-20261101: gpt2-small-20261101" in words(page)
    assert "63.2% of masked tokens right on jawiki-20261101: roberta-base-20261101" in words(page)
    assert row(page, "gpt2-small-20261101", "the next token")[1:3] == ["124M", "524M"]
    assert row(page, "jawiki-20261101")[:3] == [
        "jawiki 20261101 https://dumps.wikimedia.org",
        "CC-BY-SA-4.0",
        "Wikipedia",
    ]
    assert row(page, "bert-base-20261101", "–")[-1] == "torch 2.13.0"  # nothing is known of its export
    assert "0123456789ab-dirty" in words(page)


def test_the_account_of_a_corpus_is_told_from_the_intake_to_the_sides(full):
    page = full["corpora"]
    assert page.count("<td>60</td><td>100</td><td>12,345</td><td>37kB</td><td>206</td>") == 2  # of each corpus
    assert "3 of train before dedup, 0 after" in words(page)
    assert row(page, "jawiki-20261101") == ["1,500", "900", "10", "20", "1,124,690"]


def test_a_corpus_that_lost_nothing_is_told_so(made):
    sides = dict.fromkeys(("train", "valid", "test"), SIZE)
    sizes = {key: 3 * value for key, value in SIZE.items()}
    made.corpus(
        account={
            "intake": {"in": 30, "out": 30, "dropped": {"empty": 0}},
            "filter": {"in": sizes, "out": sizes, "dropped": {}},
            "dedup": {"contamination": {"before": {"train": 0, "valid": 0}, "after": {"train": 0, "valid": 0}}},
            "split": {"out": sides, "dropped": {}},
        }
    )
    page = made.pages("corpora")["corpora"]
    assert "filter and dedup took nothing away" in words(page)
    assert "one of the sides after theirs: none" in words(page)
    assert pictures(page)


def test_pieces_that_no_font_has_are_told_by_their_numbers_and_nothing_becomes_markup(full):
    page = full["tokenizers"]
    assert 'title="U+20BB7 U+91CE U+5BB6">𠮷野家' in page
    assert 'title="U+1F642 U+1F643">🙂🙃' in page
    assert "&lt;b&gt;&amp;amp;" in page
    assert "font-family: page" in page
    assert row(page, "bpe-8k-20261101", "jawiki")[:4] == ["8,000", "20,000", "1.988", "5.500"]


def test_samples_are_shown_as_written(full):
    page = full["samples"]
    assert "<b>日本の</b>首都は&lt;b&gt;東京&lt;/b&gt;である。\n次の行 𠮷 🙂</div>" in page
    assert "東<b>[MASK]</b>は" in page
    assert "40.0%" in words(page)


def test_evaluations_stand_by_test_set_older_models_on_the_same_text_too(full):
    page = full["evaluation"]
    assert row(page, "gpt2-small-20261101", "each document by itself")[:2] == ["3.110", "3.020 – 3.210"]
    assert row(page, "gpt2-small-20261101", "disjoint blocks")[0] == "3.142"
    assert row(page, "gpt2-small-20261001", "sliding window")[0] == "3.050"
    assert row(page, "bert-base-20261101")[-3:] == ["0.310", "87.0%", "4,321"]


def test_an_older_evaluation_of_other_text_is_left_out(made):
    made.model()
    made.evaluated(CAUSAL)
    made.evaluated(CAUSAL, "gpt2-small-20261001", characters=12344)
    assert "gpt2-small-20261001" not in made.pages("evaluation")["evaluation"]


def test_an_evaluation_without_the_newer_figures_is_shown(made):
    made.model()
    made.evaluated(CAUSAL)
    page = made.pages("evaluation")["evaluation"]
    assert row(page, "gpt2-small-20261101", "disjoint blocks")[:2] == ["3.142", ""]
    assert "sliding" not in words(page)
    assert len(pictures(page)) == 1


def test_a_log_with_null_and_without_validations_is_drawn_and_said(made):
    lines = [line | {"grad_norm": None} if line["step"] < 4 else line for line in log(10, valid=0)]
    made.model(lines=lines)
    page = made.pages("training")["training"]
    assert "The log of gpt2-small-20261101 has no validation." in words(page)
    assert "fp16 overflowed in 3 of the logged steps" in words(page)
    assert "next sentence" not in words(page)
    assert row(page, "gpt2-small-20261101", "124M", "1,000")[2:4] == ["–", "–"]


def test_what_is_not_there_is_said_on_every_page(made):
    made.corpus()
    pages = made.pages()
    for name, told in {
        "tokenizers": "No tokenizer is configured.",
        "training": "No model is configured.",
        "evaluation": "No model was evaluated.",
        "samples": "No model is configured.",
        "resources": "No benchmark of segment, filter, dedup, split, split_summary",
    }.items():
        assert told in words(pages[name])
    made.model(samples=None)
    assert "There are no samples in the export of this model." in words(made.pages("samples")["samples"])


def test_costs_are_told_in_units_that_fit(full):
    page = full["resources"]
    assert row(page, "pretrain") == ["1", "1 h 2 min", "1 h 2 min", "1 h 0 min", "59.6 GiB"]
    assert row(page, "all")[:2] == ["3", "3 h 6 min"]
    assert "No benchmark of filter," in words(page)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.25, "0.2 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599.7, "1 h 0 min"), (90000, "1 d 1 h"), (math.nan, "–")],
)
def test_durations_have_their_two_largest_units(seconds, told):
    assert report.duration(seconds) == told


def test_a_page_that_the_report_does_not_have_is_refused(made):
    with pytest.raises(report.NoPage, match=r"report/prices\.html; pages are overview\.html"):
        made.pages("prices")
    assert not (made.folder / "report").exists()


# ---- in the workflow


@pytest.mark.parametrize(("date", "stale"), [("20260901", {"report"}), ("20261201", set())])
def test_an_evaluation_of_an_older_model_on_the_same_test_set_is_shown_one_of_a_later_is_not(finished, date, stale):
    old = finished.work / "results/evaluate" / f"gpt2-tiny-{date}"
    old.mkdir()
    try:
        shutil.copy(finished.work / "results/evaluate/gpt2-tiny-20261001/jawiki-20261001.json", old)
        assert finished.stale() == stale
    finally:
        shutil.rmtree(old)


def test_a_benchmark_that_is_gone_makes_nothing_stale_and_the_report_goes_without(finished):
    moved = finished.moved("unmeasured")
    shutil.rmtree(moved.work / "benchmarks")
    assert moved.stale() == set()
    moved.run("--forcerun", "report")
    page = (moved.work / "results/report/20261001/resources.html").read_text(encoding="utf-8")
    assert "No benchmark of segment, filter" in words(page)


# ---- in a browser


INK = """Promise.all([...document.images].map(async image => {
    await image.decode()
    const canvas = document.createElement("canvas"), context = canvas.getContext("2d")
    ;[canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight]
    context.drawImage(image, 0, 0)
    const {data} = context.getImageData(0, 0, canvas.width, canvas.height)
    const found = {name: image.alt, pixels: data.length / 4, inked: 0, coloured: 0}
    for (let at = 0; at < data.length; at += 4) {
        const [red, green, blue, solid] = data.slice(at, at + 4)
        found.inked += solid > 0 && Math.min(red, green, blue) < 200
        found.coloured += solid > 0 && Math.max(red, green, blue) - Math.min(red, green, blue) > 60
    }
    return found
}))"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[browser.Browser]:
    if why := browser.missing():
        pytest.skip(why)
    with browser.started(tmp_path_factory.mktemp("browser")) as running:
        yield running


def test_snakemakes_report_shows_every_page_offline(finished, chromium, tmp_path):
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    replace(finished, environment=nowhere).run("--report", str(tmp_path / "report.html"))
    chromium.open(tmp_path / "report.html")
    chromium.wait("document.querySelector('#rulegraph canvas, #rulegraph svg')")
    told = chromium.ask("document.body.innerText")
    assert "Japanese language models of 2026-10-01" in told
    assert "Models: gpt2-tiny, roberta-tiny." in told
    shown, drawn = {}, []
    for link in chromium.ask("[...document.querySelectorAll('.prose a')].map(link => link.textContent)"):
        chromium.ask("app.setView({content: 'rulegraph'})")
        chromium.wait("document.querySelector('.prose a')")
        chromium.ask(
            f"[...document.querySelectorAll('.prose a')].find(a => a.textContent == {json.dumps(link)}).click()"
        )
        frame = chromium.frame()
        shown[link] = chromium.ask("document.querySelector('h1').textContent", frame)
        drawn += chromium.ask(INK, frame)
    assert shown == {
        "What was made": "Japanese language models of 2026-10-01",
        "Where the articles went": "Where the articles went",
        "How text is cut": "Tokenizers",
        "How models learnt": "Training",
        "What models can": "Evaluation",
        "What models write": "Samples",
        "What it took": "Time and memory",
    }
    assert len(drawn) >= 9
    for picture in drawn:
        assert picture["inked"] > 0.005 * picture["pixels"], picture
        assert picture["coloured"] > 50, picture
    assert (chromium.errors, chromium.requests) == ([], [])


@pytest.mark.parametrize("width", [1280, 390])
def test_pages_fit_into_a_wide_window_and_a_narrow_one(full, chromium, tmp_path, width):
    for name, page in full.items():
        (tmp_path / f"{name}.html").write_text(page, encoding="utf-8")
        chromium.open(tmp_path / f"{name}.html", width)
        assert chromium.ask("document.documentElement.scrollWidth") <= width
        assert chromium.ask("[...document.images].every(image => image.naturalWidth > 0 && image.alt)")
        assert chromium.ask("[...document.fonts].every(font => font.status == 'loaded')")
    assert (chromium.errors, chromium.requests) == ([], [])
