"""Train a model on token shards.

A batch depends on the seed and the step alone, and so do masks and dropout: the position in the data is one integer,
and a training that was killed goes on from its last checkpoint as if nothing had happened. Several processes, as
`jalm launch` starts them, share the sequences of a step; what is learnt differs by rounding, and by dropout's draws.

In a Slurm job it ends by itself before the job's time is up, or when it is sent SIGUSR1, with its state saved, and puts the
job back into the queue. Told to end otherwise, it saves its state too; the exit status of both is 75 (try again).

Training state lies under --states, in a folder named by a digest of the knobs, the RECIPE and the shards, where nothing
that re-runs deletes it. A training that is finished there already is published at once; one that differs from a finished
one in nothing but more max_steps goes on from the last step that they share.
"""

import argparse
import bisect
import contextlib
import hashlib
import importlib.util
import json
import logging
import math
import os
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jalm import Fault, cli, slurm
from jalm.config import Pretrain, multiples
from jalm.formats import checkpoints, processes
from jalm.formats.lock import Lock, locked
from jalm.formats.shards import Mixture, Shards, digest
from jalm.knobs import flags
from jalm.sizes import MASKED

if TYPE_CHECKING:
    import accelerate
    import torch
    import transformers

    from jalm.formats import batches

END_MARGIN = 30  # seconds before the end of a Slurm job that are left when a training has saved its state
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # that tell a training to save and end
RECIPE = 3  # raise it when what is learnt changes: the test of this number says when
SHORT = {"cpu": 1e14, "cuda": 1e17}  # floating-point operations of a training that is over before compiling pays
FLOATS = {"bf16": "bfloat16", "fp16": "float16"}
SMALLEST_SCALE = 2.0**-14  # of the loss in fp16; where gradients overflow below it, it is not for their size


class TrainingError(Fault):
    """A training that cannot begin or go on."""


class Stopped(Fault):
    """A training that saved its state because it was told to end, or its time was up.

    Attributes:
        requeue: whether a scheduler should start it again.
    """

    status = os.EX_TEMPFAIL  # 75, which schedulers can be told to start again (Slurm: RequeueExit)

    def __init__(self, message: str, requeue: bool) -> None:
        super().__init__(message)
        self.requeue = requeue


class Step(NamedTuple):
    """What came of an optimizer step.

    Attributes:
        losses: mean nats of a predicted token and, of a BERT, of a pair; their sum is minimised.
        norm: of the gradient, before it was clipped.
    """

    losses: list[float]
    norm: float


def torch_seed(*numbers: int) -> int:
    """One 63-bit seed out of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def state_key(config: Pretrain, manifests: list[Path]) -> tuple[str, dict]:
    """Name of the folder of a training's state, and what it stands for."""
    inputs = [digest(path) for path in manifests]
    if config.init_model and Path(config.init_model).is_dir():
        inputs += [digest(path) for path in sorted(Path(config.init_model).glob("*.safetensors"))]
    settings = {"flags": flags(config), "recipe": RECIPE, "inputs": inputs}
    return _key(settings), settings


def _key(settings: dict) -> str:
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]


def family(config: Pretrain, settings: dict) -> dict:
    """What a longer training can go on from: others of this family, up to this many steps."""
    from jalm.formats import optimizers

    same = flags(config.model_copy(update={"max_steps": 0, "decay_fraction": 0}))
    shared = optimizers.stable_until(config.lr_scheduler_type, config.max_steps, config.decay_fraction)
    return {"family": _key({**settings, "flags": same}), "stable_until": shared}


def ending(config: Pretrain, began: float) -> float:
    """When a training has to be over that began then, by its time budget and its Slurm job; seconds of time.monotonic()."""
    budget = began + config.time_budget * 60 if config.time_budget else math.inf
    try:
        left = slurm.seconds_left(slurm.own_job()) if slurm.own_job() else None
    except slurm.SlurmError as error:
        cli.log.info("how long this job may last is not known (%s); set time_budget if its limit is short", error)
        return budget
    return budget if left is None else min(budget, time.monotonic() + left - END_MARGIN)


