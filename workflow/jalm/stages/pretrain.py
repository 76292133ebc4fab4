"""Train a model on token shards.

A batch depends on the seed and the step alone, and so do masks and dropout: the position in the data is one integer,
and a training that was killed goes on from its last checkpoint as if nothing had happened. Several processes, as
`jalm launch` starts them, share the sequences of a step; what is learnt differs by rounding, and by dropout's draws.

In a Slurm job it ends by itself before the job's time is up, with its state saved, and puts the job back into the queue.

Training state lies under --states, in a folder named by a digest of the knobs, the RECIPE and the shards, where nothing
that re-runs deletes it. A training that is finished there already is published at once.
"""

import argparse
import contextlib
import hashlib
import json
import logging
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jalm import Fault, cli, slurm
from jalm.config import Pretrain, flags
from jalm.formats import checkpoints
from jalm.formats.lock import Lock, locked
from jalm.formats.shards import Mixture, Shards, digest

if TYPE_CHECKING:
    import transformers

    from jalm.formats import models

END_MARGIN = 30  # seconds before the end of a Slurm job that are left when a training has saved its state
TIME_IS_UP = "time is up"
RECIPE = 1  # raise it when what is learnt changes: the test of this number says when


class TrainingError(Fault):
    """A training that cannot begin or go on."""


class Stopped(Fault):
    """A training that saved its state because it was told to end, or its time was up."""


def learning_rate(step: int, config: Pretrain) -> float:
    """Learning rate of an optimizer step, counted from 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    left = config.max_steps - step
    after_warmup = max(1, config.max_steps - config.warmup_steps)
    match config.lr_scheduler_type:
        case "linear":
            return config.learning_rate * left / after_warmup
        case "cosine":
            return config.learning_rate * (1 - math.cos(math.pi * left / after_warmup)) / 2
        case "warmup_stable_decay":
            decay = max(1, round(config.max_steps * config.decay_fraction))
            return config.learning_rate * min(1.0, left / decay)
    return config.learning_rate


def torch_seed(*numbers: int) -> int:
    """One 63-bit seed out of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def state_key(config: Pretrain, manifests: list[Path]) -> tuple[str, dict]:
    """Name of the folder of a training's state, and what it stands for."""
    settings = {"flags": flags(config), "recipe": RECIPE, "inputs": [digest(path) for path in manifests]}
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16], settings


def record_settings(path: Path, settings: dict) -> None:
    """Write what a state stands for and how it is trained; say what of this changed since the last run."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else settings
    for name, value in settings.items():
        if (last := before.get(name)) != value:
            cli.log.info("%s changed since this training was last run: %s is now %s", name, last, value)
    with cli.writing(path) as (partial,):
        partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def batches(mixture: Mixture, config: Pretrain, step: int, vocab_size: int, share: range) -> list["models.Batch"]:
    """What the model is fed in one optimizer step, in pieces that fit into memory; `share` of the rows of the batch."""
    from jalm.formats import models

    pieces = []
    for first in range(0, len(share), config.per_device_train_batch_size):
        rows = share[first : first + config.per_device_train_batch_size]
        blocks = np.stack([mixture.block(step * config.global_batch_size + row) for row in rows])
        if config.architecture in models.MASKED:
            seeds = [(config.seed, step, row) for row in rows]
            pieces.append(models.masked_batch(blocks, seeds, config.mlm_probability, vocab_size))
        else:
            pieces.append(models.next_token_batch(blocks))
    return pieces


def time_left(config: Pretrain) -> float:
    """Seconds that a training may last: its time budget, and what its Slurm job has left."""
    budget = config.time_budget * 60 or math.inf
    try:
        left = slurm.seconds_left(slurm.own_job()) if slurm.own_job() else None
    except slurm.SlurmError as error:
        cli.log.info("how long this job may last is not known (%s); set time_budget if its limit is short", error)
        return budget
    return budget if left is None else min(budget, left - END_MARGIN)


def requeue() -> None:
    """Put the Slurm job of this training back into the queue, where it goes on; say so if that cannot be."""
    job = slurm.own_job()
    try:
        if job and slurm.is_rule(job):  # not one that snakemake itself runs in
            slurm.requeue(job)
            cli.log.info("job %s goes back into the queue", job)
    except slurm.SlurmError as error:
        cli.log.info("job %s cannot go back into the queue by itself: %s", job, error)


@contextlib.contextmanager
def met() -> Iterator[None]:
    """Meet the other processes of a training, and part from them when all have ended well or were told to stop."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    try:
        yield
    except Stopped:
        state.destroy_process_group()
        raise
    state.destroy_process_group()  # a process that ends without it may abort


