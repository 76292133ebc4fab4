import json
import math
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import log_of, wait_for
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from jalm.config import Pretrain
from jalm.formats import checkpoints, lock
from jalm.formats.shards import Mixture, Shards
from jalm.stages import pretrain
from jalm.stages.pretrain import TrainingError, learning_rate

torch.set_num_threads(1)  # what is this small only gets slower with more

# for each RECIPE, the losses of SETTINGS on the tokens of `counted`
RECORDED = {
    1: {
        ("gpt2", 0.0): [5.72314, 5.67714, 5.61361, 5.67965, 5.57004, 5.36533, 5.44311, 5.34822],
        ("gpt2", 0.1): [5.72177, 5.68785, 5.60569, 5.67557, 5.55865, 5.44959, 5.37777, 5.46485],
        ("roberta", 0.0): [5.71191, 5.74029, 5.61556, 5.67963, 5.7067, 5.77318, 5.62998, 5.80887],
    }
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


def schedule(**knobs) -> list[float]:
    config = Pretrain(architecture="gpt2", config={}, corpora={"wiki": 1}, learning_rate=1.0, **knobs)
    return [learning_rate(step, config) for step in range(config.max_steps)]


def test_the_learning_rate_warms_up_in_equal_steps_and_then_stays():
    assert schedule(lr_scheduler_type="constant", warmup_steps=4, max_steps=6) == [0.25, 0.5, 0.75, 1, 1, 1]


def test_the_linear_schedule_falls_to_zero_after_the_last_step():
    assert schedule(lr_scheduler_type="linear", warmup_steps=2, max_steps=7) == pytest.approx(
        [0.5, 1, 1, 0.8, 0.6, 0.4, 0.2]
    )


def test_the_cosine_schedule_is_a_half_wave():
    rates = schedule(lr_scheduler_type="cosine", warmup_steps=0, max_steps=6)
    assert rates == pytest.approx([(1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)])
    assert rates[3] == pytest.approx(0.5)


def test_warmup_stable_decay_falls_linearly_at_the_end_only():
    rates = schedule(lr_scheduler_type="warmup_stable_decay", warmup_steps=2, max_steps=20, decay_fraction=0.2)
    assert rates == pytest.approx([0.5, 1] + [1] * 15 + [0.75, 0.5, 0.25])


def test_a_longer_warmup_stable_decay_begins_as_the_shorter_one():
    short, long = (schedule(warmup_steps=5, max_steps=steps) for steps in (50, 100))
    assert short[:41] == long[:41]
    assert short[41] < long[41]


def test_a_schedule_of_nothing_but_warm_up_has_no_decay_left():
    assert schedule(lr_scheduler_type="linear", warmup_steps=3, max_steps=3) == pytest.approx([1 / 3, 2 / 3, 1])


@pytest.mark.parametrize("architecture", ["gpt2", "roberta"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_batch_of_a_step_is_the_same_in_pieces_of_any_size(tiny, architecture, size):
    mixture = Mixture([(Shards(tiny.shards["train"]), 1.0)], block_size=32, seed=42)

    def fed(**knobs):
        pieces = pretrain.batches(mixture, tiny.config(architecture, **knobs), 5, 2000, range(8))
        return torch.cat([torch.stack([piece.inputs, piece.labels]) for piece in pieces], dim=1)

    assert fed().shape == (2, 8, 32)
    assert torch.equal(fed(per_device_train_batch_size=size), fed())


def test_the_state_of_a_training_is_found_again_by_what_it_learns(tiny):
    def key(**knobs):
        return pretrain.state_key(tiny.config("gpt2", **knobs), [tiny.shards["train"], tiny.shards["valid"]])[0]

    assert key() == key(save_steps=7, logging_steps=3, eval_steps=9, time_budget=3, per_device_train_batch_size=2)
    different = [key(), key(learning_rate=1e-3), key(seed=1), key(max_steps=41), key(corpora={"wiki": 2.0})]
    other_data = pretrain.state_key(tiny.config("gpt2"), [tiny.shards["test"], tiny.shards["valid"]])[0]
    assert len({*different, other_data}) == 6


def test_going_on_under_changed_code_is_said_and_recorded(tmp_path, caplog):
    path = tmp_path / "settings.json"
    pretrain.record_settings(path, {"code": "stages.pretrain@1"})
    pretrain.record_settings(path, {"code": "stages.pretrain@1"})
    assert not caplog.records
    with caplog.at_level("INFO", logger="jalm"):
        pretrain.record_settings(path, {"code": "stages.pretrain@2"})
        pretrain.record_settings(path, {"code": "stages.pretrain@2", "newer": 1})  # a version ago it was not recorded
    assert "code changed since this training was last run: stages.pretrain@1 is now stages.pretrain@2" in caplog.text
    assert "newer changed since this training was last run: None is now 1" in caplog.text
    assert json.loads(path.read_text()) == {"code": "stages.pretrain@2", "newer": 1}


def test_the_log_is_cut_where_the_training_goes_on(tmp_path):
    lines = [json.dumps({"step": step, "loss": 1.5}) + "\n" for step in (1, 2, 2, 3)]
    (tmp_path / "log.jsonl").write_text("".join(lines) + '{"step": 4, "lo', encoding="utf-8")
    pretrain._cut_log(tmp_path / "log.jsonl", 2)
    assert (tmp_path / "log.jsonl").read_text(encoding="utf-8") == "".join(lines[:3])


# ---- what is learnt


@pytest.fixture
def counted(stream):
    """Shards of documents of 30 tokens that count up by 7."""
    documents = [[2, *(7 + (first + 7 * np.arange(28)) % 293), 3] for first in range(40)]
    return stream(np.concatenate(documents), vocab_size=300)


@pytest.mark.parametrize(("architecture", "dropout"), [("gpt2", 0.0), ("gpt2", 0.1), ("roberta", 0.0)])
def test_what_is_learnt_is_what_was_recorded_for_this_recipe(tiny, counted, tmp_path, architecture, dropout):
    """Where the losses are meant to change, raise RECIPE and record what it gives."""
    if dropout and not torch.backends.mkl.is_available():
        pytest.skip("without MKL, torch draws other dropout masks")
    output = tiny.pretrain(tiny.config(architecture, dropout, **SETTINGS), tmp_path, train=counted, valid=counted)
    assert losses_of(output) == pytest.approx(RECORDED[pretrain.RECIPE][architecture, dropout], abs=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "roberta"])
def test_accumulated_gradients_are_those_of_the_whole_batch(tiny, tmp_path, architecture):
    logs = []
    for size in (8, 2):
        config = tiny.config(architecture, per_device_train_batch_size=size, max_steps=20)
        logs.append(log_of(tiny.pretrain(config, tmp_path / str(size))))
    assert len(logs[0]) == 21
    for whole, accumulated in zip(*logs, strict=True):
        assert accumulated == pytest.approx(whole, abs=1e-5)


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

LONG = {"max_steps": 120, "save_steps": 30, "eval_steps": 25, "save_total_limit": 2}


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    """Logs of trainings of 120 steps that nobody disturbed."""
    made = {}
    for architecture in ("gpt2", "roberta"):
        folder = tmp_path_factory.mktemp(f"undisturbed-{architecture}")
        made[architecture] = log_of(tiny.pretrain(tiny.config(architecture, dropout=0.1, **LONG), folder))
    return made


def start(tiny, config, folder) -> subprocess.Popen:
    """The stage as a process of its own."""
    command = [sys.executable, "-m", "jalm", "pretrain", *tiny.training(config, folder)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("architecture", ["gpt2", "roberta"])
def test_a_killed_training_goes_on_as_if_nothing_had_happened(tiny, tmp_path, undisturbed, architecture):
    config = tiny.config(architecture, dropout=0.1, **LONG)
    with start(tiny, config, tmp_path) as process:
        wait_for(45, tmp_path, process)  # behind the checkpoint of step 30
        process.kill()
    state = state_of(tmp_path)
    assert not (state / "final").exists()
    assert not (tmp_path / "output").exists()
    assert 30 <= checkpoints.newest(state, pytest.fail) < 120
    assert log_of(tiny.pretrain(config, tmp_path)) == undisturbed[architecture]


def test_a_training_that_is_told_to_end_saves_and_goes_on_in_the_next_run(tiny, tmp_path, undisturbed):
    config = tiny.config("gpt2", dropout=0.1, **LONG | {"save_steps": 1000})
    with start(tiny, config, tmp_path) as process:
        wait_for(1, tmp_path, process)
        process.send_signal(signal.SIGTERM)
        _, printed = process.communicate()
    assert process.returncode == 1
    (saved,) = checkpoints.steps(state_of(tmp_path))
    assert printed.endswith(f"pretrain: told to stop by SIGTERM; saved at step {saved} of 120, run again to go on\n")
    assert "Traceback" not in printed
    assert not (tmp_path / "output").exists()
    assert log_of(tiny.pretrain(config, tmp_path)) == undisturbed["gpt2"]


def test_a_training_whose_time_is_up_saves_and_goes_on_in_the_next_run(tiny, tmp_path, undisturbed):
    config = tiny.config("gpt2", dropout=0.1, **LONG | {"save_steps": 1000})
    short = config.model_copy(update={"time_budget": 1e-6})  # minutes: gone before the first step ends
    for saved in (1, 2):
        with start(tiny, short, tmp_path) as process:
            _, printed = process.communicate()
        assert process.returncode == 1
        assert printed.endswith(f"pretrain: time is up; saved at step {saved} of 120, run again to go on\n")
    assert log_of(tiny.pretrain(config, tmp_path)) == undisturbed["gpt2"]


def test_a_training_that_was_taken_over_ends_without_saving(tiny, tmp_path, monkeypatch):

    def taken(path):
        (path.parents[1] / "lock").write_text('{"process": 7, "host": "n2", "job": "45"}', encoding="utf-8")

    monkeypatch.setattr(checkpoints, "forget", lambda state, keep: taken(checkpoints.checkpoint(state, 0)))
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
    with pytest.raises(TrainingError, match="31 tokens of train do not fill one block of block_size 32; lower"):
        tiny.pretrain(tiny.config("gpt2"), tmp_path, train=few, valid=few)


def test_shards_of_two_tokenizers_are_refused(tiny, stream, tmp_path):
    paths = [stream(range(7, 200), tokenizer=name, name=name) for name in ("一", "二")]
    config = tiny.config("gpt2", corpora={"a": 1, "b": 1})
    with pytest.raises(TrainingError, match=r"the shards come from 2 tokenizers: .*一.*二"):
        tiny.pretrain(config, tmp_path, train=paths, valid=paths)


@pytest.mark.parametrize("architecture", ["gpt2", "roberta"])
def test_a_loss_that_is_no_number_ends_the_training_and_keeps_the_last_checkpoint(tiny, tmp_path, architecture):
    config = tiny.config(architecture, learning_rate=1e38, save_steps=1, eval_steps=1000)
    with pytest.raises(TrainingError, match=r"at step 2; the last checkpoint was kept\. Lower learning_rate"):
        tiny.pretrain(config, tmp_path)
    assert checkpoints.newest(state_of(tmp_path), pytest.fail) == 1
    assert not (tmp_path / "output").exists()
