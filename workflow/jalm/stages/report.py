"""Draw what was made: where the articles went, how tokenizers cut, how models learnt, what they can, what it cost.

Each page has its figures and tables inside and can be opened by itself; `snakemake --report report.html` puts all of them
into one file. A page says so where something is not there to be shown. Losses, and figures of the test set, are those that
other stages wrote; nothing is computed here but sums and means.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from jalm import Fault, cli
from jalm.config import SIDES, NoKnobs
from jalm.formats import accounts, costs, figures, pages
from jalm.formats.pages import Html, paragraph, table, tag
from jalm.sizes import MASKED

PAGES = ("overview", "corpora", "tokenizers", "training", "evaluation", "samples", "resources")
SHOWN = 7  # kinds of pieces that have a colour of their own
FRAME = 1_500_000  # bytes of a page that Chromium shows in a frame: 2 MB of address, in base64
INTAKE = ("download", "extract", "import_text")  # a corpus has the first two or the last
DOCUMENTS = "each document by itself"
WAYS = {DOCUMENTS: "by_document", "sliding window": "sliding", "disjoint blocks": ""}  # keys in a record; "": of itself
BLUE, GREEN, PINK = figures.COLOURS[0], figures.COLOURS[2], figures.COLOURS[3]


class NoPage(Fault):
    """A page that the report does not have."""


@dataclass
class Model:
    """What is known of a model.

    Attributes:
        name: in paths.
        masked: whether it predicts masked tokens.
        log: lines of its training.
        training: what its training said of itself.
        evaluations: of it on test sets.
        samples: what it wrote; None if nobody asked it.
        provenance: of its export, empty without.
    """

    name: str
    masked: bool
    log: list[dict]
    training: dict
    evaluations: list[dict]
    samples: list[dict] | None
    provenance: dict

    def curve(self, key: str, factor: float = 1) -> figures.Curve:
        """Tokens seen, and values of `key` there; NaN where the log has null."""
        lines = [line for line in self.log if key in line]
        values = [math.nan if line[key] is None else factor * line[key] for line in lines]
        return [line["tokens"] for line in lines], values

    def last(self, key: str) -> float:
        """Last value of `key` in the log, NaN without one."""
        return self.curve(key)[1][-1] if any(key in line for line in self.log) else math.nan


def _json(path: Path, default: object = None) -> object:
    """Content of a file; `default` if there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default


def read_model(folder: Path, exported: Path, evaluations: Iterable[dict]) -> Model:
    """What the folder of a training, its export and its evaluations say of a model."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return Model(
        name=folder.name,
        masked=_json(folder / "config.json")["model_type"] in MASKED,
        log=[json.loads(line) for line in lines],
        training=_json(folder / "training.json"),
        evaluations=[record for record in evaluations if record["model"] == folder.name],
        samples=_json(exported / "samples.json"),
        provenance=_json(exported / "provenance.json", {}),
    )


def comparable(models: Sequence[Model], records: Sequence[dict]) -> list[dict]:
    """Evaluations of other models, on a test set of these models that has had the same text."""
    names = {model.name for model in models}
    texts = {(r["test_set"], r["characters"], r["bytes"]) for r in records if r["model"] in names}
    return [r for r in records if r["model"] not in names and (r["test_set"], r["characters"], r["bytes"]) in texts]


# ---- numbers in words


def number(value: float | None, form: str = ",") -> str:
    """A number by a format, – if there is none."""
    return "–" if value is None or not math.isfinite(value) else format(value, form)


def duration(seconds: float) -> str:
    """A time in its two largest units."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, part, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {below}"
    return f"{whole} s"


def megabytes(value: float) -> str:
    """An amount of memory given in MiB."""
    return "–" if not math.isfinite(value) else f"{value / 1024:.1f} GiB" if value >= 1000 else f"{value:.0f} MiB"


def day(date: str) -> str:
    """A dump date as people write it."""
    return f"{date[:4]}-{date[4:6]}-{date[6:]}"


