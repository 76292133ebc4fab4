import errno
import itertools
import json
import math
import os
import re
import shutil
from types import SimpleNamespace

import pytest
from kill import killed_before

from jalm.formats import checkpoints


def save(state, step, content="重み"):
    """A checkpoint with two files, one of them in a folder."""
    with checkpoints.writing(checkpoints.checkpoint(state, step)) as folder:
        (folder / "model.bin").write_text(content, encoding="utf-8")
        (folder / "部品").mkdir()
        (folder / "部品/optimizer.bin").write_bytes(bytes(1000))


def flip(path):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# ---- checkpoints


def test_the_newest_whole_checkpoint_is_found(tmp_path):
    for step in (900, 1000, 20):  # not in the order of their names as text
        save(tmp_path, step)
    assert checkpoints.steps(tmp_path) == [20, 900, 1000]
    assert checkpoints.newest(tmp_path, pytest.fail) == 1000


def test_a_state_without_checkpoints_begins_at_zero(tmp_path):
    assert checkpoints.newest(tmp_path, pytest.fail) == 0
    assert checkpoints.steps(tmp_path / "none") == []


def test_a_process_killed_while_writing_leaves_the_checkpoint_before(tmp_path):
    save(tmp_path, 10)
    with pytest.raises(KeyboardInterrupt), checkpoints.writing(checkpoints.checkpoint(tmp_path, 20)) as folder:
        (folder / "model.bin").write_text("半分", encoding="utf-8")
        raise KeyboardInterrupt
    left, partial = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == "step-000000010"
    assert re.fullmatch(r"step-000000020\..*\.partial", partial)
    assert checkpoints.newest(tmp_path, pytest.fail) == 10
    save(tmp_path, 20)
    assert checkpoints.newest(tmp_path, pytest.fail) == 20
    assert not list((tmp_path / "checkpoints").glob("*.partial"))


