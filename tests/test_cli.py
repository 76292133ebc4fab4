import io
import json
import logging
import shlex
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jalm
from jalm import cli, config, knobs, sizes
from jalm.formats import documents

GPT2 = sizes.GPT2(n_layer=2, n_head=4, n_embd=128)
ROBERTA = sizes.Roberta(num_hidden_layers=2, hidden_act="gelu_new")
SECTIONS = [
    config.Download(),
    config.Download(
        wiki="ja_wiki1", date="20261101", sha1="0" * 40, mirror="file:鏡 1/it's", contact="「連絡先」 <a@b>"
    ),
    config.Extract(headings=False),
    config.NoKnobs(),
    config.Segment(dictionary='/辞書 3.1/"UniDic"; rm -rf $HOME `id` \\ {corpus} %(x)s'),
    config.Filter(min_characters=0, max_characters=10**12),
    config.Dedup(exact=False),
    config.Split(valid_fraction=1e-7, test_fraction=0.1 + 0.2, salt="-x"),
    config.TrainTokenizer(corpora={"猫": 3, "cc100": 0.5}, seed="", character_coverage=1.0, normalization="none"),
    config.TrainTokenizer(corpora=["猫"]),
    config.Pretrain(architecture="gpt2", config=GPT2, corpora={"jawiki": 0.5, "cc100": 2.0}, max_steps=1),
    config.Pretrain(architecture="roberta", config=ROBERTA, corpora={"jawiki": 1}, max_steps=1, mixed_precision="no"),
    config.Evaluate(batch_size=3),
    config.Publish(repo_id="you/gpt2-small-ja", private=False, tag="20261101", allow_dirty=True),
    config.Export(name="gpt2-20261101"),
    config.Export(
        name="--gpt2",
        generation=config.Generation(do_sample=False),
        data=[{"name": "歌", "license": "MIT", "attribution": '「it\'s」, "両方"\n😀'}],
    ),
]


def both(section) -> str:
    """All options of a section, those that can change a result and the others."""
    return f"{knobs.flags(section)} {knobs.flags(section, neutral=True)}"


def parsed(section, words):
    return cli.parse(cli.parser("「100 %」", type(section), "stage"), words)[1]


# ---- the options


@pytest.mark.parametrize("kind", sorted({type(section) for section in SECTIONS}, key=lambda kind: kind.__name__))
def test_every_knob_has_an_option_with_its_meaning(kind):
    shown = " ".join(cli.parser("「100 %」", kind, "stage").format_help().split())
    for name, info in kind.model_fields.items():
        assert f"--{name.replace('_', '-')} " in shown
        assert info.description in shown


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: type(section).__name__)
def test_flags_say_all_that_a_section_is(section):
    assert parsed(section, shlex.split(both(section))) == section


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: type(section).__name__)
def test_a_shell_takes_flags_apart_as_they_are_meant(section):
    script = f"printf '%s\\0' jalm {both(section)}"
    told = subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout.decode()
    assert told.split("\0") == ["jalm", *shlex.split(both(section)), ""]


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\0", codec="utf-8")).filter("--".__ne__))  # argparse eats --
def test_any_text_survives_as_a_knob(text):
    section = config.Split(salt=text)
    assert parsed(section, shlex.split(both(section))) == section


def test_null_is_nothing_only_where_nothing_is_allowed():
    assert knobs.decode(config.Download, {"sha1": "null"}).sha1 is None
    assert knobs.decode(config.Split, {"salt": "null"}).salt == "null"


def test_flags_spell_out_defaults_and_leave_out_what_changes_no_result():
    assert knobs.flags(config.Download(date="20261101")) == ("--wiki=jawiki --layout=auto --sha1=null --date=20261101")
    assert knobs.flags(config.Download(), neutral=True) == (
        "--mirror=https://dumps.wikimedia.org --retries=5 --connections=1 --contact=''"
    )