# ---- the pages


def corpora(found: Mapping[str, dict]) -> str:
    """Where the documents of each corpus went."""
    lead = "What came in, what each stage took away and why, and what each side got."
    content: list[Html] = [paragraph(lead, kind="lead")]
    if len(found) > 1:
        rows = []
        for name, account in found.items():
            out = account["split"]["out"]
            sides = [number(out[side]["documents"]) for side in SIDES]
            kept = sum(size["characters"] for size in out.values())
            rows.append([name, number(account["intake"]["in"]), *sides, number(kept)])
        content.append(table(["corpus", "taken in", *SIDES, "characters kept"], rows))
    for name, account in found.items():
        content += [tag("h2", name), *_corpus(name, account)]
    return pages.page("Where the articles went", *content)


def _corpus(name: str, account: dict) -> list[Html]:
    intake, filtered, split = (account[stage] for stage in ("intake", "filter", "split"))
    wanted = dict(sorted(intake["dropped"].items(), key=lambda item: -item[1]))
    steps = [("taken in", intake["in"], "total")]
    steps += [(reason, count, "dropped") for reason, count in wanted.items() if count]
    steps.append(("texts", filtered["in"]["documents"], "total"))
    for stage in (filtered, split):
        dropped = sorted(stage["dropped"].items(), key=lambda item: -item[1]["documents"])
        steps += [(reason, sizes["documents"], "dropped") for reason, sizes in dropped if sizes["documents"]]
        if stage is filtered and filtered["dropped"]:
            steps.append(("good enough", filtered["out"]["documents"], "total"))
    sides = dict(zip(SIDES, (BLUE, GREEN, PINK), strict=True))
    steps += [(side, split["out"][side]["documents"], sides[side]) for side in SIDES]
    caption = (
        "Grey: what is there. Orange: what is left out, and why. Colours: the sides. Shares are of what was taken in."
    )
    content = [pages.figure(figures.waterfall(steps), f"{name}: documents from the intake to the sides", caption)]
    if not filtered["dropped"] and not split["dropped"]:
        content.append(paragraph("filter and dedup took nothing away.", kind="note"))
    rows = [["texts", *_sizes(filtered["in"])]]
    for what, stage in (("filter", filtered), ("dedup", split)):
        rows += [[f"– {what}: {reason}", *_sizes(sizes)] for reason, sizes in sorted(stage["dropped"].items())]
    rows += [[side, *_sizes(split["out"][side])] for side in SIDES]
    content.append(table(["", "documents", "sentences", "characters", "UTF-8", "characters a document"], rows))
    before, after = account["dedup"]["contamination"]["before"], account["dedup"]["contamination"]["after"]
    near = [
        f"{number(count)} of {side} before dedup, {number(after[side])} after"
        for side, count in before.items()
        if count
    ]
    told = "; ".join(near) or "none, before dedup and after"
    content.append(paragraph(f"Documents near one of the sides after theirs: {told}.", kind="note"))
    return content


def _sizes(size: dict) -> list[str]:
    mean = size["characters"] / size["documents"] if size["documents"] else math.nan
    counts = [number(size[key]) for key in accounts.SIZES[:3]]
    return [*counts, f"{figures.short(size['bytes']).replace('B', 'G')}B", number(mean, ",.0f")]