def requeue() -> None:
    """Put the Slurm job of this training back into the queue, where it goes on; say so if that cannot be."""
    job = slurm.own_job()
    try:
        if job and slurm.is_rule(job):  # not one that snakemake itself runs in
            slurm.requeue(job)
            cli.log.info("job %s goes back into the queue", job)
    except slurm.SlurmError as error:
        cli.log.info("job %s cannot go back into the queue by itself: %s", job, error)


def feed_of(config: Pretrain, vocab_size: int) -> "batches.Feed":
    """What makes the batches of a training."""
    from jalm.formats import batches

    names = ("mlm_probability", "mask_replace_prob", "random_replace_prob", "whole_word_mask")
    masking = batches.Masking(**{name: getattr(config, name) for name in names})
    return batches.Feed(
        config.architecture, config.block_size, vocab_size, masking if config.architecture in MASKED else None
    )


class Trainer:
    """One training: model, optimizers, data, and the state folder.

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

        from jalm.formats import batches, machine, models, optimizers

        self.config, self.valid, self.state, self.lock, self.ends = config, valid, state, lock, ends
        mixture, feed = _mixture(config, train, valid), feed_of(config, train[0].manifest["vocab_size"])
        self.accelerator = _accelerator(config, state)
        device = self.accelerator.device
        self.feeder = batches.Feeder(mixture, feed, config.seed, config.global_batch_size, self._share())
        sizes = (config.architecture, config.config.model_dump(), feed.vocab_size, config.block_size)
        torch.manual_seed(config.seed)
        model = models.start_from(config.init_model, *sizes) if config.init_model else models.build(*sizes)
        if config.gradient_checkpointing:
            # transformers 5.18 and later have another name for it
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        predicted = config.mlm_probability if feed.masking else 1.0
        self.flops = models.flops_per_token(model, config.block_size, predicted)  # a token costs
        self.not_compiled = self._why_not_compiled()
        betas = (config.adam_beta1, config.adam_beta2)
        made = optimizers.build(
            model, config.optim, config.learning_rate, config.weight_decay, betas, config.adam_epsilon
        )
        self.objective, *self.optimizers = self.accelerator.prepare(
            models.Objective(model, compiled=not self.not_compiled), *made
        )
        self.device_batch = config.per_device_train_batch_size
        if self.device_batch == "auto":
            self.device_batch = self._known_batch() or self._largest_batch()
        precision = torch.float32 if config.mixed_precision == "no" else getattr(torch, FLOATS[config.mixed_precision])
        self.peak = machine.matmul_peak(device, precision) * self.accelerator.num_processes
        if device.type == "cpu":
            self._warn_of_slow_bf16()
        self.told_to_stop: str = ""  # why
        self.requeue = False
        self.slowest_step = self.slowest_validation = self.slowest_save = 0.0  # seconds

    @property
    def model(self) -> "transformers.PreTrainedModel":
        """The model, without what accelerate puts around it."""
        return self.accelerator.unwrap_model(self.objective).model

    def _share(self) -> range:
        """Rows of the global batch that this process works on."""
        total, processes = self.config.global_batch_size, self.accelerator.num_processes
        if total % processes:
            device = self.config.per_device_train_batch_size
            unit = math.lcm(processes, 1 if device == "auto" else device)  # which has to divide it too
            raise TrainingError(
                f"global_batch_size {total} does not divide into {processes} processes; "
                f"use {multiples(total, unit)}, or another number of GPUs"
            )
        rows = total // processes
        first = self.accelerator.process_index * rows
        return range(first, first + rows)

    def _why_not_compiled(self) -> str:
        """Why model and loss are not compiled, empty if they are."""
        from jalm.formats import machine

        config, kind = self.config, self.accelerator.device.type
        if config.torch_compile == "false":
            return "torch_compile is false"
        lacking = machine.no_compiler(self.accelerator.device)
        if config.torch_compile == "true" and lacking:
            raise TrainingError(f"torch_compile is true, but {lacking}; set torch_compile to auto")
        tokens = config.max_steps * config.global_batch_size * config.block_size
        if config.torch_compile == "auto" and config.architecture == "gpt_neo":
            return "it would not make a gpt_neo faster"
        if config.torch_compile == "auto" and self.flops * tokens < SHORT.get(kind, 0):
            return "the training is short"
        return lacking

    @property
    def how(self) -> dict:
        """What trains, as it is recorded: none of it changes what is learnt by more than rounding and dropout's draws."""
        import accelerate
        import torch
        import transformers

        from jalm.formats import machine

        return {
            "device": machine.name(self.accelerator.device),
            "processes": self.accelerator.num_processes,
            "per_device_train_batch_size": self.device_batch,
            "compiled": not self.not_compiled,
            "full_determinism": self.config.full_determinism,
            "versions": {m.__name__: m.__version__ for m in (torch, transformers, accelerate)},
        }

    def _warn_of_slow_bf16(self) -> None:
        """Say where a CPU without instructions for bf16 is asked to use it; Muon does in any precision."""
        import torch

        from jalm.formats import machine

        advice = {
            "mixed_precision to 'no'": self.config.mixed_precision == "bf16",
            "optim to adamw": self.config.optim == "muon",
        }
        if not any(advice.values()):
            return
        full, half = (machine.matmul_peak(self.accelerator.device, kind) for kind in (torch.float32, torch.bfloat16))
        if full > 2 * half:
            told = " and ".join(what for what, applies in advice.items() if applies)
            cli.log.info("bf16 is %.0f times as slow as full precision on this CPU; set %s", full / half, told)

    def _known_batch(self) -> int:
        """What `_largest_batch` found when this training was last run on the same devices, 0 if that is not known."""
        last, how = (checkpoints.recorded(self.state).get("runs") or [{}])[-1], self.how
        same = all(last.get(name) == how[name] for name in ("device", "processes"))
        return int(processes.smallest(last["per_device_train_batch_size"] if same else 0))

    def _largest_batch(self) -> int:
        """The most sequences of a step that fit into the memory of every device; divisors of its share are tried."""
        import torch

        rows, block_size = len(self.feeder.share), self.config.block_size
        divisors = [size for size in range(1, rows + 1) if rows % size == 0]
        if self.accelerator.device.type == "cpu":  # where memory is not what limits
            fitting = max(size for size in divisors if size == 1 or size * block_size <= 1 << 13)
        else:
            fit = bisect.bisect_left(divisors, True, key=lambda size: not self._fits(size))
            fitting = divisors[max(fit - 1, 0)]
            torch._dynamo.reset()  # which gives up after some sizes, and counted those that were tried
        size = int(processes.smallest(fitting))
        cli.log.info("per_device_train_batch_size auto: %s of %s sequences at once", size, rows)
        return size

    def _fits(self, size: int) -> bool:
        """Whether so many sequences leave room for the optimizers' moments and a twentieth of a GPU's memory."""
        import torch

        device, moments = self.accelerator.device, 8 * sum(p.numel() for p in self.model.parameters())  # bytes
        try:
            with self.accelerator.no_sync(self.objective):  # others may run out of memory sooner
                self._backward([self.feeder.batch(0, self.feeder.share[:size])], 0, torch.ones(2, device=device))
            free, total = torch.cuda.mem_get_info(device)
        except torch.OutOfMemoryError:
            free, total = 0, 1
        self._zero_grad()
        torch.cuda.empty_cache()
        return free >= moments + 0.05 * total

    def resume(self, kin: dict) -> int:
        """Load the last checkpoint, if there is one, or one of the same `family`; the number of steps it has behind it."""
        found = 0
        if self.lock:
            found = checkpoints.newest(self.state, cli.log.info)
            found = found or checkpoints.continue_from(self.state, **kin, say=cli.log.info, check=self.lock.check)
        step = int(processes.summed([found])[0])
        if step:
            self.accelerator.load_state(str(checkpoints.checkpoint(self.state, step)))
            cli.log.info("going on from the checkpoint of step %s", f"{step:,}")
        if self.lock:
            if not step and checkpoints.records(self.state / "log.jsonl"):
                cli.log.info("%s has no checkpoint to go on from: the training begins again at step 0", self.state)
            checkpoints.cut(self.state / "log.jsonl", step)
        return step

    def save(self, step: int) -> None:
        """Write the checkpoint of a step and forget those that are not needed."""
        began, config = time.monotonic(), self.config
        if self.lock:
            with checkpoints.writing(checkpoints.checkpoint(self.state, step), self.lock.check) as folder:
                self.accelerator.save_state(str(folder))
                self.model.config.save_pretrained(folder)  # so that evaluate can load it
            kept = checkpoints.steps(self.state)
            spared = {kept_step for kept_step in kept if config.keep_steps and kept_step % config.keep_steps == 0}
            spared.add(self._shared_until())
            if config.keep_best:
                spared.add(checkpoints.best(self.state / "log.jsonl", kept))
            checkpoints.forget(self.state, config.save_total_limit, spared)
        self.slowest_save = max(self.slowest_save, time.monotonic() - began)

    def _shared_until(self) -> int:
        """The last step that a longer training can go on from."""
        from jalm.formats import optimizers

        config = self.config
        return optimizers.stable_until(config.lr_scheduler_type, config.max_steps, config.decay_fraction)

    def learning_rate(self, step: int) -> float:
        """Of a step, counted from 0."""
        from jalm.formats import optimizers

        config = self.config
        course = (config.lr_scheduler_type, config.max_steps, config.warmup_steps, config.decay_fraction)
        return optimizers.learning_rate(step, config.learning_rate, *course)

    def _backward(self, pieces: list["batches.Batch"], step: int, counts: "torch.Tensor") -> "torch.Tensor":
        """Gradients of the mean losses of a step; sums of nats of each piece, shape (pieces, losses)."""
        import torch

        accelerator, nats = self.accelerator, []
        for number, piece in enumerate(pieces):
            torch.manual_seed(torch_seed(self.config.seed, step, accelerator.process_index, number))  # of dropout
            last = number == len(pieces) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.objective):
                with accelerator.autocast():
                    sums = self.objective(**piece.to(accelerator.device).tensors)
                # gradients are averaged over the processes, where the losses have to be added
                accelerator.backward((sums / counts[: len(sums)]).sum() * accelerator.num_processes)
            nats.append(sums.detach())
        return torch.stack(nats)

    def _zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def step(self, step: int, pieces: list["batches.Batch"]) -> Step:
        """One optimizer step."""
        import torch

        config, accelerator = self.config, self.accelerator
        counts = np.maximum(1, processes.summed(sum(piece.counts for piece in pieces).tolist()))
        nats = self._backward(pieces, step, torch.tensor(counts, dtype=torch.float32, device=accelerator.device))
        sums = processes.summed(nats.double().sum(dim=0).tolist())
        norm = accelerator.clip_grad_norm_(self.objective.parameters(), config.max_grad_norm or math.inf).item()
        self._refuse_what_is_no_number(step, nats, norm)
        learning_rate = self.learning_rate(step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
        if (scaler := accelerator.scaler) is None:
            for optimizer in self.optimizers:
                optimizer.step()
        else:  # accelerate would lower the scale after each, and divide the next one's gradients by it again
            for optimizer in self.optimizers if math.isfinite(norm) else []:
                scaler.step(optimizer.optimizer)
            scaler.update()
            if not math.isfinite(norm):
                left_out = "step %s changes nothing: its gradients overflowed in fp16; the loss is now scaled by %g"
                cli.log.info(left_out, f"{step + 1:,}", scaler.get_scale())
        self._zero_grad()
        return Step((sums / counts).tolist(), norm)

    def _refuse_what_is_no_number(self, step: int, nats: "torch.Tensor", norm: float) -> None:
        """End the training where a loss is no number, or a gradient that is not only too large for fp16."""
        scaler = self.accelerator.scaler
        # in fp16 a step whose gradients overflow is left out, and the next has a smaller scale
        bad_norm = not math.isfinite(norm) and (scaler is None or scaler.get_scale() < SMALLEST_SCALE)
        bad_pieces = (~nats.isfinite().all(dim=1)).nonzero().flatten().tolist()
        if not processes.summed([bool(bad_pieces) or bad_norm])[0]:
            return
        from accelerate.utils import gather_object

        pieces = self.feeder.pieces(self.device_batch)
        blocks = [self.feeder.position(step, row) for piece in bad_pieces for row in pieces[piece]]
        mine = [(self.accelerator.process_index, blocks)] if blocks else []
        where = [f"process {process}, blocks {numbers}" for process, numbers in gather_object(mine)]
        advice = {"no": "", "bf16": ", or set mixed_precision to 'no'", "fp16": ", or set mixed_precision to bf16"}
        raise TrainingError(
            f"step {step + 1}: the loss is no number in {'; '.join(where) or 'no block'}, the norm of the gradient is "
            f"{norm}; the last checkpoint was kept. Look at these blocks, or lower learning_rate"
            f"{advice[self.config.mixed_precision]}"
        )

    def validate(self) -> dict[str, float | list[float]]:
        """Mean losses (nats a prediction) on the beginning of valid."""
        from jalm.formats import scores

        config, accelerator = self.config, self.accelerator
        shared = (accelerator.process_index, accelerator.num_processes)
        with accelerator.autocast():
            made = [
                scores.score(self.model, self.feeder.feed, shards, self.device_batch, config.eval_blocks, *shared)
                for shards in self.valid
            ]
        return scores.figures(processes.summed(sum(one.sums for one in made).tolist()))

    def run(self, done: int) -> Path:
        """Train from a step to the end; the folder of the finished model.

        Raises:
            Stopped: a signal came, or the time is up; the state is saved.
        """
        config, accelerator = self.config, self.accelerator
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, self._stop)
        if config.report_to:
            # a training that goes on is one run there, under its own name
            known = {"tensorboard": {"purge_step": done + 1}}
            known["wandb"] = {"id": self.state.name, "name": self.state.parent.name, "resume": "allow"}
            known["mlflow"] = {"run_name": self.state.parent.name}
            options = {name: kwargs for name, kwargs in known.items() if name in config.report_to}
            accelerator.init_trackers("jalm", config={"flags": flags(config)}, init_kwargs=options)
        began = logged = time.monotonic()
        first = counted_from = done
        self.objective.train()
        with open(self.state / "log.jsonl" if self.lock else os.devnull, "a", encoding="utf-8") as log:

            def record(values: dict) -> None:
                tokens = done * config.global_batch_size * config.block_size
                log.write(json.dumps({"step": done, "tokens": tokens, **values}) + "\n")
                log.flush()
                accelerator.log({name: value for name, value in values.items() if isinstance(value, float)}, step=done)

            coming = self.feeder.ahead(range(done, config.max_steps), self.device_batch)
            for step, pieces in cli.progress(coming, unit=" steps", total=config.max_steps - done):
                step_began = time.monotonic()
                made = self.step(step, pieces)
                done = step + 1
                if done % config.logging_steps == 0 or done in (1, config.max_steps):
                    now = time.monotonic()
                    record(self._line(step, made, (done - counted_from) / (now - logged)))
                    logged, counted_from = now, done
                step_took = time.monotonic() - step_began
                if self._validates(done):
                    validating = time.monotonic()
                    record(self.validate())
                    took = time.monotonic() - validating
                    self.slowest_validation = max(self.slowest_validation, took)
                    logged += took
                stopping = self._stopping(done, step_took if done > first + 1 else 0.0)  # the first is compiled
                # where time is short, the first step's checkpoint shows how long one takes
                first_of_short = done == first + 1 and self.ends < math.inf
                wanted = done % config.save_steps == 0 or done in (config.max_steps, self._shared_until())
                if wanted or stopping or first_of_short:
                    saving = time.monotonic()
                    if self.lock:
                        os.fsync(log.fileno())  # a checkpoint must not be ahead of the log
                    self.save(done)
                    logged += time.monotonic() - saving
                if stopping and done < config.max_steps:
                    for tracker in accelerator.trackers:
                        tracker.finish()
                    processes.meet()  # the first to end takes the others with it, and the lead may still be saving
                    saved = f"{stopping}; saved at step {done:,} of {config.max_steps:,}, run again to go on"
                    raise Stopped(saved, self.requeue)
        accelerator.end_training()
        if self.lock:
            self._finish(time.monotonic() - began, done - first)
        return self.state / "final"

    def _line(self, step: int, made: Step, steps_per_second: float) -> dict[str, float]:
        """What the log says of a step; speeds are of all processes, since the line before."""
        from jalm.formats import machine

        config, device = self.config, self.accelerator.device
        rate = steps_per_second * config.global_batch_size * config.block_size
        norm = made.norm if math.isfinite(made.norm) else None  # in fp16: the step was left out
        line = {"loss": sum(made.losses), "grad_norm": norm, "learning_rate": self.learning_rate(step)}
        if len(made.losses) == 2:
            line |= dict(zip(("mlm_loss", "nsp_loss"), made.losses, strict=True))
        if scaler := self.accelerator.scaler:
            line["loss_scale"] = scaler.get_scale()
        line |= {"tokens_per_second": float(round(rate)), "mfu": round(rate * self.flops / self.peak, 3)}
        return line | {"memory_gib": round(machine.peak_memory(device), 2)} | machine.gpu_utilization(device)

    def _validates(self, done: int) -> bool:
        return done % self.config.eval_steps == 0 or done == self.config.max_steps

    def _stopping(self, done: int, seconds: float) -> str:
        """Why to end after so many steps, the last of `seconds`: as soon as one process wants to, all do; empty if none."""
        config = self.config
        self.slowest_step = max(self.slowest_step, seconds)
        needed = self.slowest_step + 2 * self.slowest_save
        if self._validates(done + 1):  # where none was yet: a block of it costs less than one of a step
            blocks = sum(min(config.eval_blocks, shards.tokens // config.block_size) for shards in self.valid)
            needed += self.slowest_validation or seconds * blocks / config.global_batch_size
        if not self.told_to_stop and time.monotonic() + needed > self.ends:
            self.told_to_stop, self.requeue = "time is up", True
        wanted, requeue = processes.summed([bool(self.told_to_stop), self.requeue])
        self.requeue = bool(requeue)
        return (self.told_to_stop or "another process was told to stop") if wanted else ""

    def _stop(self, number: int, _: object) -> None:
        if number == signal.SIGINT and self.told_to_stop:
            signal.signal(number, signal.SIG_DFL)  # whoever asks a third time does not want to wait
        self.told_to_stop = f"told to stop by {signal.Signals(number).name}"
        self.requeue = self.requeue or number == signal.SIGUSR1  # which sites let Slurm send before the time is up

    def _finish(self, seconds: float, trained: int) -> None:
        with checkpoints.writing(self.state / "final", self.lock.check) as folder:
            model = self.model
            model.save_pretrained(folder)
            log = (self.state / "log.jsonl").read_text(encoding="utf-8")
            (folder / "log.jsonl").write_text(log, encoding="utf-8")
            record = {
                "init_model": self.config.init_model,
                "steps": self.config.max_steps,
                "tokens": self.config.max_steps * self.config.global_batch_size * self.config.block_size,
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "last_run": {"steps": trained, "seconds": round(seconds, 1)},
                "tokenizer": self.feeder.mixture.streams[0].manifest["tokenizer"],
                "flops_per_token": self.flops,
                **self.how,
            }
            shutil.copyfile(self.state / "settings.json", folder / "settings.json")
            (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _mixture(config: Pretrain, train: list[Shards], valid: list[Shards]) -> Mixture:
    """The stream of blocks that a training goes through.

    Raises:
        TrainingError: there is none, or the shards or the first model are of different tokenizers.
    """
    from jalm.formats import models

    tokenizers = {shards.manifest["tokenizer"] for shards in train + valid}
    if len(tokenizers) > 1:
        raise TrainingError(
            f"the shards come from {len(tokenizers)} tokenizers: {', '.join(str(s.path) for s in train)}"
        )
    first = models.tokenizer_of(Path(config.init_model)) if config.init_model else ""
    if first and first not in tokenizers:
        raise TrainingError(
            f"init_model {config.init_model} has another tokenizer than the shards ({train[0].path}); use its tokenizer, "
            "by pin.tokenizer if it is of an older date"
        )
    mixture = Mixture(list(zip(train, config.corpora.values(), strict=True)), config.block_size, config.seed)
    tokens = sum(shards.tokens for shards in train)
    have = f"{tokens:,} tokens of train, in the shares of corpora, have {mixture.blocks:,} blocks of block_size {config.block_size}"
    if mixture.blocks < 1:
        raise TrainingError(f"{have}; lower block_size, or take more text")
    if mixture.blocks < config.global_batch_size:
        raise TrainingError(
            f"{have}, fewer than the {config.global_batch_size:,} of global_batch_size, so that a step would see some of them "
            "twice; lower global_batch_size or block_size, or take more text"
        )
    for name, shards, blocks in zip(config.corpora, train, mixture.taken, strict=True):
        if not blocks:
            size, weight = config.block_size, config.corpora[name]
            cli.log.info(
                "%s is not used: %s tokens, %g times, are no block of %s", name, f"{shards.tokens:,}", weight, size
            )
    return mixture


def _accelerator(config: Pretrain, state: Path) -> "accelerate.Accelerator":
    import accelerate

    for name in config.report_to:
        if not importlib.util.find_spec(name):
            raise TrainingError(f"report_to has {name}, which is not installed; pip install {name}, or leave it out")
    logging.getLogger("accelerate").setLevel(logging.ERROR)  # it warns of tied weights at each checkpoint
    made = accelerate.Accelerator(
        mixed_precision=config.mixed_precision, log_with=config.report_to or None, project_dir=state
    )
    if config.mixed_precision == "fp16" and made.scaler is None:
        raise TrainingError(
            f"mixed_precision is fp16, for which {made.device} has no scaling of gradients; set it to bf16 or 'no'"
        )
    return made


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
    parser.add_argument("--revision", default="", help="git revision, recorded likewise")
    parser.add_argument("--states", type=Path, required=True, metavar="DIR", help="where training states are kept")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the trained model and its log")
    parser.add_argument(
        "--cpus", type=int, default=1, metavar="N", help="threads on a machine without GPU (default: 1)"
    )
    args, config = cli.parse(parser, argv)
    if not len(args.train) == len(args.valid) == len(config.corpora):
        told = f"--train has {len(args.train)} manifests and --valid {len(args.valid)}"
        raise TrainingError(f"{told}, where --corpora names {len(config.corpora)}: {', '.join(config.corpora)}")
    began = time.monotonic()
    lead = os.environ.get("RANK", "0") == "0"  # of the processes that jalm launch or torchrun started
    if not lead:
        cli.log.setLevel(logging.ERROR)
    key, settings = state_key(config, [*args.train, *args.valid])
    state = args.states / key
    final = state / "final"
    with (
        locked(state, cli.log.info, slurm.gone) if lead else contextlib.nullcontext() as lock,
        processes.met(Stopped),
    ):
        if processes.said_by_lead(lead and final.is_dir() and checkpoints.whole(final)):
            made = "its model, without training"
        else:
            try:
                train(args, config, state, settings, lock, began)
            except Stopped as stopped:
                if lead and stopped.requeue:
                    requeue()
                processes.meet()  # as above
                raise
            made = f"{args.output.name} after {cli.counted(config.max_steps, 'step')}"
        if lock:
            lock.check()
            checkpoints.publish(final, args.output)
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
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(args.states.parent.absolute() / "compiled"))
    if config.full_determinism:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when CUDA begins
        torch.use_deterministic_algorithms(True)
    shards = [[Shards(path) for path in paths] for paths in (args.train, args.valid)]
    size = config.per_device_train_batch_size
    try:
        trainer = Trainer(config, *shards, state, lock, ending(config, began) if lock else math.inf)
        size, kin = trainer.device_batch, family(config, settings)
        done = trainer.resume(kin)
        if lock:
            run = {"from_step": done, "code": args.code, "revision": args.revision, **trainer.how}
            checkpoints.record(state, settings | kin, run, cli.log.info)
            cli.log.info("torch.compile: %s", f"no, {trainer.not_compiled}" if trainer.not_compiled else "yes")
        trainer.run(done)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):  # a CPU's
            raise
        smaller = "set" if size == 1 else f"lower per_device_train_batch_size, now {size}, or set"
        raise TrainingError(
            f"out of memory ({str(error).splitlines()[0]}); {smaller} gradient_checkpointing, and run again: the training "
            "goes on from its last checkpoint"
        ) from None
