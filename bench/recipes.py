"""What recipes learn from the same tokens: each preset on a small model and the same shards, side by side.

usage: bench/recipes.py DOCUMENTS FOLDER [--tokens N] [--layers N --width N --context N --batch N] [--seeds N] [--cpus N]
       [--ours gpt2-small] [--theirs gpt2-small-ja …] [--share 0.65]

DOCUMENTS is a .jsonl.zst with text. FOLDER keeps shards, states and results: a run that was ended goes on, one that is finished is
not repeated. A recipe is a preset but for the sizes of its model, the batch, and the length: --tokens, of which its warm-up has the
same share as in the preset. Of three learning rates the best by the last validation is run with further
seeds. Ours is run with --share of the tokens; told is whether its loss is then theirs.
"""

import argparse
import contextlib
import json
import math
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import yaml

from jalm.config import SIDES, NoKnobs, Pretrain, TrainTokenizer
from jalm.configfile import PRESETS
from jalm.formats import checkpoints, documents, sides
from jalm.knobs import Section, flags
from jalm.stages import segment

RATES, OUR_RATES = (3e-4, 1e-3, 3e-3), (1e-3, 3e-3, 1e-2)
COUNTED = ("documents", "sentences", "characters", "bytes")
SHARES = {"valid_fraction": 0.01, "test_fraction": 0.01, "salt": "recipes"}


def jalm(stage: str, knobs: Section, *words: object) -> None:
    """Run a stage."""
    options = shlex.split(f"{flags(knobs)} {flags(knobs, neutral=True)}")
    subprocess.run([sys.executable, "-m", "jalm", stage, *options, *map(str, words)], check=True)


def shards(source: Path, folder: Path, vocabulary: int) -> dict[str, Path]:
    """Manifests of the sides of some documents, made by the stages if they are not there."""
    manifests = {side: folder / side / "manifest.json" for side in SIDES}
    if all(path.is_file() for path in manifests.values()):
        return manifests
    folder.mkdir(parents=True, exist_ok=True)
    splitter = segment.Splitter("unidic-lite")
    files = {side: folder / f"{side}.jsonl.zst" for side in SIDES}
    counts = {side: dict.fromkeys(COUNTED, 0) for side in SIDES}
    with contextlib.ExitStack() as opened:
        writers = {side: opened.enter_context(documents.writing(path)) for side, path in files.items()}
        for document in documents.read(source):
            side = sides.side(document, **SHARES)
            text = document.pop("text")
            paragraphs = splitter.paragraphs(text)
            writers[side].write(document | {"paragraphs": paragraphs})
            for key, value in zip(COUNTED, (1, sum(map(len, paragraphs)), len(text), len(text.encode())), strict=True):
                counts[side][key] += value
    (folder / "summary.json").write_text(json.dumps(counts), encoding="utf-8")
    config = TrainTokenizer(corpora=["x"], vocab_size=vocabulary, sample_mb=20, num_threads=2)
    made = ("--model", folder / "spm.model", "--tokenizer", folder / "tokenizer.json")
    jalm("train_tokenizer", config, "--documents", "x", files["train"], *made, "--sample", folder / "sample.json")
    binary = {side: folder / side / "000.bin" for side in SIDES}
    files_of = [word for side in SIDES for word in (f"--{side}", files[side], f"--{side}-tokens", binary[side])]
    jalm("shard", NoKnobs(), *made, "--cpus", 2, *files_of)
    parts_of = [word for side in SIDES for word in (f"--{side}", binary[side], f"--{side}-manifest", manifests[side])]
    jalm("shard_manifest", NoKnobs(), *parts_of, "--summary", folder / "summary.json", "--model", folder / "spm.model")
    return manifests


