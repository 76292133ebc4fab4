"""The account of a corpus: how much came into each stage, how much left it, and why the rest went.

A stage writes for each part what it counted: a JSON object with `in`, `out` (split: of each side) and `dropped` (by reason),
whose values are sizes; those of the intake, extract or import_text, are numbers of pages or documents.
"""

from collections import Counter
from collections.abc import Iterable

from jalm.formats import documents

SIZES = ("documents", "sentences", "characters", "bytes")


def size(document: documents.Document) -> Counter:
    """Size of one segmented document."""
    text = documents.text(document)
    sentences = sum(map(len, document["paragraphs"]))
    return Counter(documents=1, sentences=sentences, characters=len(text), bytes=len(text.encode()))


def total(counts: Iterable[dict]) -> dict:
    """Sum of nested counts, key by key."""
    sums: dict = {}
    for count in counts:
        for key, value in count.items():
            sums[key] = total([sums.get(key, {}), value]) if isinstance(value, dict) else sums.get(key, 0) + value
    return sums


def table(name: str, account: dict) -> str:
    """An account for reading, in Markdown."""
    lines = [f"# {name}", "", "| | documents | sentences | characters |", "|---|---:|---:|---:|"]

    def row(what: str, sizes: dict) -> None:
        cells = (f"{sizes[key]:,}" if key in sizes else "–" for key in SIZES[:3])
        lines.append(f"| {what} | {' | '.join(cells)} |")

    intake, filtered, split = (account[stage] for stage in ("intake", "filter", "split"))
    row("taken in (pages, or documents of local text)", {"documents": intake["in"]})
    for reason, count in sorted((reason, count) for reason, count in intake["dropped"].items() if count):
        row(f"– {reason}", {"documents": count})
    row("cut into sentences", filtered["in"])
    for stage in (filtered, split):
        for reason, sizes in sorted(stage["dropped"].items()):
            row(f"– {reason}", sizes)
        if stage is filtered:
            row("good enough", filtered["out"])
    for side, sizes in split["out"].items():
        row(side, sizes)
    lines += [
        "",
        "| near a document of the sides after it, here or in corpora before | before dedup | after |",
        "|---|---:|---:|",
    ]
    before, after = account["dedup"]["contamination"]["before"], account["dedup"]["contamination"]["after"]
    lines += [f"| {side} | {count:,} | {after[side]:,} |" for side, count in before.items()]
    lines += ["", "Local text is compared with local text before it in the configuration, not with wikis."]
    return "\n".join(lines) + "\n"
