"""Turning text into tokens side by side, in one run: ours, bare SentencePiece, tokenizers and transformers.

usage: bench/sharding.py DOCUMENTS [MEGABYTES]    (.jsonl.zst with text; how much of it, 36 unless told)

A unigram tokenizer of 32,000 pieces is trained first, on 30 MB of it. CPU seconds of one thread, but for the last lines, which
are of two.
"""

import json
import os

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}

import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sentencepiece
import tokenizers
from transformers import PreTrainedTokenizerFast

from jalm.config import SIDES, TrainTokenizer
from jalm.formats import documents, normaliser, shards
from jalm.knobs import flags
from jalm.stages import segment, shard, train_tokenizer

ROUNDS = 3
JAWIKI = 4.5e9  # bytes of text in jawiki, about
# the peak of this process alone: what the shell's or resource's would be has that of the process that started it too
JOB = "import sys; from jalm import cli; cli.run(sys.argv[1:]); print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"


def timed(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def segmented(source: Path, size: float, path: Path) -> int:
    """Write the first documents of a file with their sentences; bytes of text."""
    splitter, taken = segment.Splitter("unidic-lite"), 0
    with documents.writing(path) as writer:
        for document in documents.read(source):
            if taken >= size:
                break
            text = document.pop("text")
            writer.write(document | {"paragraphs": splitter.paragraphs(text)})
            taken += len(text.encode())
    return taken


def jobs(folder: Path, cpus: list[int]) -> tuple[float, float]:
    """Wall and CPU seconds of part jobs side by side, each with its threads; prints the memory of the largest."""
    arguments = [sys.executable, "-c", JOB, "shard", "--model", folder / "spm.model"]
    arguments += ["--tokenizer", folder / "tokenizer.json"]
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    running = []
    for number, threads in enumerate(cpus):
        files = [f"--{side}={folder / ('documents' if side == 'train' else 'none')}" for side in SIDES]
        files += [f"--{side}-tokens={folder / f'{number}-{side}.bin'}" for side in SIDES]
        command = [*arguments, *files, f"--cpus={threads}"]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
    memory = max(int(process.communicate()[0]) for process in running)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{len(cpus)} x --cpus {cpus[0]}: at most {memory // 1000} MB of memory a job")
    return time.monotonic() - begun, cpu


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = segmented(Path(sys.argv[1]), float(sys.argv[2] if len(sys.argv) > 2 else 36) * 1e6, folder / "documents")
        with documents.writing(folder / "none"):
            pass
        made = {"model": folder / "spm.model", "tokenizer": folder / "tokenizer.json", "sample": folder / "sample.json"}
        config = TrainTokenizer(corpora=["text"], vocab_size=32_000, sample_mb=30, num_threads=2)
        options = [f"--{key}={path}" for key, path in made.items()]
        train_tokenizer.main([*shlex.split(flags(config)), *options, "--documents", "text", str(folder / "documents")])

        read = list(documents.read(folder / "documents"))
        lines = ["".join(sentences) for document in read for sentences in document["paragraphs"]]
        spm = sentencepiece.SentencePieceProcessor(model_file=str(made["model"]))
        exported = tokenizers.Tokenizer.from_file(str(made["tokenizer"]))
        hugging_face = PreTrainedTokenizerFast(tokenizer_object=exported)
        plain = exported.normalizer.normalize_str
        fast = normaliser.Fast(exported.normalizer)
        normal = [plain(line) for line in lines]
        encoder = shard.Encoder(made["model"], made["tokenizer"])
        paths = shards.of_part(folder / "ours.bin")

        contenders = {
            "bare sentencepiece, normal lines": lambda: spm.encode(normal),
            "ours, with sentence ends and files": lambda: shard.write(encoder, read, paths),
            "reading the documents": lambda: list(documents.read(folder / "documents")),
            "the normaliser, line by line": lambda: [plain(line) for line in lines],
            "the normaliser, fast": lambda: [x for i in range(0, len(lines), 5000) for x in fast(lines[i : i + 5000])],
            "tokenizers' encode_batch": lambda: exported.encode_batch(lines, add_special_tokens=False),
            "transformers, line by line": lambda: [hugging_face(line) for line in lines],
        }
        seconds = {name: [] for name in contenders}
        for turn in range(ROUNDS):  # one after another, so that a busy machine slows all of them
            for name, work in contenders.items():
                if turn == 0 or "transformers" not in name:
                    seconds[name].append(timed(work))
        tokens = paths[0].stat().st_size // 2
        print(f"{size / 1e6:.1f} MB, {len(lines):,} lines, {tokens:,} tokens; load {os.getloadavg()[0]:.1f}")
        took = {name: statistics.median(times) for name, times in seconds.items()}
        ours = took["ours, with sentence ends and files"]
        for name, median in took.items():
            rate, spread = size / median / 1e6, f"{min(seconds[name]):.2f}–{max(seconds[name]):.2f}"
            print(f"{name:<34} {median:6.2f} CPU-s ({spread}) {rate:6.1f} MB/s, ours is {median / ours:5.2f} x as fast")

        for label, cpus in (("one job", [1]), ("two jobs", [1, 1]), ("one job, two threads", [2])):
            wall, cpu = zip(*(jobs(folder, cpus) for _ in range(ROUNDS)), strict=True)
            work = len(cpus) * size / 1e6
            print(
                f"{label:<22} {work / statistics.median(wall):6.1f} MB/s of wall time, {work / sum(cpu) * ROUNDS:6.1f} of CPU"
            )
        print(f"load {os.getloadavg()[0]:.1f}")
        print(f"jawiki, {JAWIKI / 1e9} GB of text: {JAWIKI / size * ours / 60:.1f} CPU-minutes")
        reading(folder, paths[0])


def reading(folder: Path, path: Path) -> None:
    """Blocks of 1,024 tokens at random places of a stream, as pretrain reads them."""
    kind = np.dtype("<u2")
    entries = [{"name": path.name, "tokens": path.stat().st_size // 2}] * 40
    record = {"tokenizer": "", "vocab_size": 32_000, "dtype": kind.str, "files": entries}
    record["tokens"] = sum(entry["tokens"] for entry in entries)
    (folder / shards.MANIFEST).write_text(json.dumps(record))
    mixture = shards.Mixture([(shards.Shards(folder / shards.MANIFEST), 1.0)], block_size=1024, seed=1)
    took = timed(lambda: [mixture.block(number) for number in range(20_000)])
    print(f"blocks: {20_000 * 1024 / took / 1e6:.0f} M tokens/s, of a stream of {record['tokens']:,}")


if __name__ == "__main__":
    main()