def tokenizers(reports: Sequence[dict]) -> str:
    """How tokenizers cut, and what their pieces are."""
    title, lead = "Tokenizers", "How text is cut, measured on the valid side of each tokenizer's corpora."
    if not reports:
        return pages.page(title, paragraph("No tokenizer is configured.", kind="none"))
    content: list[Html] = [paragraph(lead, kind="lead")]
    measured = {
        f"{report['tokenizer']} · {corpus}" if len(report["valid"]) > 1 else report["tokenizer"]: (
            report,
            corpus,
            sizes,
        )
        for report in reports
        for corpus, sizes in report["valid"].items()
    }
    colour = figures.colours(report["tokenizer"] for report in reports)
    panels = {
        what: ({row: sizes[key] for row, (_, _, sizes) in measured.items()}, "{:.2f}".format)
        for what, key in (("characters a token", "characters_per_token"), ("bytes a token", "bytes_per_token"))
    }
    drawn = figures.bars(panels, {row: colour[report["tokenizer"]] for row, (report, _, _) in measured.items()})
    caption = "More is better where the vocabulary has the same size: fewer tokens for the same text."
    content.append(pages.figure(drawn, "Text that a token stands for", caption))
    rows = []
    for report, corpus, n in measured.values():
        means = [number(n[key], ".3f") for key in ("characters_per_token", "bytes_per_token")]
        shares = [number(n[key] / n["tokens"], ".3%") for key in ("unknown", "byte_pieces")]
        counts = [number(n["tokens"]), *means, *shares, number(report["pieces"]["unused"])]
        rows.append([report["tokenizer"], corpus, number(report["vocab_size"]), *counts])
    head = [
        "tokenizer",
        "valid side of",
        "pieces",
        "tokens",
        "characters a token",
        "bytes a token",
        "unknown",
        "byte pieces",
    ]
    content.append(table([*head, "pieces never used"], rows, text=2))
    content += [tag("h2", "What the pieces are made of"), _scripts(reports)]
    for report in reports:
        content += [tag("h2", f"Pieces of {report['tokenizer']}"), *_pieces(report)]
    return pages.page(title, *content)


def _scripts(reports: Sequence[dict]) -> Html:
    made = {}
    for report in reports:
        found = report["pieces"]
        made[report["tokenizer"]] = found["scripts"] | {"bytes and special": found["bytes"] + found["special"]}
    most = {part: max(row.get(part, 0) for row in made.values()) for row in made.values() for part in row}
    parts = sorted(most, key=lambda part: -most[part])
    shown = parts if len(parts) <= SHOWN + 1 else parts[:SHOWN]
    drawn = {name: {part: row.get(part, 0) for part in shown} for name, row in made.items()}
    if rest := parts[len(shown) :]:
        drawn = {name: row | {"others": sum(made[name].get(part, 0) for part in rest)} for name, row in drawn.items()}
    rows = [[name, *(number(row.get(part, 0)) for part in parts)] for name, row in made.items()]
    return pages.join([pages.figure(figures.stacked(drawn), "Pieces by script"), table(["tokenizer", *parts], rows)])


def _pieces(report: dict) -> list[Html]:
    content: list[Html] = []
    for kind, what in (("longest", "The longest"), ("rarest", "The rarest of several characters, by their score")):
        chips = [
            tag(
                "li",
                piece["piece"],
                tag("small", number(piece["uses"])),
                title=" ".join(f"U+{ord(c):04X}" for c in piece["piece"]),
            )
            for piece in report["pieces"][kind]
        ]
        content += [tag("h3", what), tag("ul", *chips, class_="chips", lang="ja")]
    content.append(paragraph("Beside each piece: how often valid uses it. ▁ stands for a space.", kind="note"))
    return content


