"""Training speed side by side, in one run: ours, Hugging Face's Trainer, nanoGPT, transformer-lm; packed and padded RoBERTa.

usage: bench/train.py [gpt2] [roberta] [bert] [--layers N --width N --context N --batch N --vocabulary N] [--rounds N]
       [--steps N] [--precision bf16|fp16|no] [--shards MANIFEST] [--nanogpt DIR] [--transformer-lm DIR] [--profile]

Each contender takes some steps in each round, in turn; told are the medians over the rounds. Without --shards the tokens are
random, in documents whose lengths are drawn from a log-normal distribution (median 400, sigma 1). The repositories of nanoGPT and
transformer-lm are compared with where they are given. On a GPU the sizes are those of GPT-2 small and RoBERTa base.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import transformers
from torch.nn import functional

from jalm.config import Pretrain
from jalm.formats import machine, models
from jalm.formats.ids import BOS, EOS, IDS, IGNORED, MASK, PAD, SPECIAL
from jalm.formats.shards import Shards, digest
from jalm.stages.pretrain import Trainer

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MASKED_SHARE = 0.15
Step = Callable[[], tuple[int, int]]  # one optimizer step: real tokens and predicted ones


def stream(folder: Path, vocabulary: int, tokens: int = 4_000_000) -> Path:
    """Manifest of random documents."""
    rng = np.random.default_rng(0)
    lengths = np.maximum(8, np.exp(rng.normal(math.log(400), 1.0, tokens // 300)).astype(int))
    ids = rng.integers(len(SPECIAL), vocabulary, int(lengths.sum()))
    ends = np.cumsum(lengths)
    ids[ends - 1], ids[ends - lengths] = IDS[EOS], IDS[BOS]
    ids[: ends[-1]].astype("<u2").tofile(folder / "000.bin")
    first = lengths // 2  # two sentences each
    np.save(folder / "sentences.npy", np.stack([first, lengths - first], axis=1).ravel().astype("<u4"))
    np.save(folder / "index.npy", np.stack([ends, 2 * np.arange(1, len(ends) + 1)], axis=1))
    files = [{"name": "000.bin", "tokens": len(ids), "sha256": digest(folder / "000.bin")}]
    record = {"tokenizer": "random", "vocab_size": vocabulary, "dtype": "<u2", "tokens": len(ids), "files": files}
    (folder / "manifest.json").write_text(json.dumps(record), encoding="utf-8")
    return folder / "manifest.json"


def sizes(architecture: str, args: argparse.Namespace, dropout: float = 0.0) -> dict:
    """Of a model, by the names of its config."""
    heads = max(1, args.width // 64)
    if architecture == "gpt2":
        made = {"n_layer": args.layers, "n_head": heads, "n_embd": args.width}
        return made | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    made = {"num_hidden_layers": args.layers, "num_attention_heads": heads, "hidden_size": args.width}
    made |= {"intermediate_size": 4 * args.width}
    return made | dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), dropout)


def ours(
    architecture: str, args: argparse.Namespace, shards: Shards, folder: Path, **knobs: object
) -> tuple[Trainer, Step]:
    """A training of this project, and its step."""
    common = {"block_size": args.context, "global_batch_size": args.batch, "per_device_train_batch_size": args.batch}
    common |= {"max_steps": 10**6, "mixed_precision": args.precision, "torch_compile": "true"}
    knobs = common | {"mlm_probability": MASKED_SHARE} | knobs
    config = Pretrain(architecture=architecture, config=sizes(architecture, args), corpora={"x": 1.0}, **knobs)
    trainer = Trainer(config, [shards], [shards], folder, None, math.inf)
    trainer.objective.train()
    fed = trainer.feeder.ahead(range(config.max_steps), args.batch)

    def step() -> tuple[int, int]:
        number, pieces = next(fed)
        trainer.step(number, pieces)
        machine.synchronize(DEVICE)
        return args.batch * args.context, int(sum(piece.counts[0] for piece in pieces))

    return trainer, step


def autocast(args: argparse.Namespace) -> torch.autocast | nullcontext:
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(args.precision)
    return torch.autocast(DEVICE.type, dtype=kind) if kind else nullcontext()


def blocks(args: argparse.Namespace, shards: Shards, length: int) -> Iterator[torch.Tensor]:
    """Random blocks of the stream, a batch at a time."""
    rng = np.random.default_rng(1)
    while True:
        starts = rng.integers(shards.tokens - length, size=args.batch)
        yield torch.from_numpy(np.stack([shards.read(int(start), length) for start in starts]))


def hugging_face(args: argparse.Namespace, shards: Shards, folder: Path, compiled: bool) -> Step:
    """transformers' Trainer on blocks of the stream; a step is a whole call of train() but its first step."""
    model = transformers.GPT2LMHeadModel(
        models.config_of("gpt2", sizes("gpt2", args), shards.manifest["vocab_size"], args.context)
    )
    if compiled:  # not by torch_compile, which accelerate would take for all Trainers of this process
        model.compile()
    taken = 1 + args.steps
    source = blocks(args, shards, args.context)
    rows = [{"input_ids": row, "labels": row} for _ in range(taken) for row in next(source)]
    options = transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=args.batch, max_steps=taken, report_to=[], save_strategy="no",
        logging_strategy="no", bf16=args.precision == "bf16", fp16=args.precision == "fp16", optim="adamw_torch_fused",
        disable_tqdm=True, use_cpu=DEVICE.type == "cpu", dataloader_pin_memory=False,
    )  # fmt: skip
    times = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            machine.synchronize(DEVICE)
            times.append(time.perf_counter())

    trainer = transformers.Trainer(model, options, train_dataset=rows, callbacks=[Clock()])
    trainer.remove_callback(transformers.PrinterCallback)

    def step() -> tuple[int, int]:
        times.clear()
        trainer.train()
        step.seconds = (times[-1] - times[0]) / args.steps
        return args.batch * args.context, args.batch * (args.context - 1)

    return step