def test_the_flags_of_a_kind_leave_out_the_knobs_of_others():
    corpus = config.Text(source="text", paths=["歌.txt"], license="MIT", strict=True)
    assert knobs.flags(corpus, config.ImportText) == knobs.flags(config.ImportText(strict=True))


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--valid-fraction", "0.5"], r"--valid-fraction: 0\.5: .* less than 0\.5"),
        (["--valid-fraction", "半分"], r"--valid-fraction: '半分': .* valid number"),
    ],
)
def test_a_value_outside_its_bounds_is_named_with_its_option(words, fault):
    with pytest.raises(knobs.ConfigError, match=fault):
        parsed(config.Split(), words)


def test_every_wrong_value_is_named():
    with pytest.raises(knobs.ConfigError, match=r"(?s)--min-characters: -1.*--max-characters: 0"):
        parsed(config.Filter(), ["--min-characters", "-1", "--max-characters", "0"])


def test_an_option_is_never_guessed_from_its_beginning():
    with pytest.raises(SystemExit) as refusal:
        parsed(config.Filter(), ["--min", "5"])
    assert refusal.value.code == 2


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (
            ["states", "--cleen"],
            "jalm states: unrecognized arguments: --cleen; did you mean --clean? (jalm states --help",
        ),
        (["compare", "--jsn=1", "a.json"], "--jsn=1; did you mean --json?"),
        (["jobs", "--猫"], "jalm jobs: unrecognized arguments: --猫 (jalm jobs --help lists all)"),
    ],
)
def test_an_option_that_there_is_not_is_met_with_the_nearest_in_one_line(argv, told, capsys):
    with pytest.raises(SystemExit) as refusal:
        cli.run(argv)
    (line,) = capsys.readouterr().err.splitlines()
    assert (refusal.value.code, told in line) == (2, True)


# ---- running a stage by its name


def test_the_overview_names_every_stage_and_command(capsys):
    cli.run([])
    shown = capsys.readouterr().out
    for path in [*cli.PACKAGE.glob("stages/[a-z]*.py"), *cli.PACKAGE.glob("commands/[a-z]*.py")]:
        assert f"  {path.stem} " in shown
    assert "Assign whole documents to train, valid and test." in shown


def test_the_version_is_shown(capsys):
    cli.run(["--version"])
    assert capsys.readouterr().out == f"{jalm.__version__}\n"


def test_an_unknown_stage_is_refused_with_the_known_ones():
    with pytest.raises(SystemExit, match=r"^jalm: 'spilt' is not one of: .*dedup.*split"):
        cli.run(["spilt"])


def summary_of(counts):
    """Command that adds up one file of counts."""
    files = dict.fromkeys(("intake", "filter", "dedup", "split"), counts)
    files |= {name: counts.with_name(name) for name in ("output", "account", "table")}
    return ["split_summary", "--name=猫", *(f"--{name}={path}" for name, path in files.items())]


def test_a_missing_file_is_named_with_its_stage(tmp_path):
    with pytest.raises(SystemExit, match=r"^split_summary: No such file or directory: .*無\.json$"):
        cli.run(summary_of(tmp_path / "無.json"))


def test_a_fault_is_one_line_on_stderr_and_exit_status_1(tmp_path):
    path = tmp_path / "000.json"
    sides = {side: {"documents": 3 * (side == "train")} for side in config.SIDES}
    path.write_text(json.dumps({"out": sides}), encoding="utf-8")
    told = subprocess.run([sys.executable, "-m", "jalm", *summary_of(path)], capture_output=True, text=True)
    assert told.returncode == 1
    assert told.stdout == ""
    (line,) = told.stderr.splitlines()
    assert line.startswith("split_summary: valid and test would be empty: 3 documents")


# ---- files that are whole or not there


def test_a_file_has_its_name_only_when_it_is_complete(tmp_path):
    final = tmp_path / "new" / "終わり.txt"
    with cli.writing(final) as (path,):
        path.write_text("途中", encoding="utf-8")
        assert not final.exists()
    assert final.read_text(encoding="utf-8") == "途中"
    assert list(final.parent.iterdir()) == [final]