def training(models: Sequence[Model], colour: Mapping[str, str]) -> str:
    """How models learnt."""
    title = "Training"
    lead = (
        "What the log of each training says, against the tokens that it had seen. A long curve is of means, in a band of the "
        "range around them."
    )
    if not models:
        return pages.page(title, paragraph("No model is configured.", kind="none"))
    content: list[Html] = [paragraph(lead, kind="lead"), tag("h2", "Loss")]
    losses = [
        _panel(models, "training loss (nats a predicted token)", "loss", settled=True),
        _panel(models, "validation loss (nats a predicted token)", "valid_loss", settled=True, marked=True),
    ]
    content.append(pages.figure(_drawn(models, colour, *losses), "Loss in training and validation", _dashed(models)))
    content += [
        paragraph(f"The log of {model.name} has no validation.", kind="none")
        for model in models
        if not model.curve("valid_loss")[0]
    ]
    pairs = [
        _panel(models, "masked tokens (nats a token)", "valid_mlm_loss", marked=True),
        _panel(models, "next sentence (nats a pair)", "valid_nsp_loss", marked=True),
    ]
    if all(panel.curves for panel in pairs):
        told = "The two parts of a BERT's validation loss."
        content.append(pages.figure(_drawn(models, colour, *pairs), "Validation loss of BERTs", told))
    content += [_trainings(models), *_positions(models, colour), tag("h2", "Learning rate and gradient")]
    steps = [
        _panel(models, "learning rate", "learning_rate"),
        _panel(models, "norm of the gradient, before clipping", "grad_norm", log=True),
    ]
    content.append(pages.figure(_drawn(models, colour, *steps), "Learning rate and norm of the gradient"))
    for model in models:
        if left_out := sum(line.get("grad_norm", 0) is None for line in model.log):
            told = f"{model.name}: fp16 overflowed in {left_out:,} of the logged steps, which were left out."
            content.append(paragraph(told, kind="note"))
    speed = [
        _panel(models, "tokens a second", "tokens_per_second", zero=True),
        _panel(models, "MFU", "mfu", 100, zero=True, percent=True),
        _panel(models, "memory (GiB)", "memory_gib", zero=True),
        _panel(models, "GPU busy", "gpu_utilization", zero=True, percent=True),
    ]
    speed = [panel for panel in speed if panel.curves]
    told = (
        "MFU: share of what the machine's matrix products can do. Memory: the most so far, of the GPU if there is one."
    )
    content += [tag("h2", "Speed"), pages.figure(_drawn(models, colour, *speed), "Throughput and memory", told)]
    return pages.page(title, *content)


def _panel(models: Sequence[Model], title: str, key: str, factor: float = 1, **look: bool) -> figures.Panel:
    """A panel of what the logs have of `key`."""
    found = {model.name: model.curve(key, factor) for model in models if any(key in line for line in model.log)}
    return figures.Panel(title, found, **look)


def _drawn(models: Sequence[Model], colour: Mapping[str, str], *panels: figures.Panel) -> str:
    return figures.curves(panels, colour, [model.name for model in models if model.masked])


def _dashed(models: Sequence[Model]) -> str:
    told = "Dashed: models that predict masked tokens, whose loss cannot be compared with that of the others."
    return told if any(model.masked for model in models) else ""


def _trainings(models: Sequence[Model]) -> Html:
    rows = []
    for model in models:
        told, speeds = model.training, [s for s in model.curve("tokens_per_second")[1] if math.isfinite(s)]
        lowest = min((loss for loss in model.curve("valid_loss")[1] if math.isfinite(loss)), default=math.nan)
        rows.append([
            *(model.name, figures.short(told["parameters"]), number(told["steps"])),
            *(figures.short(told["tokens"]), number(model.last("loss"), ".3f"), number(model.last("valid_loss"), ".3f")),
            *(number(lowest, ".3f"), number(median(speeds) if speeds else None, ",.0f")),
            *(number(model.last("mfu"), ".1%"), number(model.last("memory_gib"), ".1f")),
        ])  # fmt: skip
    head = ["model", "parameters", "steps", "tokens seen", "last loss", "last validation", "lowest validation"]
    return table([*head, "tokens/s (median)", "MFU", "memory (GiB)"], rows)


def _positions(models: Sequence[Model], colour: Mapping[str, str]) -> list[Html]:
    """How the loss falls with what a token sees before it."""
    key = "valid_loss_by_position"
    found = {model.name: lines[-1][key] for model in models if (lines := [line for line in model.log if key in line])}
    if not found:
        return []
    drawn = figures.positions(found, colour)
    told = "The last validation, in eight parts of a block: a token late in it sees more before it."
    return [tag("h2", "Loss by position"), pages.figure(drawn, "Validation loss by position in the block", told)]