def nanogpt(args: argparse.Namespace, shards: Shards, compiled: bool) -> Step:
    """nanoGPT's model and the steps of its training loop."""
    sys.path.insert(0, str(args.nanogpt))
    from model import GPT, GPTConfig

    torch.manual_seed(0)
    config = GPTConfig(
        block_size=args.context, vocab_size=shards.manifest["vocab_size"], n_layer=args.layers,
        n_head=max(1, args.width // 64), n_embd=args.width, dropout=0.0, bias=False,
    )  # fmt: skip
    model = GPT(config).to(DEVICE)
    optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), DEVICE.type)
    run = torch.compile(model) if compiled else model
    source = blocks(args, shards, args.context + 1)

    def step() -> tuple[int, int]:
        tokens = next(source).to(DEVICE)
        with autocast(args):
            _, loss = run(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        machine.synchronize(DEVICE)
        return args.batch * args.context, args.batch * args.context

    return step


def transformer_lm(args: argparse.Namespace, shards: Shards) -> Step:
    """transformer-lm's model and the steps of its training loop, which knows full precision on a CPU only."""
    sys.path.insert(0, str(args.transformer_lm))
    from lm.model import HParams, Model

    hparams = HParams(
        n_vocab=shards.manifest["vocab_size"], n_ctx=args.context, n_embed=args.width, n_hidden=args.width,
        n_head=max(1, args.width // 64), n_layer=args.layers,
    )  # fmt: skip
    model = Model(hparams).to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=2.5e-4)
    source = blocks(args, shards, args.context)

    def step() -> tuple[int, int]:
        tokens = next(source).to(DEVICE)
        optimizer.zero_grad()
        logits = model(tokens)["logits"]
        nats = functional.cross_entropy(logits[:, :-1].transpose(2, 1), tokens[:, 1:], reduction="none")
        for power in range(3, 1 + int(math.log2(args.context))):  # the loss by context, which its loop logs
            nats[:, : 2**power].mean().item()
        nats.mean().backward()
        optimizer.step()
        machine.synchronize(DEVICE)
        return args.batch * args.context, args.batch * (args.context - 1)

    return step


def padded(args: argparse.Namespace, shards: Shards) -> Step:
    """RoBERTa on the first tokens of each document, padded to the longest of the batch, logits of every token."""
    torch.manual_seed(0)
    model = transformers.RobertaForMaskedLM(
        models.config_of("roberta", sizes("roberta", args), shards.manifest["vocab_size"], args.context)
    ).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.98), fused=True)
    rng = np.random.default_rng(1)

    def step() -> tuple[int, int]:
        found = [shards.document(int(n))[: args.context] for n in rng.integers(len(shards), size=args.batch)]
        longest = max(map(len, found))
        tokens = torch.tensor(np.stack([np.pad(x, (0, longest - len(x)), constant_values=IDS[PAD]) for x in found]))
        chosen = (torch.rand(tokens.shape) < MASKED_SHARE) & (tokens >= len(SPECIAL))
        inputs, labels = tokens.masked_fill(chosen, IDS[MASK]), tokens.masked_fill(~chosen, IGNORED)
        with autocast(args):
            made = model(inputs.to(DEVICE), attention_mask=(tokens != IDS[PAD]).to(DEVICE), labels=labels.to(DEVICE))
        made.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        machine.synchronize(DEVICE)
        return int((tokens != IDS[PAD]).sum()), int(chosen.sum())

    return step