@pytest.mark.parametrize("name", ["model.bin", "部品/optimizer.bin", "digests.json"])
@pytest.mark.parametrize("damage", [flip, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_a_damaged_checkpoint_is_passed_over_with_a_message(tmp_path, name, damage):
    save(tmp_path, 10)
    save(tmp_path, 20)
    damage(checkpoints.checkpoint(tmp_path, 20) / name)
    said = []
    assert checkpoints.newest(tmp_path, said.append) == 10
    aside = checkpoints.checkpoint(tmp_path, 20).with_name("step-000000020.corrupt")
    assert said == [
        f"{aside.with_suffix('')} is corrupt and is passed over; it is {aside.name} until another is written"
    ]
    assert aside.is_dir()
    save(tmp_path, 20)
    checkpoints.forget(tmp_path, 2)
    assert (checkpoints.steps(tmp_path), aside.exists()) == ([10, 20], False)


def test_a_checkpoint_that_cannot_be_read_now_is_not_taken_for_corrupt(tmp_path, monkeypatch):
    save(tmp_path, 10)

    def unreadable(path):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    monkeypatch.setattr(checkpoints, "digest", unreadable)
    with pytest.raises(OSError, match="Stale file handle"):
        checkpoints.newest(tmp_path, pytest.fail)
    assert checkpoints.steps(tmp_path) == [10]


def test_where_all_checkpoints_are_damaged_the_training_begins_again(tmp_path):
    said = []
    for step in (10, 20):
        save(tmp_path, step)
        flip(checkpoints.checkpoint(tmp_path, step) / "model.bin")
    assert checkpoints.newest(tmp_path, said.append) == 0
    assert len(said) == 2


def test_a_damaged_folder_can_be_written_again(tmp_path):
    save(tmp_path, 10, "前")
    flip(checkpoints.checkpoint(tmp_path, 10) / "model.bin")
    save(tmp_path, 10, "後")
    assert checkpoints.whole(checkpoints.checkpoint(tmp_path, 10))
    assert (checkpoints.checkpoint(tmp_path, 10) / "model.bin").read_text(encoding="utf-8") == "後"


def test_the_last_checkpoints_are_kept(tmp_path):
    for step in (5, 50, 500, 5000):
        save(tmp_path, step)
    checkpoints.forget(tmp_path, keep=2)
    assert checkpoints.steps(tmp_path) == [500, 5000]
    checkpoints.forget(tmp_path, keep=3)
    assert checkpoints.steps(tmp_path) == [500, 5000]


def test_spared_checkpoints_are_kept_beside_the_last(tmp_path):
    for step in (10, 20, 30, 40, 50, 60):
        save(tmp_path, step)
    checkpoints.forget(tmp_path, keep=2, spared=[20, 60, 70])
    assert checkpoints.steps(tmp_path) == [20, 50, 60]
    assert checkpoints.newest(tmp_path, pytest.fail) == 60
    checkpoints.forget(tmp_path, keep=1)
    assert checkpoints.steps(tmp_path) == [60]


def write_log(folder, *records, end=""):
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "log.jsonl").write_text(lines + end, encoding="utf-8")
    return folder / "log.jsonl"


def test_the_best_checkpoint_is_the_one_with_the_lowest_validation_loss(tmp_path):
    losses = {10: 4.0, 15: 1.0, 20: 3.5, 30: math.nan, 40: 3.5, 50: 3.75}
    valid = [{"step": step, "valid_loss": loss} for step, loss in losses.items()]
    log = write_log(tmp_path, {"step": 20, "loss": 0.1}, *valid, end='{"step": 60, "valid_loss": 0.')
    assert checkpoints.best(log, [10, 20, 30, 40, 50, 60]) == 20  # 15 has no checkpoint, 60 was never written
    assert checkpoints.best(log, [50, 10]) == 50
    assert checkpoints.best(log, [30]) is None
    assert checkpoints.best(log, [60]) is None
    assert checkpoints.best(log, []) is None
    assert checkpoints.best(tmp_path / "none.jsonl", [10]) is None


# ---- trainings of another length


def begin(state, steps, family="家", stable_until=800):
    """A state with these checkpoints and a log of every tenth step."""
    state.mkdir(parents=True)
    told = {"family": family, "stable_until": stable_until}
    (state / "settings.json").write_text(json.dumps(told), encoding="utf-8")
    for step in steps:
        save(state, step, f"重み {step}")
    write_log(state, *({"step": step, "loss": 1 / step} for step in range(10, max(steps, default=0) + 20, 10)))
    return state


def snapshot(folder) -> dict:
    """Files and their content and times."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def steps_of(log) -> list[int]:
    return [record["step"] for record in checkpoints.records(log)]


@pytest.mark.parametrize(
    ("own", "theirs", "taken"),
    [
        (1600, 800, 800),  # a longer training goes on from where the shorter one began to decay
        (400, 800, 400),
        (399, 800, 200),
        (1600, 799, 400),
        (100, 800, 0),
    ],
)
def test_a_training_goes_on_from_the_last_checkpoint_that_one_of_another_length_shares(tmp_path, own, theirs, taken):
    before = snapshot(begin(tmp_path / "短", (200, 400, 800, 1000), stable_until=theirs))
    state = begin(tmp_path / "長", (), stable_until=own)
    said = []
    assert checkpoints.continue_from(state, "家", own, said.append) == taken
    assert snapshot(tmp_path / "短") == before
    if taken:
        assert said == [f"{state} goes on from step {taken} of {tmp_path / '短'}: until there both learn the same"]
        assert checkpoints.newest(state, pytest.fail) == taken
        assert checkpoints.steps(state) == [taken]
        assert steps_of(state / "log.jsonl") == list(range(10, taken + 10, 10))
        lines = (tmp_path / "短/log.jsonl").read_text(encoding="utf-8")
        assert lines.startswith((state / "log.jsonl").read_text(encoding="utf-8"))
        for name in ("model.bin", "部品/optimizer.bin", "digests.json"):
            assert (checkpoints.checkpoint(state, taken) / name).samefile(
                checkpoints.checkpoint(tmp_path / "短", taken) / name
            )
    else:
        assert (said, checkpoints.steps(state)) == ([], [])


def test_the_latest_of_several_trainings_of_the_family_is_taken(tmp_path):
    begin(tmp_path / "a", (100, 300))
    begin(tmp_path / "b", (200, 400))
    begin(tmp_path / "c", (700,), family="他人")
    (tmp_path / "d").mkdir()
    (tmp_path / "e").write_text("no folder", encoding="utf-8")
    state = begin(tmp_path / "own", ())
    assert checkpoints.continue_from(state, "家", 800, lambda _: None) == 400


def test_a_training_with_checkpoints_of_its_own_goes_on_from_them(tmp_path):
    begin(tmp_path / "a", (300,))
    state = begin(tmp_path / "own", (100,))
    assert checkpoints.continue_from(state, "家", 800, pytest.fail) == 0
    assert checkpoints.steps(state) == [100]


@pytest.mark.parametrize("name", ["model.bin", "digests.json"])
def test_a_damaged_checkpoint_of_another_training_is_passed_over_and_left_alone(tmp_path, name):
    sibling = begin(tmp_path / "a", (100, 300))
    flip(checkpoints.checkpoint(sibling, 300) / name)
    before, said = snapshot(sibling), []
    state = begin(tmp_path / "own", ())
    assert checkpoints.continue_from(state, "家", 800, said.append) == 100
    assert (
        said[0] == f"{checkpoints.checkpoint(sibling, 300)} is not whole, or was removed meanwhile, and is passed over"
    )
    assert snapshot(sibling) == before
    assert not list(state.rglob("*.partial"))


@pytest.mark.parametrize(("gone", "links"), [("checkpoints/step-000000300", 1), (".", 1), (".", 3)])
def test_what_is_removed_meanwhile_is_passed_over(tmp_path, monkeypatch, gone, links):
    """A living training forgets its checkpoint, or is cleaned away, log and all, when one or all files were taken."""
    sibling = begin(tmp_path / "a", (300,))
    begin(tmp_path / "b", (100,))
    state = begin(tmp_path / "own", ())
    link, asked = os.link, []

    def slow(source, target):
        link(source, target)
        asked.append(source)
        if len(asked) == links:
            shutil.rmtree(sibling / gone)

    monkeypatch.setattr(os, "link", slow)
    assert checkpoints.continue_from(state, "家", 800, lambda _: None) == 100
    assert steps_of(state / "log.jsonl") == list(range(10, 110, 10))


def test_checkpoints_are_copied_from_another_training_where_links_are_impossible(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    sibling = begin(tmp_path / "a", (300,))
    state = begin(tmp_path / "own", ())
    monkeypatch.setattr(os, "link", refuse)
    assert checkpoints.continue_from(state, "家", 800, lambda _: None) == 300
    shutil.rmtree(sibling)
    assert checkpoints.newest(state, pytest.fail) == 300


def test_a_full_disk_is_no_checkpoint_that_vanished(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    begin(tmp_path / "a", (100, 300))
    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.continue_from(begin(tmp_path / "own", ()), "家", 800, lambda _: None)


def test_a_process_killed_while_it_takes_a_checkpoint_leaves_all_of_it_or_nothing(tmp_path):
    """Killed before each change it makes to files, it leaves a state from which the next start comes to the same."""
    sibling = begin(tmp_path / "a", (300,))
    before = snapshot(sibling)
    outcomes = set()
    for number in itertools.count(1):
        state = begin(tmp_path / "own", ())
        killed = killed_before(number, checkpoints.continue_from, state, "家", 800, print)
        left = checkpoints.newest(state, pytest.fail)
        if left:
            assert steps_of(state / "log.jsonl") == list(range(10, 310, 10))
        outcomes.add((killed, left))
        assert (left or checkpoints.continue_from(state, "家", 800, lambda _: None)) == 300
        assert steps_of(state / "log.jsonl") == list(range(10, 310, 10))
        assert not list(state.rglob("*.partial"))
        shutil.rmtree(state)
        if not killed:
            break
    assert outcomes == {(True, 0), (False, 300)}
    assert number > 8
    assert snapshot(sibling) == before


# ---- publishing


def files(folder) -> dict:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def test_published_files_are_the_same_files(tmp_path):
    save(tmp_path, 10)
    final = checkpoints.checkpoint(tmp_path, 10)
    checkpoints.publish(final, tmp_path / "結果/モデル")
    published = files(tmp_path / "結果/モデル")
    assert set(published) == {"model.bin", "部品/optimizer.bin", "digests.json"}
    assert all(path.samefile(final / name) for name, path in published.items())


def test_publishing_replaces_what_was_there(tmp_path):
    save(tmp_path, 10)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old.bin").touch()
    (tmp_path / "out.node-7.partial").mkdir()
    checkpoints.publish(checkpoints.checkpoint(tmp_path, 10), tmp_path / "out")
    assert set(files(tmp_path / "out")) == {"model.bin", "部品/optimizer.bin", "digests.json"}
    assert not list(tmp_path.glob("*.partial"))


def test_removing_what_was_published_leaves_the_state(tmp_path):
    save(tmp_path, 10)
    checkpoints.publish(checkpoints.checkpoint(tmp_path, 10), tmp_path / "out")
    for path in files(tmp_path / "out").values():
        path.unlink()
    assert checkpoints.whole(checkpoints.checkpoint(tmp_path, 10))


def test_what_was_published_is_known_by_its_digests(tmp_path):
    for step in (10, 20):
        save(tmp_path, step, str(step))
    first, second = (checkpoints.checkpoint(tmp_path, step) for step in (10, 20))
    assert not checkpoints.published(first, tmp_path / "out")
    checkpoints.publish(first, tmp_path / "out")
    assert checkpoints.published(first, tmp_path / "out")
    assert not checkpoints.published(second, tmp_path / "out")


def test_files_are_copied_where_links_are_impossible(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise OSError(18, "Invalid cross-device link")

    save(tmp_path, 10)
    monkeypatch.setattr(os, "link", refuse)
    final = checkpoints.checkpoint(tmp_path, 10)
    checkpoints.publish(final, tmp_path / "out")
    assert checkpoints.whole(tmp_path / "out")
    assert not (tmp_path / "out/model.bin").samefile(final / "model.bin")


def test_going_on_under_changed_code_is_said_and_recorded(tmp_path):
    told = []

    def record(step, **run):
        checkpoints.record(tmp_path, {"recipe": 3}, {"from_step": step, **run}, told.append)

    record(0, code="stages.pretrain@1")
    record(10, code="stages.pretrain@1")
    assert told == []
    record(20, code="stages.pretrain@2")
    record(20, code="stages.pretrain@2", newer=1)  # of the run before nothing is left
    assert told == [
        "code changed since this training was last run: stages.pretrain@1 is now stages.pretrain@2",
        "code changed since this training was last run: stages.pretrain@1 is now stages.pretrain@2",
        "newer changed since this training was last run: None is now 1",
    ]
    recorded = json.loads((tmp_path / "settings.json").read_text())
    runs = recorded.pop("runs")
    assert recorded == {"recipe": 3}
    assert [(run["from_step"], run["code"][-1]) for run in runs] == [(0, "1"), (10, "1"), (20, "2")]


def test_the_log_is_cut_where_the_training_goes_on(tmp_path):
    lines = [json.dumps({"step": step, "loss": 1.5}) + "\n" for step in (1, 2, 2, 3)]
    (tmp_path / "log.jsonl").write_text("".join(lines) + '{"step": 4, "lo', encoding="utf-8")
    checkpoints.cut(tmp_path / "log.jsonl", 2)
    assert (tmp_path / "log.jsonl").read_text(encoding="utf-8") == "".join(lines[:3])


@pytest.mark.parametrize("free", [0, 1 << 30])
def test_a_full_disk_is_told_where_torch_does_not_name_it(tmp_path, monkeypatch, free):
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    expected = pytest.raises(RuntimeError, match="unexpected pos") if free else pytest.raises(OSError, match="No space")
    with expected, checkpoints.writing(tmp_path / "状態"):
        raise RuntimeError("unexpected pos 1026304 vs 1026192")
    assert not (tmp_path / "状態").exists()