def evaluation(models: Sequence[Model], others: Sequence[dict], colour: Mapping[str, str]) -> str:
    """What models can, a section for each test set.

    Args:
        models: of this configuration.
        others: evaluations of older models on the same test sets.
        colour: of each model.
    """
    title = "Evaluation"
    records = [record for model in models for record in model.evaluations] + list(others)
    if not records:
        return pages.page(title, paragraph("No model was evaluated.", kind="none"))
    lead = (
        "Bits a character compare any two models on the same text, whatever their tokenizers. Perplexities compare models of "
        "one kind and one tokenizer. Less is better for both."
    )
    content: list[Html] = [paragraph(lead, kind="lead")]
    names = dict.fromkeys(record["test_set"] for record in records)
    for name in names:
        some = [record for record in records if record["test_set"] == name]
        sizes = f"{number(some[0]['documents'])} documents, {number(some[0]['characters'])} characters"
        content += [tag("h2", f"Test set {name}"), paragraph(sizes, kind="note")]
        causal = [record for record in some if "bits_per_character" in record]
        masked = [record for record in some if "bits_per_character" not in record]
        content += _causal(causal, colour) if causal else []
        content += _masked(masked, colour) if masked else []
    return pages.page(title, *content)


def _causal(records: Sequence[dict], colour: Mapping[str, str]) -> list[Html]:
    rows, intervals, lines = {}, {}, []
    for record in records:
        read = {what: record[key] if key else record for what, key in WAYS.items() if not key or key in record}
        rows[record["model"]] = {what: found["bits_per_character"] for what, found in read.items()}
        between = record.get("by_document", {}).get("bits_per_character_interval")
        if between:
            intervals[record["model"]] = between
        for what, found in read.items():
            ends = "{:.3f} – {:.3f}".format(*between) if between and what == DOCUMENTS else ""
            bits = [number(found["bits_per_character"], ".3f"), ends, number(found["bits_per_byte"], ".3f")]
            lines.append(
                [record["model"], what, *bits, number(found["perplexity"], ",.2f"), number(found["predicted_tokens"])]
            )
    measures = [what for what in WAYS if any(what in row for row in rows.values())]
    drawn = figures.dots(rows, measures, intervals, colour, "bits a character (less is better)")
    told = "The bar is the 95 % interval of a bootstrap over documents." if intervals else ""
    head = ["model", "text is read as", "bits a character", "95 % interval", "bits a byte", "perplexity"]
    content = [tag("h3", "Models that predict the next token")]
    content += [pages.figure(drawn, "Bits a character", told), table([*head, "predicted tokens"], lines, text=2)]
    shares = [("accuracy", ".1%"), ("unknown_share", ".3%"), ("byte_share", ".3%")]
    rights = [[record["model"], *(number(record.get(key), form) for key, form in shares)] for record in records]
    content.append(table(["model", "next token right", "unknown tokens", "byte pieces"], rights))
    places = {record["model"]: record["loss_by_position"] for record in records if record.get("loss_by_position")}
    if places:
        content.append(pages.figure(figures.positions(places, colour), "Loss by position", "By position in the block."))
    return content


def _masked(records: Sequence[dict], colour: Mapping[str, str]) -> list[Html]:
    right = {record["model"]: 100 * record["accuracy"] for record in records}
    perplexity = {record["model"]: record["perplexity"] for record in records}
    panels = {
        "masked tokens predicted right (%)": (right, "{:.1f} %".format),
        "perplexity of masked tokens": (perplexity, figures.short),
    }
    drawn = figures.bars(panels, colour)
    columns = {
        "perplexity": ("perplexity", ",.2f"),
        "right": ("accuracy", ".1%"),
        "masked": ("mlm_probability", ".0%"),
        "predicted tokens": ("predicted_tokens", ","),
        "pseudo-perplexity": ("pseudo_perplexity", ",.2f"),
        "next sentence: loss": ("nsp_loss", ".3f"),
        "right pairs": ("nsp_accuracy", ".1%"),
        "pairs": ("pairs", ","),
    }
    shown = {what: how for what, how in columns.items() if any(how[0] in record for record in records)}
    rows = [[record["model"], *(number(record.get(key), form) for key, form in shown.values())] for record in records]
    return [
        tag("h3", "Models that predict masked tokens"),
        pages.figure(drawn, "Masked tokens: share predicted right (%), and perplexity"),
        table(["model", *shown], rows),
    ]