def measure(contenders: dict[str, Step], args: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Real and predicted tokens a second of each, the medians over the rounds; first comes a step that is not counted."""
    for name, step in contenders.items():
        began = time.perf_counter()
        step()
        print(f"{name}: first step after {time.perf_counter() - began:.1f} s", flush=True)
        step()
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(args.rounds):
        for name, step in contenders.items():
            if name.startswith("Trainer"):
                real, predicted = step()
                seconds = step.seconds
            else:
                began = time.perf_counter()
                counts = [step() for _ in range(args.steps)]
                seconds = time.perf_counter() - began
                real, predicted = (sum(numbers) for numbers in zip(*counts, strict=True))
            rates[name].append((real / seconds, predicted / seconds))
    return {name: tuple(map(statistics.median, zip(*found, strict=True))) for name, found in rates.items()}


def show(rates: dict[str, tuple[float, float]], base: str, flops: dict[str, float], peak: float) -> None:
    """A table of them, `base` being 1."""
    print(f"\n{'':<28}{'tokens/s':>12}{'ratio':>8}{'predicted/s':>14}{'ratio':>8}{'of peak':>9}")
    for name, (real, predicted) in rates.items():
        share = f"{real * flops[name] / peak:8.1%}" if name in flops else ""
        ratios = real / rates[base][0], predicted / rates[base][1]
        print(f"{name:<28}{real:>12,.0f}{ratios[0]:>8.2f}{predicted:>14,.0f}{ratios[1]:>8.2f}{share:>9}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = DEVICE.type == "cuda"
    parser.add_argument("kinds", nargs="*", default=["gpt2", "roberta"], metavar="KIND", help="gpt2, roberta, bert")
    parser.add_argument("--layers", type=int, default=12 if gpu else 6)
    parser.add_argument("--width", type=int, default=768 if gpu else 512)
    parser.add_argument("--context", type=int, help="tokens of a sequence (GPU: 1024 and 512; CPU: 256)")
    parser.add_argument("--batch", type=int, default=32 if gpu else 8, help="sequences of a step")
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20 if gpu else 4, help="of each contender in a round")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp16", "no"])
    parser.add_argument("--optim", default="adamw", choices=["adamw", "muon"], help="of ours")
    parser.add_argument("--shards", type=Path, help="manifest of the train side of a corpus")
    parser.add_argument("--nanogpt", type=Path, help="folder of its repository")
    parser.add_argument("--transformer-lm", type=Path, help="folder of its repository")
    parser.add_argument("--profile", action="store_true", help="where the time of a step of ours goes")
    args = parser.parse_args()
    if unknown := set(args.kinds) - {"gpt2", "roberta", "bert"}:
        parser.error(f"no kind of model here: {', '.join(unknown)}")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir(), "jalm-bench-compiled")))
    context = args.context
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads, "
          f"{torch.cuda.get_device_name() if gpu else 'CPU'}")  # fmt: skip
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}[args.precision]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shards = Shards(args.shards or stream(folder, args.vocabulary))
        for kind in args.kinds:
            args.context = context or ((1024 if kind == "gpt2" else 512) if gpu else 256)
            trainer, step = ours(kind, args, shards, folder, optim=args.optim)
            contenders, trainers = {"ours": step}, {"ours": trainer}
            trainers["ours, not compiled"], contenders["ours, not compiled"] = ours(
                kind, args, shards, folder, torch_compile="false"
            )
            if kind == "gpt2":
                contenders["Trainer"] = hugging_face(args, shards, folder, compiled=False)
                contenders["Trainer, compiled"] = hugging_face(args, shards, folder, compiled=True)
                if args.nanogpt:
                    contenders |= {f"nanoGPT{', compiled' * c}": nanogpt(args, shards, bool(c)) for c in (0, 1)}
                if args.transformer_lm:
                    contenders["transformer-lm"] = transformer_lm(args, shards)
            else:
                trainers["ours, 30 % masked"], contenders["ours, 30 % masked"] = ours(
                    kind, args, shards, folder, mlm_probability=0.3
                )
                contenders["padded RoBERTa"] = padded(args, shards)
            peaks = [machine.matmul_peak(DEVICE, precision)]
            rates = measure(contenders, args)
            peaks.append(machine.matmul_peak(DEVICE, precision))
            print(f"\n{kind}: {args.layers} layers, width {args.width}, {args.batch} x {args.context} tokens, {args.precision}; "
                  f"matmul peak {max(peaks) / 1e12:.3f} TFLOP/s; most memory {machine.peak_memory(DEVICE):.1f} GiB")  # fmt: skip
            base = "Trainer" if kind == "gpt2" else "padded RoBERTa"
            show(rates, base, {name: trainer.flops for name, trainer in trainers.items()}, max(peaks))
            if args.profile:
                with torch.profiler.profile(acc_events=True) as profiled:
                    for _ in range(3):
                        step()
                column = f"self_{DEVICE.type}_time_total"
                print(profiled.key_averages().table(sort_by=column, row_limit=25, max_name_column_width=60))


if __name__ == "__main__":
    main()
