import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import accelerate
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import log_of, wait_for
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from jalm.formats import checkpoints, lock, machine
from jalm.formats.shards import Shards, digest
from jalm.stages import pretrain
from jalm.stages.pretrain import TrainingError

torch.set_num_threads(1)  # what is this small only gets slower with more

# for each RECIPE, the losses of each of CASES
RECORDED = {
    3: {
        "gpt2": [5.69087, 5.59303, 5.54903, 5.49583, 5.59302, 5.60189, 5.4883, 5.16998],
        "gpt2 with dropout": [5.69211, 5.59617, 5.54505, 5.47938, 5.64428, 5.57177, 5.50821, 5.16143],
        "gpt2 by Muon": [5.69087, 5.61045, 5.54928, 5.41498, 5.66104, 5.62179, 5.52195, 5.22378],
        "gpt2, linear, two epochs": [5.69059, 5.64571, 5.54831, 5.40401, 5.3416, 5.12701, 5.07476, 4.94758],
        "gpt2, cosine, one corpus and half of another": [
            5.71649,
            5.60318,
            5.60941,
            5.47718,
            5.59091,
            5.38186,
            5.66698,
            5.57839,
        ],
        "gpt_neo": [5.71876, 5.65411, 5.55183, 5.48189, 5.64399, 5.59147, 5.46396, 5.25265],
        "llama": [5.70561, 5.64261, 5.49726, 5.35292, 5.49295, 5.51615, 5.49265, 5.25096],
        "roberta": [5.74121, 5.77035, 5.71966, 5.67255, 5.82496, 5.86229, 5.84994, 5.69914],
        "roberta, whole words": [5.69824, 5.69627, 5.70561, 5.68391, 5.78321, 5.88303, 5.80172, 5.63557],
        "bert": [6.42358, 5.72326, 6.26939, 6.59594, 6.71901, 5.79624, 6.62083, 6.2772],
        "modernbert": [5.74166, 5.73246, 5.69526, 5.70567, 5.79454, 5.80153, 5.82549, 5.63192],
    }
}
CASES = {
    "gpt2 with dropout": {"dropout": 0.1},
    "gpt2 by Muon": {"optim": "muon"},
    "gpt2, linear, two epochs": {
        "lr_scheduler_type": "linear",
        "global_batch_size": 16,
        "per_device_train_batch_size": 16,
    },
    "gpt2, cosine, one corpus and half of another": {"lr_scheduler_type": "cosine", "corpora": {"a": 1.0, "b": 0.5}},
    "roberta, whole words": {"whole_word_mask": True},
}
SETTINGS = {
    "block_size": 16,
    "global_batch_size": 4,
    "per_device_train_batch_size": 4,
    "max_steps": 8,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "warmup_stable_decay",
    "warmup_steps": 2,
    "decay_fraction": 0.25,
    "weight_decay": 0.1,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "mlm_probability": 0.3,
    "seed": 42,
}


def losses_of(folder) -> list[float]:
    """Training loss of each step."""
    return [record["loss"] for record in log_of(folder) if "loss" in record]


def state_of(folder):
    """The one training state in a folder."""
    (state,) = (folder / "states").iterdir()
    return state


# ---- pure functions


def test_the_state_of_a_training_is_found_again_by_what_it_learns(tiny):
    def key(**knobs):
        return pretrain.state_key(tiny.config("gpt2", **knobs), [tiny.shards["train"], tiny.shards["valid"]])[0]

    assert key() == key(save_steps=7, logging_steps=3, eval_steps=9, time_budget=3, per_device_train_batch_size=2)
    different = [key(), key(learning_rate=1e-3), key(seed=1), key(max_steps=41), key(corpora={"wiki": 2.0})]
    other_data = pretrain.state_key(tiny.config("gpt2"), [tiny.shards["test"], tiny.shards["valid"]])[0]
    assert len({*different, other_data}) == 6


# ---- what is learnt


@pytest.fixture
def counted(stream):
    """Shards of documents of 30 tokens in two sentences that count up by 7, in words of one and two tokens."""
    documents = [[2, *(7 + (first + 7 * np.arange(28)) % 293), 3] for first in range(40)]
    manifest = stream(np.concatenate(documents), vocab_size=300)
    np.save(manifest.parent / "index.npy", np.arange(1, 41)[:, None] * [30, 2])
    np.save(manifest.parent / "sentences.npy", np.full(80, 15, dtype="<u4"))
    (manifest.parent / "000.words").write_bytes(np.packbits(np.arange(1200) % 30 % 3 != 1, bitorder="little").tobytes())
    manifest.write_text(
        json.dumps(json.loads(manifest.read_text(encoding="utf-8")) | {"word_starts": True}), encoding="utf-8"
    )
    return manifest