def test_what_fails_leaves_the_earlier_file_and_a_partial_one(tmp_path):
    (tmp_path / "a").write_text("前", encoding="utf-8")
    with pytest.raises(ZeroDivisionError), cli.writing(tmp_path / "a", tmp_path / "b") as (a, b):
        a.write_text("後", encoding="utf-8")
        b.write_text("後", encoding="utf-8")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_text(encoding="utf-8") == "前"
    assert {path.name for path in tmp_path.iterdir()} == {"a", a.name, b.name}
    assert a.name.startswith("a.") and a.name.endswith(".partial")


def test_a_folder_replaces_the_earlier_one_and_what_a_killed_job_left(tmp_path):
    for name in ("out", "out.node-7.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").touch()
    with cli.writing(tmp_path / "out") as (folder,):
        folder.mkdir()
        (folder / "new").touch()
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {"out", "out/new"}


def test_a_killed_writer_leaves_only_partial_files(tmp_path):
    script = """
import os, pathlib, signal, sys
from jalm import cli
from jalm.formats import documents
with cli.writing(pathlib.Path(sys.argv[1])) as (path,), documents.writing(path) as writer:
    for number in range(200_000):
        writer.write({"id": number, "text": "吾輩は猫である。"})
    os.kill(os.getpid(), signal.SIGKILL)
"""
    told = subprocess.run([sys.executable, "-c", script, tmp_path / "a.jsonl.zst"])
    assert told.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("a.jsonl.zst.") and left.name.endswith(".partial")
    with pytest.raises(documents.DocumentError):
        list(documents.read(left))


def test_a_full_disk_names_what_could_not_be_written(tmp_path, files_of):
    told = rf"^{tmp_path}/a and 1 file with it cannot be written .*; make room"
    with pytest.raises(cli.DiskFull, match=told), files_of(1000), cli.writing(tmp_path / "a", tmp_path / "b") as (a, _):
        a.write_bytes(bytes(1001))


def test_an_orphan_that_goes_on_writing_does_not_finish_what_its_successor_began(tmp_path):
    """As when snakemake was killed, and started again while its job still runs."""
    with pytest.raises(FileNotFoundError), cli.writing(tmp_path / "a") as (orphan,):
        orphan.write_text("前", encoding="utf-8")
        successor = "import sys; from pathlib import Path; from jalm import cli\n"
        successor += "with cli.writing(Path(sys.argv[1])) as (a,): a.write_text('後', encoding='utf-8')"
        subprocess.run([sys.executable, "-c", successor, tmp_path / "a"], check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text(encoding="utf-8") == "後"


# ---- what is logged


def test_progress_passes_everything_on_and_says_how_far_it_is(caplog, monkeypatch):
    monkeypatch.setattr(cli, "LOG_INTERVAL", -1)  # seconds
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # which is no terminal
    with caplog.at_level(logging.INFO):
        assert list(cli.progress(iter("いろは"), unit="文字", total=1234)) == ["い", "ろ", "は"]
    assert caplog.messages == ["0 of 1,234文字", "1 of 1,234文字, 0 minutes left", "2 of 1,234文字, 0 minutes left"]


@pytest.mark.parametrize(("seconds", "left"), [(50, "1 minute"), (100, "2 minutes"), (72_000, "1,200 minutes")])
def test_the_time_that_is_left_is_told_in_minutes(caplog, monkeypatch, seconds, left):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(cli.time, "monotonic", iter([0, 0, seconds, seconds]).__next__)
    with caplog.at_level(logging.INFO):
        assert list(cli.progress(iter("いろ"), unit="文字", total=2)) == ["い", "ろ"]
    assert caplog.messages == [f"1 of 2文字, {left} left"]


def test_the_closing_line_names_the_reasons_that_occurred(caplog):
    with caplog.at_level(logging.INFO):
        cli.closing("filter", "1,234 documents", "1,232 documents", {"too short": 2, "too long": 0})
        cli.closing("filter", "2 documents", "2 documents", {"too short": 0})
    assert caplog.messages == [
        "filter: 1,234 documents in, 1,232 documents out; dropped: 2 too short",
        "filter: 2 documents in, 2 documents out; dropped: nothing",
    ]