def samples(models: Sequence[Model], colour: Mapping[str, str]) -> str:
    """What models write."""
    title = "Samples"
    if not models:
        return pages.page(title, paragraph("No model is configured.", kind="none"))
    lead = "What each exported model makes of a few beginnings, with its own settings and a fixed seed."
    content: list[Html] = [paragraph(lead, kind="lead")]
    for model in models:
        content.append(tag("h2", model.name))
        if not model.samples:
            content.append(paragraph("There are no samples in the export of this model.", kind="none"))
        for sample in model.samples or []:
            content.append(_filled(sample, colour[model.name]) if "candidates" in sample else _continued(sample))
    return pages.page(title, *content)


def _continued(sample: dict) -> Html:
    prompt, text = sample["prompt"], sample["text"]
    rest = text.removeprefix(prompt) if text.startswith(prompt) else f" … {text}"
    return tag("div", tag("b", prompt), rest, class_="sample", lang="ja")


def _filled(sample: dict, colour: str) -> Html:
    before, mask, after = sample["prompt"].partition("[MASK]")
    rows = []
    for one in sample["candidates"]:
        bar = tag("span", class_="bar", style=f"width:{max(0.05, 9 * one['probability']):.2f}rem;background:{colour}")
        rows.append([one["token"], tag("span", bar, number(one["probability"], ".1%")), one["text"]])
    told = tag("div", before, tag("b", mask), after, class_="sample", lang="ja")
    return pages.join([told, tag("div", table(["piece", "probability", "text"], rows, text=3), lang="ja")])


def resources(found: Mapping[str, costs.Cost], wanted: Iterable[str]) -> str:
    """Times and memory of each stage; `wanted` are those that must have run."""
    title = "Time and memory"
    absent = [stage for stage in wanted if stage not in found and stage not in INTAKE]
    told = f"No benchmark of {', '.join(absent)}: it was removed, or its results came from elsewhere."
    missing = [paragraph(told, kind="none")] if absent else []
    if not found:
        return pages.page(title, *missing)
    most = max(cost.wall for cost in found.values())
    size, unit = next(
        (size, unit) for size, unit in ((3600, "hours"), (60, "minutes"), (1, "seconds")) if most >= size or size == 1
    )

    def told_time(value: float) -> str:
        return duration(size * value)

    panels = {
        f"time of the jobs ({unit})": ({stage: cost.wall / size for stage, cost in found.items()}, told_time),
        f"processor time ({unit})": ({stage: cost.cpu / size for stage, cost in found.items()}, told_time),
        "most memory (MiB)": ({stage: cost.memory for stage, cost in found.items()}, megabytes),
    }
    content: list[Html] = [
        paragraph("What the last run of each job took, as Snakemake measured it.", kind="lead"),
        *missing,
    ]
    content.append(pages.figure(figures.bars(panels, BLUE), "Time and memory of each stage"))
    together = costs.total(found.values())
    head = ["stage", "jobs", "time, summed", "longest job", "processor time, summed", "memory of the largest job"]
    content.append(table(head, [_cost(stage, cost) for stage, cost in [*found.items(), ("all", together)]]))
    if together.unmeasured:
        told = f"{together.unmeasured} of {cli.counted(together.jobs, 'job')} have a benchmark without figures: they were interrupted."
        content.append(paragraph(told, kind="none"))
    told = "Snakemake looks at a job twice a second at first, later twice a minute: of what a job does between, memory is missed."
    told += " Of a training that went on after a stop, this is its last run."
    return pages.page(title, *content, paragraph(told, kind="note"))