def said_by_lead(value: bool) -> bool:
    """What the first of all processes says; what the others see of a shared file system may be older."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


class Trainer:
    """One training: model, optimizer, data, and the state folder.

    Every process has one; the lead, process 0, writes what is written.
    """

    def __init__(
        self,
        config: Pretrain,
        train: list[Shards],
        valid: list[Shards],
        state: Path,
        lock: Lock | None,
        ends: float,
    ) -> None:
        """Build it.

        Args:
            config: the knobs.
            train: shards, in the order of `config.corpora`.
            valid: shards to validate on.
            state: folder of the training's state.
            lock: on that folder; None in processes that do not lead.
            ends: when it has to be over, in seconds of time.monotonic().
        """
        import torch
        from accelerate import Accelerator

        from jalm.formats import models

        self.config, self.valid, self.state, self.lock, self.ends = config, valid, state, lock, ends
        self.vocab_size = train[0].manifest["vocab_size"]
        tokenizers = {shards.manifest["tokenizer"] for shards in train + valid}
        if len(tokenizers) > 1:
            raise TrainingError(
                f"the shards come from {len(tokenizers)} tokenizers: {', '.join(str(s.path) for s in train)}"
            )
        self.mixture = Mixture(list(zip(train, config.corpora.values(), strict=True)), config.block_size, config.seed)
        if self.mixture.blocks < 1:
            raise TrainingError(
                f"{sum(s.tokens for s in train):,} tokens of train do not fill one block of block_size {config.block_size}; "
                "lower block_size, or take more text"
            )
        logging.getLogger("accelerate").setLevel(logging.ERROR)  # it warns of tied weights at each checkpoint
        for shards in train:
            if shards.tokens < config.block_size:
                cli.log.info("%s has less than one block of %s tokens: not used", shards.path, config.block_size)
        self.accelerator = Accelerator(mixed_precision=config.mixed_precision)
        self.share = self._share()
        torch.manual_seed(config.seed)
        model = models.build(config.architecture, config.config.model_dump(), self.vocab_size, config.block_size)
        optimizer = torch.optim.AdamW(
            models.parameter_groups(model, config.weight_decay),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            fused=True,
        )
        self.objective, self.optimizer = self.accelerator.prepare(models.Objective(model), optimizer)
        self.told_to_stop: str = ""  # why
        self.slowest_step = self.slowest_save = 0.0  # seconds

    @property
    def model(self) -> "transformers.PreTrainedModel":
        """The model, without what accelerate puts around it."""
        return self.accelerator.unwrap_model(self.objective).model

    def _share(self) -> range:
        """Rows of the global batch that this process works on."""
        total, processes = self.config.global_batch_size, self.accelerator.num_processes
        if total % processes:
            unit = math.lcm(processes, self.config.per_device_train_batch_size)  # which has to divide it too
            near = sorted({max(unit, total // unit * unit), -(-total // unit) * unit})
            raise TrainingError(
                f"global_batch_size {total} does not divide into {processes} processes; "
                f"use {' or '.join(map(str, near))}, or another number of GPUs"
            )
        rows = total // processes
        first = self.accelerator.process_index * rows
        return range(first, first + rows)

    def _sum(self, *numbers: float) -> list[float]:
        """Sums over all processes."""
        import torch

        if self.accelerator.num_processes == 1:
            return list(numbers)
        local = torch.tensor(numbers, dtype=torch.float64, device=self.accelerator.device)
        return self.accelerator.reduce(local, reduction="sum").tolist()

    def resume(self) -> int:
        """Load the last checkpoint, if there is one; the number of steps it has behind it."""
        (step,) = map(int, self._sum(checkpoints.newest(self.state, cli.log.info) if self.lock else 0))
        if step:
            self.accelerator.load_state(str(checkpoints.checkpoint(self.state, step)))
            cli.log.info("going on from the checkpoint of step %s", f"{step:,}")
        if self.lock:
            _cut_log(self.state / "log.jsonl", step)
        return step

    def save(self, step: int) -> None:
        """Write the checkpoint of a step and forget the oldest."""
        began = time.monotonic()
        if self.lock:
            with checkpoints.writing(checkpoints.checkpoint(self.state, step), self.lock.check) as folder:
                self.accelerator.save_state(str(folder))
            checkpoints.forget(self.state, self.config.save_total_limit)
        self.slowest_save = max(self.slowest_save, time.monotonic() - began)

    def step(self, step: int) -> tuple[float, float]:
        """One optimizer step; its mean loss over all predicted tokens (nats) and the norm of its gradient."""
        import torch

        config, accelerator = self.config, self.accelerator
        pieces = batches(self.mixture, config, step, self.vocab_size, self.share)
        (count,) = self._sum(sum(piece.count for piece in pieces))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        total = torch.zeros((), device=accelerator.device)
        for number, piece in enumerate(pieces):
            torch.manual_seed(torch_seed(config.seed, step, accelerator.process_index, number))  # of dropout
            last = number == len(pieces) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.objective):
                with accelerator.autocast():
                    loss = self.objective(piece.to(accelerator.device))
                    # gradients are averaged over the processes, where the losses have to be added
                    loss = loss * accelerator.num_processes / max(1, count)
                accelerator.backward(loss)
            total += loss.detach()
        loss = self._sum(total.item())[0] / accelerator.num_processes
        norm = accelerator.clip_grad_norm_(self.objective.parameters(), config.max_grad_norm or math.inf).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(
                f"loss {loss} and gradient norm {norm} at step {step + 1}; the last checkpoint was kept. "
                "Lower learning_rate, or set mixed_precision to 'no'"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss, norm

    def validate(self) -> dict[str, float]:
        """Mean loss (nats a predicted token) on the beginning of valid."""
        from jalm.formats import models

        config, accelerator = self.config, self.accelerator
        with accelerator.autocast():
            scores = [
                models.score(
                    self.model,
                    shards,
                    config.block_size,
                    config.per_device_train_batch_size,
                    config.mlm_probability,
                    config.eval_blocks,
                    accelerator.process_index,
                    accelerator.num_processes,
                )
                for shards in self.valid
            ]
        nats, tokens = self._sum(sum(s.nats for s in scores), sum(s.tokens for s in scores))
        return {"valid_loss": nats / max(1, tokens)}

    def run(self) -> Path:
        """Train to the end; the folder of the finished model.

        Raises:
            Stopped: a signal came, or the time is up; the state is saved.
        """
        config = self.config
        done = self.resume()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._stop)
        began, first = time.monotonic(), done
        self.objective.train()
        with open(self.state / "log.jsonl" if self.lock else os.devnull, "a", encoding="utf-8") as log:

            def record(**values: float) -> None:
                log.write(json.dumps(values) + "\n")
                log.flush()

            for step in cli.progress(range(done, config.max_steps), unit=" steps", total=config.max_steps - done):
                step_began = time.monotonic()
                loss, norm = self.step(step)
                done = step + 1
                tokens = done * config.global_batch_size * config.block_size
                if done % config.logging_steps == 0 or done in (1, config.max_steps):
                    rate = (done - first) * config.global_batch_size * config.block_size / (time.monotonic() - began)
                    record(
                        step=done,
                        tokens=tokens,
                        loss=loss,
                        grad_norm=norm,
                        learning_rate=learning_rate(step, config),
                        tokens_per_second=round(rate),
                    )
                if done % config.eval_steps == 0 or done == config.max_steps:
                    record(step=done, tokens=tokens, **self.validate())
                stopping = self._stopping(time.monotonic() - step_began)
                # where time is short, the first step's checkpoint shows how long one takes
                first_of_short = done == first + 1 and self.ends < math.inf
                if done % config.save_steps == 0 or done == config.max_steps or stopping or first_of_short:
                    if self.lock:
                        os.fsync(log.fileno())  # a checkpoint must not be ahead of the log
                    self.save(done)
                if stopping and done < config.max_steps:
                    raise Stopped(f"{stopping}; saved at step {done:,} of {config.max_steps:,}, run again to go on")
        if self.lock:
            self._finish(time.monotonic() - began, done - first)
        return self.state / "final"

    def _stopping(self, seconds: float) -> str:
        """Why to end after this step, which took `seconds`: as soon as one process wants to, all do; empty if none."""
        self.slowest_step = max(self.slowest_step, seconds)
        if time.monotonic() + self.slowest_step + 2 * self.slowest_save > self.ends:
            self.told_to_stop = self.told_to_stop or TIME_IS_UP
        (wanted,) = self._sum(bool(self.told_to_stop))
        return (self.told_to_stop or "another process was told to stop") if wanted else ""

    def _stop(self, number: int, _: object) -> None:
        if number == signal.SIGINT and self.told_to_stop:
            signal.signal(number, signal.SIG_DFL)  # whoever asks a third time does not want to wait
        self.told_to_stop = f"told to stop by {signal.Signals(number).name}"

    def _finish(self, seconds: float, trained: int) -> None:
        import accelerate
        import torch
        import transformers

        with checkpoints.writing(self.state / "final", self.lock.check) as folder:
            model = self.model
            model.save_pretrained(folder)
            log = (self.state / "log.jsonl").read_text(encoding="utf-8")
            (folder / "log.jsonl").write_text(log, encoding="utf-8")
            record = {
                "steps": self.config.max_steps,
                "tokens": self.config.max_steps * self.config.global_batch_size * self.config.block_size,
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "last_run": {"steps": trained, "seconds": round(seconds, 1)},
                "device": str(self.accelerator.device),
                "processes": self.accelerator.num_processes,
                "versions": {m.__name__: m.__version__ for m in (torch, transformers, accelerate)},
            }
            (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _cut_log(path: Path, step: int) -> None:
    """Drop the lines of steps after `step`: they will be written again."""
    if path.is_file():
        # the last line may be half a line, if the process was killed while writing it
        lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")]
        with cli.writing(path) as (cut,):
            cut.write_text("".join(line for line in lines if json.loads(line)["step"] <= step), encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, Pretrain, "pretrain")
    parser.add_argument(
        "--train", type=Path, nargs="+", required=True, metavar="FILE", help="manifests, as in --corpora"
    )
    parser.add_argument(
        "--valid", type=Path, nargs="+", required=True, metavar="FILE", help="manifests, as in --corpora"
    )
    parser.add_argument("--code", default="", help="digest of the code, recorded with the state")
    parser.add_argument("--states", type=Path, required=True, metavar="DIR", help="where training states are kept")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the trained model and its log")
    parser.add_argument(
        "--cpus", type=int, default=1, metavar="N", help="threads on a machine without GPU (default: 1)"
    )
    args, config = cli.parse(parser, argv)
    began = time.monotonic()
    lead = os.environ.get("RANK", "0") == "0"  # of the processes that jalm launch or torchrun started
    if not lead:
        cli.log.setLevel(logging.ERROR)
    key, settings = state_key(config, [*args.train, *args.valid])
    state = args.states / key
    final = state / "final"
    try:
        with locked(state, cli.log.info, slurm.gone) if lead else contextlib.nullcontext() as lock, met():
            if said_by_lead(lead and final.is_dir() and checkpoints.whole(final)):
                made = "its model, without training"
            else:
                train(args, config, state, {**settings, "code": args.code}, lock, began)
                made = f"{args.output.name} after {config.max_steps:,} steps"
            if lock:
                lock.check()
                checkpoints.publish(final, args.output)
    except Stopped as stopped:
        if lead and TIME_IS_UP in str(stopped):
            requeue()
        raise
    tokens = config.max_steps * config.global_batch_size * config.block_size
    cli.closing("pretrain", f"{tokens:,} tokens", made)


def train(
    args: argparse.Namespace, config: Pretrain, state: Path, settings: dict, lock: Lock | None, began: float
) -> None:
    """Train to the end what a state has begun.

    Raises:
        Stopped: a signal came, or the time is up.
        TrainingError: it cannot go on.
    """
    import torch

    torch.set_num_threads(max(1, args.cpus // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    shards = [[Shards(path) for path in paths] for paths in (args.train, args.valid)]
    trainer = Trainer(config, *shards, state, lock, began + time_left(config) if lock else math.inf)
    if lock:
        how = {"per_device_train_batch_size": config.per_device_train_batch_size}
        how["processes"] = trainer.accelerator.num_processes
        record_settings(state / "settings.json", {**settings, **how})
    try:
        trainer.run()
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"out of memory ({str(error).splitlines()[0]}); lower per_device_train_batch_size, now "
            f"{config.per_device_train_batch_size}, and run again: the training goes on from its last checkpoint"
        ) from None
