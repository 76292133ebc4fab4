import os
import re

import pytest

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
    assert said == [f"{checkpoints.checkpoint(tmp_path, 20)} is corrupt and is passed over"]


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


def test_files_are_copied_where_links_are_impossible(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise OSError(18, "Invalid cross-device link")

    save(tmp_path, 10)
    monkeypatch.setattr(os, "link", refuse)
    final = checkpoints.checkpoint(tmp_path, 10)
    checkpoints.publish(final, tmp_path / "out")
    assert checkpoints.whole(tmp_path / "out")
    assert not (tmp_path / "out/model.bin").samefile(final / "model.bin")