def _cost(name: str, cost: costs.Cost) -> list[str]:
    times = [duration(cost.wall), duration(cost.longest), duration(cost.cpu)]
    return [name, number(cost.jobs), *times, megabytes(cost.memory)]


def overview(
    date: str, found: Mapping[str, dict], reports: Sequence[dict], models: Sequence[Model], colour: Mapping[str, str]
) -> str:
    """What was made, in a few figures."""
    train = [account["split"]["out"]["train"] for account in found.values()]
    numbers = [
        (number(sum(side["documents"] for side in train)), "documents to train on"),
        (figures.short(sum(side["characters"] for side in train)), "characters in them"),
    ]
    cuts = [
        (sizes["characters_per_token"], report["tokenizer"]) for report in reports for sizes in report["valid"].values()
    ]
    if cuts:
        numbers.append((f"{max(cuts)[0]:.2f}", f"characters a token: {max(cuts)[1]}"))
    judged = [(model, record) for model in models for record in model.evaluations]
    judged = [(model, record) for model, record in judged if record["test_set"] == judged[0][1]["test_set"]]
    bits = [
        (record["by_document"]["bits_per_character"], model.name) for model, record in judged if "by_document" in record
    ]
    if bits:
        numbers.append((f"{min(bits)[0]:.3f}", f"bits a character on {judged[0][1]['test_set']}: {min(bits)[1]}"))
    right = [(record["accuracy"], model.name) for model, record in judged if model.masked]
    if right:
        numbers.append(
            (f"{max(right)[0]:.1%}", f"of masked tokens right on {judged[0][1]['test_set']}: {max(right)[1]}")
        )
    made = [cli.counted(len(reports), "tokenizer"), cli.counted(len(models), "model")]
    lead = f"What jalm made of {', '.join(found)}: {' and '.join(made)}."
    content: list[Html] = [paragraph(lead, kind="lead"), pages.cards(numbers)]
    if models:
        content += [tag("h2", "Models"), _models(models), _losses(models, colour)]
    content += [tag("h2", "Corpora"), _sources(found, models)]
    content += [tag("h2", "Made with"), _versions(models)] if models else []
    return pages.page(f"Japanese language models of {day(date)}", *content)


def _losses(models: Sequence[Model], colour: Mapping[str, str]) -> Html:
    panel = _panel(models, "validation loss (nats a predicted token)", "valid_loss", settled=True, marked=True)
    return pages.figure(_drawn(models, colour, panel), "Validation loss of the models", _dashed(models))


def _models(models: Sequence[Model]) -> Html:
    rows = []
    for model in models:
        told, test = model.training, model.evaluations[0] if model.evaluations else {}
        kind = "masked tokens" if model.masked else "the next token"
        sizes = [
            figures.short(told["parameters"]),
            figures.short(told["tokens"]),
            number(model.last("valid_loss"), ".3f"),
        ]
        bits = test.get("by_document", {}).get("bits_per_character")
        on_test = [number(test.get("perplexity"), ",.2f"), number(bits, ".3f")]
        rows.append(
            [model.name, kind, test.get("test_set", "–"), *sizes, *on_test, number(test.get("accuracy"), ".1%")]
        )
    head = ["model", "predicts", "test set", "parameters", "tokens seen", "validation loss", "test perplexity"]
    return table([*head, "bits a character", "tokens right"], rows, text=3)


def _sources(found: Mapping[str, dict], models: Sequence[Model]) -> Html:
    known = {corpus["name"]: corpus for model in models for corpus in model.provenance.get("corpora", [])}
    rows = []
    for name, account in found.items():
        told = known.get(name, {})
        dump = told.get("dump") or {}
        kept = [
            number(sum(size[key] for size in account["split"]["out"].values())) for key in ("documents", "characters")
        ]
        where = " ".join(filter(None, [dump.get("wiki"), dump.get("date"), dump.get("mirror")])) or "–"
        rows.append(
            [
                name,
                where,
                told.get("license") or "–",
                told.get("attribution") or "–",
                number(account["intake"]["in"]),
                *kept,
            ]
        )
    head = ["corpus", "dump", "licence", "by", "taken in", "documents kept", "characters"]
    return table(head, rows, text=4)


