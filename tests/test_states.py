import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from kill import killed_before

from jalm import cli
from jalm.commands import states
from jalm.commands.states import StatesError
from jalm.formats import checkpoints, lock
from jalm.stages.pretrain import TrainingError

NOON = 1_790_000_000  # 2026-09-21 14:13:20 UTC
FLAGS = """--architecture=gpt2 '--config={"n_layer": %d, "n_embd": 128}' --max-steps=%d --learning-rate=%s --corpora='{"猫 1": 1.0}'"""
HOLD = """
import sys
from pathlib import Path
from jalm.formats.lock import locked
with locked(Path(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""


class Folder:
    """A folder in which models were trained; every file was written at the hour of its state."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "states").mkdir(parents=True)

    def state(self, key, steps=(), model="gpt2-猫", hour=0, layers=2, max_steps=40, rate="0.001", final=b"") -> Path:
        state = self.root / "states" / model / (key * 16)
        state.mkdir(parents=True)
        settings = {
            "flags": FLAGS % (layers, max_steps, rate),
            "recipe": 2,
            "inputs": ["0123456789abcdef"],
            "code": key,
        }
        (state / "settings.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
        for step in steps:
            with checkpoints.writing(checkpoints.checkpoint(state, step)) as folder:
                (folder / "model.bin").write_bytes(bytes(1000))
        lines = [{"step": step, "valid_loss": 5 - step / 100} for step in steps]
        (state / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        if final:
            with checkpoints.writing(state / "final") as folder:
                (folder / "model.bin").write_bytes(final)
        (state / "lock").touch()
        self.at(hour, state)
        return state

    @staticmethod
    def at(hour, *folders) -> None:
        for path in (one for folder in folders for one in (folder, *folder.rglob("*"))):
            os.utime(path, (NOON + 3600 * hour,) * 2)

    def publish(self, state) -> Path:
        output = self.root / "results/pretrain" / state.parent.name
        output.parent.mkdir(parents=True, exist_ok=True)
        checkpoints.publish(state / "final", output)
        return output

    def call(self, capsys, *options) -> str:
        states.main(["--states", str(self.root / "states"), *options])
        return capsys.readouterr().out

    def records(self, capsys, *options) -> dict[str, dict]:
        """By key, or name of what is no state."""
        lines = self.call(capsys, "--json", *options).splitlines()
        return {
            Path(one["path"]).name[:9].rstrip("0123456789abcdef") or one["key"][0]: one
            for one in map(json.loads, lines)
        }

    def keys(self, model="gpt2-猫") -> str:
        return "".join(sorted(path.name[0] for path in (self.root / "states" / model).iterdir()))


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path / "作業 folder")


def apparent(path) -> int:
    """Bytes of a folder's files, hard links once, as du has it."""
    printed = subprocess.run(["du", "-sb", path], capture_output=True, text=True, check=True).stdout
    folders = [one for one in (path, *path.rglob("*")) if one.is_dir()]
    return int(printed.split()[0]) - sum(one.lstat().st_size for one in folders)


# ---- listing


def test_each_state_is_listed_with_what_was_trained_and_how_it_differs_from_the_newest(folder, capsys):
    folder.state("a", (10, 20), layers=12, rate="0.0006")
    folder.state("b", (30,), hour=1)
    listed = folder.records(capsys)
    assert list(listed) == ["b", "a"]
    a, b = listed["a"], listed["b"]
    assert (a["model"], a["key"], a["kind"]) == ("gpt2-猫", "a" * 16, "state")
    assert (a["step"], a["max_steps"], a["valid_loss"]) == (20, 40, 4.8)
    assert a["written"] == "2026-09-21T14:13:20Z"
    assert a["differences"] == {"config.n_layer": ["12", "2"], "learning_rate": ["0.0006", "0.001"]}
    assert (a["current"], b["current"], b["differences"]) == (False, True, {})
    assert (a["finished"], a["published"], a["holder"], a["unneeded"]) == (False, False, "", False)
    head, newest, older, total = folder.call(capsys).splitlines()
    assert head.split()[:6] == ["model", "state", "step", "of", "valid", "loss"]
    assert newest.endswith("  current")
    assert older.split()[:5] == ["gpt2-猫", "a" * 16, "20", "40", "4.8000"]
    assert older.endswith("  config.n_layer 12 → 2, learning_rate 0.0006 → 0.001")
    assert total.startswith("2 states; ")


def test_other_shards_and_another_recipe_are_differences_too(folder):
    old = {"flags": "--max-steps=5", "recipe": 1, "inputs": ["0123456789ab", "abcdef012345"]}
    new = {"flags": "--max-steps=5 --seed=7", "recipe": 2, "inputs": ["0123456789ab", "fedcba987654"], "code": "x"}
    assert states.differences(old, new) == {
        "seed": ("none", "7"),
        "recipe": ("1", "2"),
        "shards": ("01234567 abcdef01", "01234567 fedcba98"),
    }


def test_a_file_with_two_names_counts_once_and_what_results_have_too_is_told(folder, capsys):
    state = folder.state("a", (40,), final=bytes(5000))
    checkpoints.publish(checkpoints.checkpoint(state, 40), checkpoints.checkpoint(state, 39))
    output = folder.publish(state)
    (record,) = folder.records(capsys).values()
    assert record["bytes"] == apparent(state)
    assert record["shared_bytes"] == apparent(output) > 5000
    assert (record["finished"], record["published"], record["step"]) == (True, True, 40)


def test_what_pretrain_leaves_is_a_current_state_that_is_published(tiny, tmp_path, capsys):
    config = tiny.config("gpt2", max_steps=3, save_steps=2, eval_steps=2)
    output = tiny.pretrain(config, tmp_path)
    log = [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    work = Folder(tmp_path / "work")
    (tmp_path / "states").rename(work.root / "states/gpt2-tiny")
    (work.root / "results/pretrain").mkdir(parents=True)
    output.rename(work.root / "results/pretrain/gpt2-tiny")
    (record,) = (json.loads(line) for line in work.call(capsys, "--json").splitlines())
    assert (record["step"], record["max_steps"]) == (3, 3)
    assert record["valid_loss"] == [line["valid_loss"] for line in log if "valid_loss" in line][-1]
    assert (record["finished"], record["published"], record["current"], record["holder"]) == (True, True, True, "")


def test_without_states_the_list_is_empty(folder, capsys):
    assert folder.call(capsys).startswith("no training states in ")
    assert folder.call(capsys, "--json", "--clean") == ""


def test_what_a_refused_start_leaves_is_not_listed_but_removed(tiny, tmp_path, capsys):
    work = Folder(tmp_path)
    with pytest.raises(TrainingError, match="fp16"):
        tiny.pretrain(tiny.config("gpt2", mixed_precision="fp16"), tmp_path / "refused")
    (refused,) = (tmp_path / "refused/states").iterdir()
    left = work.root / "states/gpt2-猫" / ("b" * 16)
    left.parent.mkdir()
    refused.rename(left)
    assert work.call(capsys).startswith("no training states in ")
    work.state("a", (20,))
    assert list(work.records(capsys)) == ["a"]
    with lock.locked(left, print):  # a training begins
        assert {key: one["current"] for key, one in work.records(capsys).items()} == {"a": True, "b": False}
        assert work.call(capsys, "--clean", "--yes").endswith("nothing to remove\n")
    assert f"removed {left}" in work.call(capsys, "--clean", "--yes")
    assert work.keys() == "a"


# ---- cleaning


def test_without_yes_nothing_is_removed_and_what_would_be_freed_is_told(folder, capsys):
    state = folder.state("a", (20,))
    folder.state("b", (30,), hour=1)
    printed = folder.call(capsys, "--clean").splitlines()
    assert printed[-2:] == [
        f"would remove {state}",
        f"would free {states.human(apparent(state))}; nothing was removed, --yes does it",
    ]
    assert folder.keys() == "ab"
    assert {key: one["unneeded"] for key, one in folder.records(capsys, "--clean").items()} == {"a": True, "b": False}


def test_the_published_and_the_newest_state_of_each_model_stay(folder, capsys):
    published = folder.state("a", (40,), final=b"A")
    folder.state("b", (40,), hour=1, final=b"B")
    folder.state("c", (10,), hour=2)
    folder.state("d", (20,), hour=3)
    other = folder.state("e", (5,), model="roberta-猫")
    output = folder.publish(published)
    folder.call(capsys, "--clean", "--yes", "--keep-finished")
    assert folder.keys() == "abd"
    assert folder.call(capsys, "--clean", "--yes").splitlines()[-2].startswith("removed ")
    assert folder.keys() == "ad"
    assert other.is_dir()
    assert checkpoints.whole(output)
    assert folder.call(capsys, "--clean", "--yes").endswith("nothing to remove\n")


def test_a_training_that_saved_nothing_yet_does_not_make_one_that_did_unneeded(folder, capsys):
    folder.state("a", (30,))
    folder.state("b", hour=1)
    folder.call(capsys, "--clean", "--yes")
    assert folder.keys() == "a"


def test_cleaning_does_not_make_a_state_newer(folder, capsys):
    """Its lock is taken for it, which is no training."""
    left = folder.state("a", (40,), final=b"A") / "checkpoints/step-000000050.n1-7.partial"
    folder.publish(left.parents[1])
    folder.state("b", (30,), hour=1)
    left.mkdir()
    (left / "model.bin").write_bytes(bytes(300))
    folder.at(0, left)
    assert f"would remove {left}\nwould free 300 B" in folder.call(capsys, "--clean")
    for _ in range(2):
        folder.call(capsys, "--clean", "--yes")
        assert folder.keys() == "ab"
        assert not left.exists()
    assert list(folder.records(capsys)) == ["b", "a"]


def test_bytes_that_another_name_keeps_are_not_freed(folder, capsys):
    """A longer training went on from the shorter one's checkpoint, by hard links."""
    short = folder.state("a", (20,))
    taken = checkpoints.checkpoint(folder.state("b", (), hour=1), 20)
    taken.parent.mkdir()
    checkpoints.publish(checkpoints.checkpoint(short, 20), taken)
    alone = apparent(short) - apparent(taken)
    assert 0 < alone < 1000
    assert f"would free {alone} B;" in folder.call(capsys, "--clean")
    folder.call(capsys, "--clean", "--yes")
    assert folder.keys() == "b"
    assert checkpoints.whole(taken)


def test_a_state_that_a_living_process_writes_to_stays_and_a_killed_one_does_not(folder, capsys):
    state = folder.state("a", (20,))
    (state / "final.n1-7.partial").mkdir()
    folder.state("b", (30,), hour=1)
    command = [sys.executable, "-c", HOLD, state]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert folder.records(capsys)["a"]["holder"] == f"process {process.pid} on {socket.gethostname()}"
        assert folder.call(capsys, "--clean", "--yes").endswith("nothing to remove\n")
        process.kill()
    folder.call(capsys, "--clean", "--yes")
    assert folder.keys() == "b"


def test_a_state_that_was_taken_up_after_it_was_listed_stays(folder, monkeypatch, capsys):
    state = folder.state("a", (20,))
    folder.state("b", (30,), hour=1)
    monkeypatch.setattr(states, "holder", lambda *_: "")
    with lock.locked(state, print):
        printed = folder.call(capsys, "--clean", "--yes")
    assert f"stays: {state} is being written by process {os.getpid()}" in printed
    entries = states.survey(folder.root / "states", folder.root / "results")
    (state / "log.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(StatesError, match="was used meanwhile"):
        states.remove(next(entry for entry in entries if entry.path == state), folder.root / "results")
    assert folder.keys() == "ab"


def test_only_what_is_old_enough_goes(folder, monkeypatch, capsys):
    folder.state("a", (10,), hour=0)
    folder.state("b", (20,), hour=48)
    folder.state("c", (30,), hour=72)
    monkeypatch.setattr(states.time, "time", lambda: NOON + 3600 * 96)
    folder.call(capsys, "--clean", "--yes", "--older-than", "3.5")
    assert folder.keys() == "bc"


def test_the_cache_of_the_compiler_is_removed_on_demand_when_nothing_is_trained(folder, capsys):
    cache = folder.root / "states/compiled/fxgraph/ab/カーネル.so"
    cache.parent.mkdir(parents=True)
    cache.write_bytes(bytes(1234))
    state = folder.state("a", (10,))
    assert "1.2 kB" in next(line for line in folder.call(capsys).splitlines() if "cache of torch.compile" in line)
    assert folder.call(capsys, "--clean", "--yes").endswith("nothing to remove\n")
    with lock.locked(state, print):
        assert folder.call(capsys, "--clean", "--yes", "--compiled").endswith("nothing to remove\n")
    assert folder.call(capsys, "--clean", "--yes", "--compiled").endswith("compiled\nfreed 1.2 kB\n")
    assert [path.name for path in (folder.root / "states").iterdir()] == ["gpt2-猫"]


def test_a_cleaning_killed_at_any_moment_leaves_a_state_or_none_and_the_next_one_ends_it(tmp_path, capsys):
    whole = None
    for number in itertools.count(1):
        folder = Folder(tmp_path / str(number))
        state = folder.state("a", (20,))
        folder.state("b", (30,), hour=1)
        whole = whole or {path.relative_to(state) for path in state.rglob("*")}
        argv = ["--states", str(folder.root / "states"), "--clean", "--yes"]
        killed = killed_before(number, states.main, argv)
        if state.exists():
            assert {path.relative_to(state) for path in state.rglob("*")} == whole
        states.main(argv)
        assert [path.name for path in state.parent.iterdir()] == ["b" * 16]
        shutil.rmtree(folder.root)
        if not killed:
            break
    assert number > 8


# ---- mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--states", "無い"], r"states: --states 無い: there is no such folder; .* --states demo/states"),
        (["--states", "states/gpt2-猫"], r"has the states of one model; use the folder above it"),
        (["--yes"], r"say what --clean does; add --clean"),
        (["--compiled"], r"add --clean"),
        (["--clean", "--older-than", "-1"], r"--older-than -1 is no number of days"),
        (["--clean", "--older-than", "nan"], r"--older-than nan is no number of days"),
    ],
)
def test_a_mistake_ends_in_one_message(folder, monkeypatch, capsys, options, message):
    folder.state("a", (10,))
    monkeypatch.chdir(folder.root)
    with pytest.raises(SystemExit, match=r"^1$"):
        cli.run(["states", *options])
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