@pytest.mark.parametrize("case", RECORDED[pretrain.RECIPE])
def test_what_is_learnt_is_what_was_recorded_for_this_recipe(tiny, counted, tmp_path, case):
    """Where the losses are meant to change, raise RECIPE and record what it gives; processors round apart by 1.3e-4 (Muon)."""
    knobs = SETTINGS | CASES.get(case, {})
    if "dropout" in knobs and not torch.backends.mkl.is_available():
        pytest.skip("without MKL, torch draws other dropout masks")
    config = tiny.config(re.match(r"\w+", case)[0], **knobs)
    paths = [counted] * len(config.corpora)
    output = tiny.pretrain(config, tmp_path, train=paths, valid=paths)
    assert losses_of(output) == pytest.approx(RECORDED[pretrain.RECIPE][case], abs=5e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "roberta", "bert"])
def test_accumulated_gradients_are_those_of_the_whole_batch(tiny, tmp_path, architecture):
    logs = []
    for size in (8, 2):
        config = tiny.config(architecture, per_device_train_batch_size=size, max_steps=20)
        logs.append(log_of(tiny.pretrain(config, tmp_path / str(size))))
    assert len(logs[0]) == 21
    for whole, accumulated in zip(*logs, strict=True):
        assert whole.keys() == accumulated.keys()
        for name, value in whole.items():
            assert accumulated[name] == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "roberta"])
def test_a_model_learns_from_knowing_nothing(tiny, counted, tmp_path, architecture):
    config = tiny.config(architecture, max_steps=150, warmup_steps=10, mlm_probability=0.3)
    losses = losses_of(tiny.pretrain(config, tmp_path, train=counted, valid=counted))
    assert losses[0] == pytest.approx(math.log(300), abs=0.1)
    assert losses[-1] < losses[0] - 1


def test_the_last_validation_is_the_loss_of_the_published_model(tiny, tmp_path):
    output = tiny.pretrain(tiny.config("gpt2", max_steps=3), tmp_path)
    model = AutoModelForCausalLM.from_pretrained(output).eval()
    tokens = np.concatenate([np.fromfile(tiny.shards["valid"].parent / f"00{n}.bin", dtype="<u2") for n in (0, 1)])
    tokens, nats = torch.from_numpy(tokens.astype(np.int64)), 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, 32):
            window = tokens[start : start + 33]
            logits = model(input_ids=window[None, :-1]).logits[0]
            nats += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
    assert log_of(output)[-1]["valid_loss"] == pytest.approx(nats / (len(tokens) - 1), rel=1e-5)