def _versions(models: Sequence[Model]) -> Html:
    rows = []
    for model in models:
        told = model.provenance
        versions = told.get("versions") or model.training.get("versions", {})
        shown = ", ".join(f"{name} {version}" for name, version in versions.items())
        made = str(told.get("made", "–"))[:19].replace("T", " ")
        revision = re.sub(r"(?<=^[0-9a-f]{12})[0-9a-f]+", "", told.get("revision", "")) or "–"
        where = model.training.get("device", "–")
        rows.append([model.name, made, told.get("jalm", "–"), revision, where, shown or "–"])
    return table(["model", "exported (UTC)", "jalm", "revision", "trained on", "versions"], rows, text=6)


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, NoKnobs, "report")
    parser.add_argument("--date", required=True, help="date of the dumps, YYYYMMDD")
    several = {"type": Path, "nargs": "*", "default": []}
    parser.add_argument("--accounts", metavar="FILE", help="account.json of each corpus", **several)
    parser.add_argument("--tokenizers", metavar="FILE", help="report.json of each tokenizer", **several)
    parser.add_argument("--models", metavar="DIR", help="folder of each trained model", **several)
    parser.add_argument("--exports", metavar="DIR", help="their Hugging Face folders, in the same order", **several)
    parser.add_argument(
        "--evaluations", metavar="FILE", help="evaluations (.json), older ones of the same test sets too", **several
    )
    parser.add_argument(
        "--benchmarks", type=Path, default=Path("benchmarks"), metavar="DIR", help="where Snakemake put them"
    )
    parser.add_argument(
        "--pages",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help=f"what to write, by name: {', '.join(PAGES)} (.html)",
    )
    args, _ = cli.parse(parser, argv)
    if len(args.models) != len(args.exports):
        parser.error(f"--exports has {len(args.exports)} folders, --models {len(args.models)}; name both of each model")
    if unknown := [str(path) for path in args.pages if path.stem not in PAGES]:
        raise NoPage(f"--pages has {', '.join(unknown)}; pages are {', '.join(f'{name}.html' for name in PAGES)}")
    found = {path.parent.name: _json(path) for path in args.accounts}
    reports = [_json(path) for path in args.tokenizers]
    records = [_json(path) for path in args.evaluations]
    models = [read_model(*folders, records) for folders in zip(args.models, args.exports, strict=True)]
    older = comparable(models, records)
    colour = figures.colours(dict.fromkeys([model.name for model in models] + [record["model"] for record in older]))
    names = [*found, *(report["tokenizer"] for report in reports), *(model.name for model in models)]
    stages = [
        stage
        for stage, kind in costs.STAGES.items()
        if {"corpora": found, "tokenizers": reports, "models": models}[kind]
    ]
    made = {
        "overview": lambda: overview(args.date, found, reports, models, colour),
        "corpora": lambda: corpora(found),
        "tokenizers": lambda: tokenizers(reports),
        "training": lambda: training(models, colour),
        "evaluation": lambda: evaluation(models, older, colour),
        "samples": lambda: samples(models, colour),
        "resources": lambda: resources(costs.read(args.benchmarks, names), stages),
    }
    with cli.writing(*args.pages) as paths:
        for path, final in zip(paths, args.pages, strict=True):
            path.write_text(made[final.stem](), encoding="utf-8")
            if (size := path.stat().st_size) > FRAME:
                told = "%s has %.1f MB, and Chromium shows %.1f in Snakemake's report; open the file by itself"
                cli.log.warning(told, final, size / 1e6, FRAME / 1e6)
    what = f"{cli.counted(len(found), 'account')}, {cli.counted(len(reports), 'tokenizer')}, {cli.counted(len(models), 'model')}"
    cli.closing("report", what, cli.counted(len(args.pages), "page"))
