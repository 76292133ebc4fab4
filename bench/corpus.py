"""Extraction side by side, in one run, on the pages of a dump repeated: ours, plain wikiextractor, and mwparserfromhell.

Then the stages after it, on the documents that came out, and what all of them would take for a jawiki.

usage: bench/corpus.py DUMP [--megabytes 100] [--peer PYTHON]

DUMP is an .xml.bz2 of a few megabytes. PYTHON is one that has mwparserfromhell, which we do not need ourselves. Rates
are megabytes of XML (unpacked) a second: of CPU, and of wall time, which a busy machine makes worse.
"""

import argparse
import bz2
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jalm.formats import blocks, documents

JAWIKI = {"xml": 16_500, "text": 4_500}  # MB
DEDUP = 33  # seconds for 1.5 million signatures that are in memory, by bench/dedup.py

PEER = """
import bz2, sys, xml.etree.ElementTree as tree
import mwparserfromhell
for _, element in tree.iterparse(bz2.open(sys.argv[1])):
    if element.tag.endswith("}page"):
        if element.findtext("{*}ns") == "0" and element.find("{*}redirect") is None:
            print(mwparserfromhell.parse(element.findtext("{*}revision/{*}text") or "").strip_code())
        element.clear()
"""


def repeated(dump: Path, megabytes: int, folder: Path) -> int:
    """Write the pages of a dump again and again, as a dump with its index and as XML; bytes of XML."""
    xml = bz2.decompress(dump.read_bytes())
    begin, end = xml.index(b"  <page>"), xml.rindex(b"</mediawiki>")
    head, pages, foot = xml[:begin], xml[begin:end], xml[end:]  # wikiextractor finds no pages without the head
    times = -(-megabytes * 1_000_000 // len(pages))
    (folder / "dump").mkdir()
    with open(folder / "dump" / "dump.xml.bz2", "wb") as packed, open(folder / "dump.xml", "wb") as plain:
        for text in (head, *[pages] * times, foot):
            packed.write(bz2.compress(text))
            plain.write(text)
    blocks.write_index(folder / "blocks.tsv", blocks.find(folder / "dump" / "dump.xml.bz2"))
    return times * len(pages)


def ours(folder: Path, name: str, part: int, parts: int) -> list[str]:
    """Command that extracts one part."""
    files = ["--dump", folder / "dump", "--index", folder / "blocks.tsv", "--output", folder / name]
    command = [sys.executable, "-m", "jalm", "extract", "--part", part, "--parts", parts, *files]
    return list(map(str, command))


def wikiextractor(dump: Path) -> list[str]:
    """Command of the plain program, which has one process for cleaning beside one that reads."""
    options = ["--json", "--no-templates", "--processes=1", "--quiet", "--output=-", dump]
    return [sys.executable, "-m", "wikiextractor.WikiExtractor", *map(str, options)]


def measure(label: str, size: int, *commands: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of some commands side by side; prints their rates, and the memory of the largest process yet."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for command in commands]
    if max(process.wait() for process in running):
        sys.exit(f"{label} failed: {commands[0]}")
    wall, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rates = f"{size / cpu / 1e6:5.2f} MB/CPU-s, {size / wall / 1e6:5.2f} MB/s"
    print(
        f"{label:<28} {cpu:6.1f} CPU-s {wall:6.1f} s  {rates}, at most {after.ru_maxrss // 1000} MB of memory",
        flush=True,
    )
    return cpu, wall


def later(folder: Path) -> dict[str, float]:
    """MB of text a CPU-second of the stages after extraction; dedup's own time is that of reading what filter signed."""
    files = {
        "segment": {"input": "whole", "output": "segmented"},
        "filter": {"input": "segmented", "output": "kept", "dropped": "dropped", "signatures": "signatures"},
        "dedup": {"input": "signatures", "output": "drop"},
        "split": {"input": "kept", "drop": "drop", "train": "train", "valid": "valid", "test": "test"},
    }
    knobs = {
        "segment": ["--dictionary=unidic-lite"],
        "dedup": ["--exact=false", "--near=false"],
    }  # all is repeated here
    commands = {}
    for stage, named in files.items():
        options = [word for option, name in named.items() for word in (f"--{option}", folder / f"{name}.jsonl.zst")]
        options += ["--counts", folder / "counts.json"] * (stage != "segment")
        commands[stage] = [sys.executable, "-m", "jalm", stage, *knobs.get(stage, []), *map(str, options)]
    size = sum(len(document["text"].encode()) for document in documents.read(folder / "whole.jsonl.zst"))
    print(f"{size / 1e6:.1f} MB of text")
    return {stage: size / 1e6 / measure(stage, size, command)[0] for stage, command in commands.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dump", type=Path)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--peer", help="a Python with mwparserfromhell")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = repeated(args.dump, args.megabytes, folder)
        print(f"{size / 1e6:.1f} MB of XML; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        plain, _ = measure("plain wikiextractor, .bz2", size, wikiextractor(folder / "dump" / "dump.xml.bz2"))
        unpacked, _ = measure("plain wikiextractor, .xml", size, wikiextractor(folder / "dump.xml"))
        cpu, alone = measure("ours", size, ours(folder, "whole.jsonl.zst", 0, 1))
        halves = [ours(folder, f"{part}.jsonl.zst", part, 2) for part in range(2)]
        both, beside = measure("ours, two processes", size, *halves)
        print(f"ours has {plain / cpu:.2f} of its speed a core, {unpacked / cpu:.2f} of that on unpacked XML")
        print(f"two processes have {alone / beside:.2f} times the speed of one, {2 * cpu / both:.2f} by their CPU time")
        whole = list(documents.read(folder / "whole.jsonl.zst"))
        assert whole == [doc for part in range(2) for doc in documents.read(folder / f"{part}.jsonl.zst")]
        rates = {"extract": size / 1e6 / cpu} | later(folder)
        for cores in (1, 2, 8, 32):
            seconds = DEDUP + JAWIKI["text"] / rates["dedup"]  # one job
            seconds += sum(
                JAWIKI["xml" if stage == "extract" else "text"] / rate / cores
                for stage, rate in rates.items()
                if stage != "dedup"
            )
            print(f"a jawiki from dump to sides on {cores} cores: {seconds / 60:.0f} minutes")
        if args.peer:
            measure("mwparserfromhell strip_code", size, [args.peer, "-c", PEER, str(folder / "dump" / "dump.xml.bz2")])


if __name__ == "__main__":
    main()