def test_the_record_of_a_training_says_what_it_took(tiny):
    record = json.loads((tiny.model("roberta") / "training.json").read_text(encoding="utf-8"))
    model = AutoModelForMaskedLM.from_pretrained(tiny.model("roberta"))
    assert record["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert (record["steps"], record["tokens"]) == (40, 40 * 8 * 32)
    assert record["versions"]["torch"] == torch.__version__


# ---- interrupted trainings

KINDS = {"gpt2": "adamw", "roberta": "muon", "bert": "muon"}  # architecture to optimizer
LONG = {"max_steps": 120, "save_steps": 30, "eval_steps": 25, "save_total_limit": 2}


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    """Logs of trainings of 120 steps that nobody disturbed."""
    made = {}
    for architecture, optim in KINDS.items():
        folder = tmp_path_factory.mktemp(f"undisturbed-{architecture}")
        made[architecture] = log_of(tiny.pretrain(tiny.config(architecture, 0.1, optim=optim, **LONG), folder))
    return made


def start(tiny, config, folder) -> subprocess.Popen:
    """The stage as a process of its own."""
    command = [sys.executable, "-m", "jalm", "pretrain", *tiny.training(config, folder)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("architecture", KINDS)
def test_a_killed_training_goes_on_as_if_nothing_had_happened(tiny, tmp_path, undisturbed, architecture):
    config = tiny.config(architecture, dropout=0.1, optim=KINDS[architecture], **LONG)
    with start(tiny, config, tmp_path) as process:
        wait_for(45, tmp_path, process)  # behind the checkpoint of step 30
        process.kill()
    state = state_of(tmp_path)
    assert not (state / "final").exists()
    assert not (tmp_path / "output").exists()
    assert 30 <= checkpoints.newest(state, pytest.fail) < 120
    assert log_of(tiny.pretrain(config, tmp_path)) == undisturbed[architecture]


def test_a_training_killed_again_and_again_while_it_saves_goes_on_each_time(tiny, tmp_path, undisturbed):
    config = tiny.config("gpt2", dropout=0.1, **LONG | {"save_steps": 1})  # most of its time it writes a checkpoint
    for lines in (20, 60, 100):
        with start(tiny, config, tmp_path) as process:
            wait_for(lines, tmp_path, process)
            process.kill()
        assert checkpoints.newest(state_of(tmp_path), pytest.fail) >= lines - 10
    assert log_of(tiny.pretrain(config, tmp_path)) == undisturbed["gpt2"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_training_that_is_told_to_end_saves_and_goes_on_in_the_next_run(tiny, tmp_path, undisturbed, number):
    config = tiny.config("gpt2", dropout=0.1, **LONG | {"save_steps": 1000})
    with start(tiny, config, tmp_path) as process:
        wait_for(1, tmp_path, process)
        process.send_signal(number)
        _, printed = process.communicate()
    assert process.returncode == 75
    (saved,) = checkpoints.steps(state_of(tmp_path))
    assert printed.endswith(
        f"pretrain: told to stop by {number.name}; saved at step {saved} of 120, run again to go on\n"
    )
    assert "Traceback" not in printed
    assert not (tmp_path / "output").exists()
    assert log_of(tiny.pretrain(config, tmp_path)) == undisturbed["gpt2"]


def test_a_training_whose_time_is_up_saves_and_goes_on_in_the_next_run(tiny, tmp_path, undisturbed):
    config = tiny.config("gpt2", dropout=0.1, **LONG | {"save_steps": 1000})
    short = config.model_copy(update={"time_budget": 1e-6})  # minutes: gone before the first step ends
    for saved in (1, 2):
        with start(tiny, short, tmp_path) as process:
            _, printed = process.communicate()
        assert process.returncode == 75
        assert printed.endswith(f"pretrain: time is up; saved at step {saved} of 120, run again to go on\n")
    assert log_of(tiny.pretrain(config, tmp_path)) == undisturbed["gpt2"]


def test_a_signal_that_tells_of_the_end_of_a_job_puts_it_back_into_the_queue(tiny, tmp_path, monkeypatch):
    asked = tmp_path / "asked"
    for name in ("squeue", "scontrol"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {asked}\necho rule_pretrain\n', encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for number, requeued in ((signal.SIGTERM, False), (signal.SIGUSR1, True)):
        folder = tmp_path / number.name
        with start(tiny, tiny.config("gpt2", **LONG), folder) as process:
            wait_for(1, folder, process)
            process.send_signal(number)
            process.communicate()
        assert process.returncode == 75
        assert ("scontrol requeue 7" in asked.read_text(encoding="utf-8")) == requeued


def test_what_nohup_ignores_ends_no_training(tiny, tmp_path):
    command = [sys.executable, "-m", "jalm", "pretrain", *tiny.training(tiny.config("gpt2", **LONG), tmp_path)]
    with subprocess.Popen(["nohup", *command], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        wait_for(1, tmp_path, process)
        process.send_signal(signal.SIGHUP)
        process.communicate()
    assert process.returncode == 0


def test_time_is_left_for_the_next_validation_and_for_the_first_by_its_blocks(tiny, tmp_path):
    config, sides = tiny.config("gpt2", eval_steps=10), [[Shards(tiny.shards[side])] for side in ("train", "valid")]
    trainer = pretrain.Trainer(config, *sides, tmp_path, None, math.inf)
    steps = sides[1][0].tokens // 32 / 8  # that a validation takes the time of, at most
    for seconds, stops in [(100 * (1 + steps) + 5, False), (100 * (1 + steps) - 5, True)]:
        trainer.ends, trainer.told_to_stop = time.monotonic() + seconds, ""
        assert (trainer._stopping(9, 100.0), trainer.slowest_step) == ("time is up" if stops else "", 100)
    trainer.told_to_stop = ""
    assert trainer._stopping(8, 100.0) == ""  # the step after it does not validate
    trainer.slowest_validation = 1.0
    assert trainer._stopping(9, 100.0) == ""


def test_a_training_that_was_taken_over_ends_without_saving(tiny, tmp_path, monkeypatch):

    def taken(path):
        (path.parents[1] / "lock").write_text('{"process": 7, "host": "n2", "job": "45"}', encoding="utf-8")

    monkeypatch.setattr(checkpoints, "forget", lambda state, *_: taken(checkpoints.checkpoint(state, 0)))
    with pytest.raises(lock.LockError, match="was taken over by another process"):
        tiny.pretrain(tiny.config("gpt2", save_steps=5, max_steps=50), tmp_path)
    assert checkpoints.steps(state_of(tmp_path)) == [5]
    assert not (tmp_path / "output").exists()


def test_a_finished_training_is_published_without_training(tiny, tmp_path, monkeypatch):
    config = tiny.config("gpt2", max_steps=2)
    output = tiny.pretrain(config, tmp_path)
    log = log_of(output)
    shutil.rmtree(output)
    monkeypatch.setattr(pretrain, "Trainer", None)
    tiny.pretrain(config.model_copy(update={"save_steps": 5}), tmp_path)
    assert log_of(output) == log
    assert (output / "model.safetensors").samefile(state_of(tmp_path) / "final/model.safetensors")


def test_a_damaged_end_is_made_again_from_the_last_checkpoint(tiny, tmp_path, monkeypatch):
    config = tiny.config("gpt2", max_steps=2)
    weights = tiny.pretrain(config, tmp_path) / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + b"\0\0\0\0")  # the same file as in the state
    monkeypatch.setattr(pretrain.Trainer, "step", None)
    assert (tiny.pretrain(config, tmp_path) / "model.safetensors").read_bytes() == content


def test_a_training_whose_checkpoints_are_all_corrupt_says_that_it_begins_again(tiny, tmp_path, caplog):
    config = tiny.config("gpt2", max_steps=3, save_steps=1)
    with caplog.at_level("INFO", logger="jalm"):
        log = log_of(tiny.pretrain(config, tmp_path))
        assert "again" not in caplog.text
        shutil.rmtree(state_of(tmp_path) / "final")
        for folder in (state_of(tmp_path) / "checkpoints").iterdir():
            (folder / "model.safetensors").write_bytes(b"")
        assert log_of(tiny.pretrain(config, tmp_path)) == log
    assert caplog.text.count("is corrupt and is passed over") == 2
    assert not list(tmp_path.rglob("*.corrupt"))  # the end of the training took them away
    assert "has no checkpoint to go on from: the training begins again at step 0" in caplog.text


@pytest.mark.parametrize(
    ("precision", "optim", "advice"),
    [
        ("bf16", "adamw", "mixed_precision to 'no'"),
        ("bf16", "muon", "mixed_precision to 'no' and optim to adamw"),
        ("no", "muon", "optim to adamw"),  # which computes in bf16 whatever the precision
        ("no", "adamw", ""),
    ],
)
def test_a_cpu_that_is_slow_in_bf16_is_told(tiny, tmp_path, monkeypatch, caplog, precision, optim, advice):
    monkeypatch.setattr(machine, "matmul_peak", lambda _, kind: 5e8 if kind == torch.bfloat16 else 2e10)
    with caplog.at_level("INFO", logger="jalm"):
        tiny.pretrain(tiny.config("gpt2", mixed_precision=precision, optim=optim, max_steps=1), tmp_path)
    told = [line for line in caplog.messages if line.startswith("bf16 is")]
    assert told == ([f"bf16 is 40 times as slow as full precision on this CPU; set {advice}"] if advice else [])


@pytest.mark.parametrize("architecture", ["gpt2", "roberta"])
def test_a_training_in_bf16_goes_on_from_a_checkpoint_to_the_last_bit(tiny, tmp_path, architecture):
    config = tiny.config(architecture, mixed_precision="bf16", max_steps=12, save_steps=4, save_total_limit=3)
    losses = losses_of(tiny.pretrain(config, tmp_path))
    state = state_of(tmp_path)
    for folder in (state / "final", checkpoints.checkpoint(state, 12), checkpoints.checkpoint(state, 8)):
        shutil.rmtree(folder)
    assert losses_of(tiny.pretrain(config, tmp_path)) == losses
    exact = losses_of(tiny.pretrain(tiny.config(architecture, max_steps=12), tmp_path / "fp32"))
    assert losses != exact
    np.testing.assert_allclose(losses, exact, rtol=0.05)


def test_the_last_checkpoints_are_kept(tiny, tmp_path):
    tiny.pretrain(tiny.config("gpt2", max_steps=9, save_steps=2, save_total_limit=3), tmp_path)
    assert checkpoints.steps(state_of(tmp_path)) == [6, 8, 9]


def test_the_best_checkpoint_and_every_so_many_are_kept_too(tiny, tmp_path, monkeypatch):
    losses = iter([4.0, 3.0, 5.0, 6.0, 7.0])  # at steps 2, 4, …
    monkeypatch.setattr(pretrain.Trainer, "validate", lambda _: {"valid_loss": next(losses)})
    knobs = {"save_steps": 2, "eval_steps": 2, "keep_steps": 6, "save_total_limit": 1, "lr_scheduler_type": "linear"}
    tiny.pretrain(tiny.config("gpt2", max_steps=10, **knobs), tmp_path)
    assert checkpoints.steps(state_of(tmp_path)) == [4, 6, 10]


def test_another_batch_per_device_goes_on_with_the_same_training(tiny, tmp_path):
    config = tiny.config("roberta", max_steps=24, save_steps=8, save_total_limit=3)
    whole = losses_of(tiny.pretrain(config, tmp_path))
    state = state_of(tmp_path)
    for folder in (state / "final", checkpoints.checkpoint(state, 24), checkpoints.checkpoint(state, 16)):
        shutil.rmtree(folder)
    shutil.rmtree(checkpoints.checkpoint(state, 20))  # where the learning rate begins to fall
    changed = losses_of(tiny.pretrain(config.model_copy(update={"per_device_train_batch_size": 2}), tmp_path))
    assert changed[8:] != whole[8:]
    assert changed == pytest.approx(whole, abs=1e-5)


def test_a_second_training_of_the_same_state_is_refused(tiny, tmp_path):
    config = tiny.config("gpt2", max_steps=2)
    key, _ = pretrain.state_key(config, [tiny.shards["train"], tiny.shards["valid"]])
    with (
        lock.locked(tmp_path / "states" / key, print),
        pytest.raises(lock.LockError, match="being written"),
    ):
        tiny.pretrain(config, tmp_path)


# ---- what cannot be trained


def test_too_few_tokens_are_refused_with_their_number(tiny, stream, tmp_path):
    few = stream(range(7, 38))
    with pytest.raises(TrainingError, match=r"31 tokens of train, .* have 0 blocks of block_size 32; lower block_size"):
        tiny.pretrain(tiny.config("gpt2"), tmp_path, train=few, valid=few)


def test_fewer_blocks_than_a_step_takes_are_refused_with_both_numbers(tiny, counted, tmp_path):
    config = tiny.config("gpt2", global_batch_size=40, corpora={"wiki": 1.02})  # 1,200 tokens, of which 37 blocks
    with pytest.raises(TrainingError, match=r"1,200 tokens of train, .* have 38 blocks of .* 32, fewer than the 40 of"):
        tiny.pretrain(config, tmp_path, train=counted, valid=counted)
    tiny.pretrain(
        config.model_copy(update={"global_batch_size": 38, "per_device_train_batch_size": 38, "max_steps": 1}),
        tmp_path,
        train=counted,
        valid=counted,
    )


def test_a_corpus_whose_share_is_no_block_is_told(tiny, counted, tmp_path, caplog):
    config = tiny.config("gpt2", corpora={"全部": 1, "少し": 0.01}, max_steps=1)
    with caplog.at_level("INFO", logger="jalm"):
        tiny.pretrain(config, tmp_path, train=[counted, counted], valid=[counted, counted])
    assert "少し is not used: 1,200 tokens, 0.01 times, are no block of 32" in caplog.text
    assert "全部 is not used" not in caplog.text


def test_manifests_that_are_not_those_of_the_corpora_are_refused(tiny, counted, tmp_path):
    with pytest.raises(TrainingError, match=r"--train has 1 manifests and --valid 1, where --corpora names 2: a, b"):
        tiny.pretrain(tiny.config("gpt2", corpora={"a": 1, "b": 1}), tmp_path, train=counted, valid=counted)


def test_out_of_memory_says_what_to_lower(tiny, tmp_path, monkeypatch):
    def full(*_):
        torch.empty(1 << 50)

    monkeypatch.setattr(pretrain.Trainer, "_backward", full)
    with pytest.raises(
        TrainingError, match=r"out of memory .*; lower per_device_train_batch_size, now 8, or set gradient"
    ):
        tiny.pretrain(tiny.config("gpt2"), tmp_path)


def test_shards_of_two_tokenizers_are_refused(tiny, stream, tmp_path):
    paths = [stream(range(7, 200), tokenizer=name, name=name) for name in ("一", "二")]
    config = tiny.config("gpt2", corpora={"a": 1, "b": 1})
    with pytest.raises(TrainingError, match=r"the shards come from 2 tokenizers: .*一.*二"):
        tiny.pretrain(config, tmp_path, train=paths, valid=paths)


@pytest.mark.parametrize("architecture", ["gpt2", "roberta"])
def test_a_loss_that_is_no_number_ends_the_training_and_keeps_the_last_checkpoint(tiny, tmp_path, architecture):
    config = tiny.config(architecture, learning_rate=1e38, save_steps=1, eval_steps=1000)
    with pytest.raises(TrainingError, match=r"step 2: the loss is no number in process 0, blocks \[8, 9, .*, 15\], "):
        tiny.pretrain(config, tmp_path)
    assert checkpoints.newest(state_of(tmp_path), pytest.fail) == 1
    assert not (tmp_path / "output").exists()


# ---- longer, from another model, in other ways


def test_a_longer_training_goes_on_from_the_last_step_that_it_shares_with_a_finished_one(tiny, tmp_path, caplog):
    short, long = (tiny.config("gpt2", dropout=0.1, max_steps=steps, decay_fraction=0.25) for steps in (20, 32))
    undisturbed = log_of(tiny.pretrain(long, tmp_path / "alone"))
    tiny.pretrain(short, tmp_path)
    with caplog.at_level("INFO", logger="jalm"):
        assert log_of(tiny.pretrain(long, tmp_path)) == undisturbed
    assert "going on from the checkpoint of step 16" in caplog.text  # the rate falls from the step after it


def test_what_trained_each_part_is_recorded_and_what_changed_is_told(tiny, tmp_path, caplog):
    short, long = (tiny.config("gpt2", max_steps=steps, decay_fraction=0.25) for steps in (4, 8))
    tiny.pretrain(short, tmp_path, code="stages.pretrain@1")
    with caplog.at_level("INFO", logger="jalm"):
        output = tiny.pretrain(long, tmp_path, code="stages.pretrain@2")
    assert "code changed since this training was last run: stages.pretrain@1 is now stages.pretrain@2" in caplog.text
    runs = json.loads((output / "settings.json").read_text(encoding="utf-8"))["runs"]
    assert [(run["from_step"], run["code"]) for run in runs] == [(0, "stages.pretrain@1"), (4, "stages.pretrain@2")]
    assert all(run["versions"]["torch"] == torch.__version__ for run in runs)


@pytest.mark.parametrize("course", ["linear", "cosine"])
def test_a_longer_training_begins_anew_where_the_learning_rate_was_another_from_the_start(
    tiny, tmp_path, caplog, course
):
    for steps in (4, 8):
        with caplog.at_level("INFO", logger="jalm"):
            tiny.pretrain(tiny.config("gpt2", max_steps=steps, lr_scheduler_type=course), tmp_path)
    assert "going on" not in caplog.text


def test_a_training_starts_from_another_model(tiny, tmp_path):
    first = tiny.model("gpt2")
    known = log_of(first)[-1]["valid_loss"]
    config = tiny.config("gpt2", max_steps=2, learning_rate=1e-9, eval_steps=1, init_model=str(first))
    assert log_of(tiny.pretrain(config, tmp_path))[-1]["valid_loss"] == pytest.approx(known, abs=1e-4)


def test_weights_that_changed_at_their_place_are_another_training(tiny, tmp_path):
    folder = shutil.copytree(tiny.model("gpt2"), tmp_path / "最初")
    config, manifests = tiny.config("gpt2", init_model=str(folder)), [tiny.shards["train"]]
    before, _ = pretrain.state_key(config, manifests)
    (folder / "model.safetensors").write_bytes(b"")
    assert pretrain.state_key(config, manifests)[0] != before


def test_weights_that_only_lie_about_are_not_what_a_training_starts_from(tiny, tmp_path, monkeypatch):
    config, manifests = tiny.config("gpt2"), [tiny.shards["train"]]
    before, _ = pretrain.state_key(config, manifests)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "別.safetensors").write_bytes(b"")
    assert pretrain.state_key(config, manifests)[0] == before


def test_a_first_model_of_another_tokenizer_is_refused(tiny, stream, tmp_path):
    exported, trained = tiny.exported("gpt2"), tiny.model("gpt2")
    other = stream(range(7, 200), vocab_size=2000, tokenizer="another")
    for folder in (exported, trained):
        with pytest.raises(TrainingError, match=r"gpt2.* has another tokenizer than the shards .*pin\.tokenizer"):
            tiny.pretrain(tiny.config("gpt2", init_model=str(folder)), tmp_path, train=other, valid=other)


@pytest.mark.parametrize(
    "knobs", [{"per_device_train_batch_size": "auto"}, {"gradient_checkpointing": True}, {"full_determinism": True}]
)
def test_a_way_to_train_that_changes_no_result_gives_the_losses_of_the_plain_one(tiny, tmp_path, knobs):
    plain, other = (
        log_of(tiny.pretrain(tiny.config("gpt2", max_steps=5, **more), tmp_path / name))
        for name, more in (("plain", {}), ("other", knobs))
    )
    torch.use_deterministic_algorithms(False)
    assert [record["grad_norm"] for record in other[:-1]] == pytest.approx(
        [record["grad_norm"] for record in plain[:-1]], abs=1e-6
    )
    assert losses_of(tmp_path / "other/output") == pytest.approx(losses_of(tmp_path / "plain/output"), abs=1e-6)


@pytest.fixture
def scaled(monkeypatch):
    """Gradients are scaled as in fp16, which a CPU does not have."""
    made = pretrain._accelerator

    def accelerator(config, state):
        found = made(config, state)
        found.scaler = torch.amp.GradScaler("cpu", init_scale=1024)
        found.unscale_gradients = lambda *_: [found.scaler.unscale_(o.optimizer) for o in found._optimizers]
        return found

    monkeypatch.setattr(pretrain, "_accelerator", accelerator)


@pytest.mark.parametrize(("largest", "size"), [(1, 1), (5, 4), (8, 8), (0, 1)])
def test_the_largest_batch_that_fits_divides_the_rows_of_a_step(tiny, tmp_path, monkeypatch, largest, size):
    tried = []
    monkeypatch.setattr(pretrain.Trainer, "_fits", lambda _, rows: tried.append(rows) or rows <= largest)
    monkeypatch.setattr(pretrain, "_accelerator", lambda *_: accelerate.Accelerator())
    trainer = pretrain.Trainer(
        tiny.config("gpt2"), *[[Shards(tiny.shards[side])] for side in ("train", "valid")], tmp_path, None, math.inf
    )
    monkeypatch.setattr(type(trainer.accelerator), "device", torch.device("cuda"))
    assert trainer._largest_batch() == size
    assert len(tried) <= 3  # of 1, 2, 4 and 8


def test_scaled_gradients_of_two_optimizers_are_unscaled_once(tiny, tmp_path, request):
    config = tiny.config("gpt2", optim="muon", max_steps=8)
    plain = log_of(tiny.pretrain(config, tmp_path / "plain"))
    request.getfixturevalue("scaled")
    log = log_of(tiny.pretrain(config, tmp_path / "scaled"))
    assert log[0].pop("loss_scale") == 1024
    for name in ("loss", "grad_norm"):
        wanted = [line[name] for line in plain if name in line]
        assert [line[name] for line in log if name in line] == pytest.approx(wanted, abs=1e-4)


def test_a_step_whose_scaled_gradients_overflow_is_left_out_and_told(tiny, tmp_path, scaled, monkeypatch, caplog):
    backward = pretrain.Trainer._backward

    def overflowing(self, *args):
        made = backward(self, *args)
        next(self.model.parameters()).grad.fill_(math.inf)
        return made

    monkeypatch.setattr(torch.amp.GradScaler, "get_scale", lambda _: 1024.0)
    monkeypatch.setattr(pretrain.Trainer, "_backward", overflowing)
    knobs = {"optim": "muon", "max_steps": 4, "eval_steps": 1}
    with caplog.at_level("INFO", logger="jalm"):
        log = log_of(tiny.pretrain(tiny.config("gpt2", **knobs), tmp_path / "overflow"))
    assert "step 4 changes nothing: its gradients overflowed in fp16; the loss is now scaled by 1024" in caplog.text
    assert [line["grad_norm"] for line in log if "grad_norm" in line] == [None] * 4
    assert len({line["valid_loss"] for line in log if "valid_loss" in line}) == 1


def test_a_precision_that_the_machine_does_not_have_is_refused(tiny, tmp_path):
    with pytest.raises(TrainingError, match="mixed_precision is fp16, for which cpu has no scaling"):
        tiny.pretrain(tiny.config("gpt2", mixed_precision="fp16"), tmp_path)


def test_a_tracker_that_is_not_installed_is_refused(tiny, tmp_path):
    with pytest.raises(TrainingError, match="report_to has wandb, which is not installed; pip install wandb"):
        tiny.pretrain(tiny.config("gpt2", report_to=["wandb"]), tmp_path)


def test_tensorboard_shows_what_the_log_has(tiny, tmp_path):
    output = tiny.pretrain(tiny.config("gpt2", max_steps=3, report_to=["tensorboard"]), tmp_path)
    shown = EventAccumulator(str(state_of(tmp_path) / "jalm")).Reload()
    assert [scalar.value for scalar in shown.Scalars("loss")] == pytest.approx(losses_of(output))
    assert [scalar.step for scalar in shown.Scalars("learning_rate")] == [1, 2, 3]
    assert {"valid_loss", "grad_norm", "tokens_per_second", "mfu", "memory_gib"} <= set(shown.Tags()["scalars"])


def test_the_validation_tells_the_loss_by_the_place_in_the_block(tiny):
    record = log_of(tiny.model("gpt2"))[-1]
    assert len(record["valid_loss_by_position"]) == 8
    assert np.mean(record["valid_loss_by_position"]) == pytest.approx(record["valid_loss"], rel=0.01)
    assert "valid_loss_by_position" not in log_of(tiny.model("roberta"))[-1]


def test_the_log_says_what_the_machine_did(tiny):
    (first, *_) = (tiny.model("gpt2") / "log.jsonl").read_text(encoding="utf-8").splitlines()
    record = json.loads(first)
    assert record["tokens_per_second"] > 0
    assert 0 < record["mfu"] < 1
    assert 0.1 < record["memory_gib"] < 100


def test_what_a_training_was_of_lies_beside_its_model(tiny):
    settings = json.loads((tiny.model("gpt2") / "settings.json").read_text(encoding="utf-8"))
    assert "--learning-rate=0.005" in settings["flags"]
    assert settings["recipe"] == pretrain.RECIPE
    assert settings["inputs"] == [digest(tiny.shards["train"]), digest(tiny.shards["valid"])]
    assert settings["runs"][-1]["compiled"] is False


# ---- compiled


@pytest.mark.parametrize(
    ("knobs", "reason"), [({"torch_compile": "false"}, "torch_compile is false"), ({}, "the training is short")]
)
def test_a_training_that_is_not_compiled_says_why(tiny, tmp_path, caplog, knobs, reason):
    with caplog.at_level("INFO", logger="jalm"):
        tiny.pretrain(tiny.config("gpt2", max_steps=1, **knobs), tmp_path)
    assert f"torch.compile: no, {reason}" in caplog.text


def test_compiling_without_a_compiler_is_refused_and_done_without_by_auto(tiny, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(machine, "no_compiler", lambda _: "there is no C++ compiler")
    monkeypatch.setattr(pretrain, "SHORT", {"cpu": 0})
    with pytest.raises(TrainingError, match=r"torch_compile is true, but there is no C\+\+ compiler; set .* to auto"):
        tiny.pretrain(tiny.config("gpt2", torch_compile="true"), tmp_path)
    with caplog.at_level("INFO", logger="jalm"):
        tiny.pretrain(tiny.config("gpt2", max_steps=1), tmp_path)
    assert "torch.compile: no, there is no C++ compiler" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "optim"), [("gpt2", "adamw"), ("gpt2", "muon"), ("roberta", "muon"), ("bert", "adamw")]
)
def test_a_killed_compiled_training_goes_on_to_the_last_bit(tiny, tmp_path, architecture, optim):
    knobs = {"optim": optim, "torch_compile": "true", "max_steps": 60, "save_steps": 20, "eval_steps": 25}
    config = tiny.config(architecture, dropout=0.1, **knobs)
    undisturbed = log_of(tiny.pretrain(config, tmp_path / "whole"))
    with start(tiny, config, tmp_path) as process:
        wait_for(30, tmp_path, process)
        process.kill()
    assert 20 <= checkpoints.newest(state_of(tmp_path), pytest.fail) < 60
    assert log_of(tiny.pretrain(config, tmp_path)) == undisturbed