def config_of(name: str, args: argparse.Namespace, tokens: int, rate: float, seed: int) -> Pretrain:
    """A preset on the small model."""
    preset = yaml.safe_load((PRESETS / f"{name}.yaml").read_text(encoding="utf-8"))
    heads = max(1, args.width // 64)
    small = {
        "gpt2": {"n_layer": args.layers, "n_head": heads, "n_embd": args.width, "n_inner": None},
        "gpt_neo": {
            "num_layers": args.layers,
            "num_heads": heads,
            "hidden_size": args.width,
            "intermediate_size": None,
        },
    }.get(preset["architecture"])
    if small is None:
        wide = {"llama": 8 / 3, "modernbert": 1.5}.get(preset["architecture"], 4)
        small = {"num_hidden_layers": args.layers, "num_attention_heads": heads, "hidden_size": args.width}
        small |= {"intermediate_size": round(args.width * wide / 32) * 32}
    steps = tokens // (args.context * args.batch)
    length = {"max_steps": steps, "warmup_steps": round(steps * preset["warmup_steps"] / preset["max_steps"])}
    batch = {"block_size": args.context, "global_batch_size": args.batch, "per_device_train_batch_size": args.batch}
    how = {"mixed_precision": args.precision, "torch_compile": args.compile, "learning_rate": rate, "seed": seed}
    often = {"eval_steps": max(1, steps // 12), "eval_blocks": 100, "save_steps": 500, "logging_steps": 20}
    knobs = preset | {"config": preset["config"] | small, "corpora": {"x": 1.0}} | length | batch | how | often
    return Pretrain(**knobs)


def run(config: Pretrain, manifests: dict[str, Path], folder: Path, cpus: int) -> list[tuple[int, float]]:
    """Tokens seen and validation loss in bits a character (of masked models: nats a prediction), at each validation."""
    files = ["--train", manifests["train"], "--valid", manifests["valid"], "--cpus", cpus]
    files += ["--states", folder.parent / "states" / folder.name, "--output", folder]
    jalm("pretrain", config, *files)
    valid = json.loads(manifests["valid"].read_text(encoding="utf-8"))
    causal = config.architecture in ("gpt2", "gpt_neo", "llama")
    factor = valid["tokens"] / valid["characters"] / math.log(2) if causal else 1.0
    return [
        (line["tokens"], line["valid_loss"] * factor)
        for line in checkpoints.records(folder / "log.jsonl")
        if "valid_loss" in line
    ]


def tuned(
    name: str, args: argparse.Namespace, tokens: int, manifests: dict[str, Path], rates: tuple[float, ...]
) -> dict:
    """The best learning rate of a recipe by the last validation, and its curves with each seed."""

    def curve(rate: float, seed: int) -> list[tuple[int, float]]:
        folder = args.folder / "runs" / f"{name}-{tokens}-{rate:g}-{seed}"
        return run(config_of(name, args, tokens, rate, seed), manifests, folder, args.cpus)

    tried = {rate: curve(rate, 1) for rate in rates}
    best = min(tried, key=lambda rate: tried[rate][-1][1])
    curves = [tried[best], *(curve(best, seed) for seed in range(2, args.seeds + 1))]
    ends = [made[-1][1] for made in curves]
    shown = ", ".join(f"{rate:g}: {made[-1][1]:.4f}" for rate, made in tried.items())
    print(f"{name}, {tokens:,} tokens: {shown}; at {best:g} with {args.seeds} seeds {statistics.mean(ends):.4f} "
          f"({min(ends):.4f} to {max(ends):.4f})", flush=True)  # fmt: skip
    return {"recipe": name, "tokens": tokens, "rate": best, "end": statistics.mean(ends), "curves": curves}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--share", type=float, default=0.65)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="of theirs")
    parser.add_argument("--our-rates", type=float, nargs="+", default=OUR_RATES)
    parser.add_argument("--precision", default="bf16", choices=["bf16", "no"])
    parser.add_argument("--compile", default="true", choices=["true", "false", "auto"])
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--ours", default="gpt2-small")
    parser.add_argument("--theirs", nargs="*", default=["gpt2-small-ja", "japanese-gpt2-small"])
    args = parser.parse_args()
    manifests = shards(args.documents, args.folder / f"{args.documents.name}-{args.vocabulary}", args.vocabulary)
    found = [tuned(name, args, args.tokens, manifests, tuple(args.rates)) for name in args.theirs]
    found.append(tuned(args.ours, args, round(args.share * args.tokens), manifests, tuple(args.our_rates)))
    (args.folder / f"{args.ours}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    ours = found[-1]
    print(f"\n{'recipe':<24}{'tokens':>12}{'learning rate':>15}{'loss':>9}")
    for one in found:
        print(f"{one['recipe']:<24}{one['tokens']:>12,}{one['rate']:>15g}{one['end']:>9.4f}")
    for one in found[:-1]:
        better = "reaches" if ours["end"] <= one["end"] else "does not reach"
        print(
            f"with {args.share:g} of its tokens {args.ours} {better} the loss of {one['recipe']}: {ours['end'] - one['end']:+.4f}"
        )


if __name__ == "__main__":
    main()
