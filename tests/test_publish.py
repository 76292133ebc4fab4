import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hub import Hub

from jalm.config import Publish
from jalm.stages import publish
from jalm.stages.publish import HubError, Unfit

MODEL, OLDER, NEXT = (f"gpt2-small-{date}" for date in ("20261101", "20261001", "20261201"))
SECRET = "hf_himitsu_no_kagi"  # noqa: S105
CARD = "---\nlanguage: ja\nlicense: cc-by-sa-4.0\n---\n\n# 猫\n"
WEIGHTS = bytes(range(256)) * 40
REVISION = "3f" * 20


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def prove(folder: Path, **told: object) -> Path:
    """The provenance that export writes."""
    later = {"provenance.json", "CHANGELOG.md", ".snakemake_timestamp"}
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in later]
    files = {path.relative_to(folder).as_posix(): sha256(path.read_bytes()) for path in paths}
    made = {"model": folder.name, "jalm": "0.1.0", "revision": REVISION}
    made["proof"] = {"checks": ["logits", "tokenizer", "pipeline"], "files": files}
    (folder / "provenance.json").write_text(json.dumps(made | told, ensure_ascii=False), encoding="utf-8")
    return folder


@pytest.fixture
def export(tmp_path):
    """Makes an exported folder; files that are None are left out."""

    def make(model=MODEL, told=None, **files):
        folder = tmp_path / "export" / model
        shutil.rmtree(folder, ignore_errors=True)
        content = {"README.md": CARD, "LICENSE": "CC BY-SA 4.0\n", "config.json": "{}\n", "model.safetensors": WEIGHTS}
        content |= {name.replace("__", "/").replace("_json", ".json"): text for name, text in files.items()}
        for name, text in content.items():
            if text is not None:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return prove(folder, **(told or {}))

    return make


# ---- what may be published


def test_what_was_proved_may_go():
    proof = {"checks": ["logits"], "files": {"config.json": "1a", "猫/spm.model": "2b"}}
    publish.check_proof({"proof": proof}, {"config.json": "1a", "猫/spm.model": "2b", "provenance.json": "3c"})


@pytest.mark.parametrize("files", [{"a": "1"}, {"a": "1", "CHANGELOG.md": "2"}])
def test_a_changelog_which_goes_on_at_the_hub_is_not_proved(files):
    publish.check_proof({"proof": {"checks": ["logits"], "files": files}}, {"a": "1", "CHANGELOG.md": "3"})


@pytest.mark.parametrize(
    ("proof", "said"),
    [
        (None, "no proof"),
        ({}, "no proof"),
        ({"checks": [], "files": {"a": "1", "b": "2"}}, "no proof"),
        ({"checks": ["logits"], "files": {}}, "no proof"),
        ({"checks": ["logits"], "files": {"a": "1", "b": "3"}}, r"\(changed: b\)"),
        ({"checks": ["logits"], "files": {"a": "1"}}, r"\(added: b\)"),
        ({"checks": ["logits"], "files": {"a": "2", "c": "3"}}, r"\(changed: a; added: b; removed: c\)"),
    ],
)
def test_what_was_not_proved_or_changed_since_may_not(proof, said):
    with pytest.raises(Unfit, match=said):
        publish.check_proof({"proof": proof}, {"a": "1", "b": "2", "provenance.json": "x"})


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"README.md": "# 猫\n"}, "README.md names no license"),
        ({"README.md": "---\nlanguage: ja\n---\n"}, "README.md names no license"),
        ({"README.md": "---\nlicense: other\n---\n"}, "README.md names no license"),
        ({"README.md": "---\n[\n---\n"}, "header of README.md is no YAML"),
        ({"README.md": None}, "README.md names no license"),
        ({"LICENSE": None}, "there is no LICENSE"),
        ({"LICENSE": ""}, "there is no LICENSE"),
    ],
)
def test_what_has_no_licence_may_not(export, files, said):
    with pytest.raises(Unfit, match=f"{MODEL}: .*{said}"):
        publish.read(export(**files), Publish(repo_id="you/x"))


def test_a_mixture_of_licences_has_one_if_it_is_named(export):
    folder = export(**{"README.md": "---\nlicense: other\nlicense_name: CC0-1.0, MIT\n---\n"})
    assert publish.read(folder, Publish(repo_id="you/x")).tag == "20261101"


@pytest.mark.parametrize(
    ("revision", "said", "allowed"),
    [
        (
            f"{REVISION}-dirty",
            rf"a clone with changes that no commit has \({REVISION}-dirty\)",
            f"with changes to {REVISION}",
        ),
        ("", "no clone", "of no known revision"),
    ],
)
def test_what_no_known_revision_made_goes_only_if_that_is_allowed_and_then_it_is_said(export, revision, said, allowed):
    folder = export(told={"revision": revision})
    with pytest.raises(Unfit, match=said):
        publish.read(folder, Publish(repo_id="you/x"))
    assert (
        publish.read(folder, Publish(repo_id="you/x", allow_dirty=True)).message == f"{MODEL}, by jalm 0.1.0 {allowed}"
    )


def test_the_commit_says_what_made_it(export):
    assert publish.read(export(), Publish(repo_id="you/x")).message == f"{MODEL}, by jalm 0.1.0 at {REVISION}"


def test_a_model_without_date_needs_a_tag(export):
    folder = export("猫")
    with pytest.raises(Unfit, match="'猫' has no date at its end"):
        publish.read(folder, Publish(repo_id="you/x"))
    assert publish.read(folder, Publish(repo_id="you/x", tag="v1")).tag == "v1"


def test_what_snakemake_leaves_in_a_folder_is_not_published(export):
    folder = export()
    (folder / ".snakemake_timestamp").touch()
    assert publish.read(folder, Publish(repo_id="you/x")).files.keys() == {
        "README.md", "LICENSE", "config.json", "model.safetensors", "provenance.json",
    }  # fmt: skip


@pytest.mark.parametrize("provenance", [None, "{", "[]"])
def test_a_folder_that_export_did_not_make_is_one_message(export, provenance):
    folder = export()
    (folder / "provenance.json").unlink()
    if provenance:
        (folder / "provenance.json").write_text(provenance, encoding="utf-8")
    with pytest.raises(Unfit, match=r"provenance\.json"):
        publish.read(folder, Publish(repo_id="you/x"))


# ---- what becomes of the files


def test_each_file_is_new_changed_unchanged_deleted_or_kept():
    steps = publish.plan({"a", "b", "c"}, there={"b", "c", "d", "e"}, same={"c"}, last={"b", "d"})
    assert steps == {"a": "new", "b": "changed", "c": "unchanged", "d": "deleted", "e": "kept"}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"model": "a"}', '{"model": "a", "proof": null}'])
def test_a_provenance_of_others_is_none(text):
    assert publish.provenance_in(text.encode()) == {}


@pytest.mark.parametrize(
    ("ours", "theirs", "both"),
    [
        (
            "# 変更\n\n## 12\n\n十二月\n",
            "# 変更\n\n## 11\n\n十一月\n",
            "# 変更\n\n## 12\n\n十二月\n\n## 11\n\n十一月\n",
        ),
        ("## 12\n十二月", "## 11\n十一月", "## 12\n十二月\n\n## 11\n十一月\n"),
        (
            "# 変更\n\n## 12\n十二月\n\n## 11\n十一月\n",
            "# 変更\n\n## 11\n十一\n",
            "# 変更\n\n## 12\n十二月\n\n## 11\n十一月\n",
        ),
        ("## 12\n", "", "## 12\n"),
    ],
)
def test_the_changes_of_a_version_lie_on_top_of_those_before_once(ours, theirs, both):
    assert publish.continued(ours, theirs) == both
    assert publish.continued(ours, both) == both


# ---- at the Hub


@pytest.fixture
def hub():
    with Hub() as server:
        server.tokens[SECRET] = "write"
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def send(hub, monkeypatch, tmp_path, capfd, caplog):
    """Run the stage in this process; the record. No output and no file may have the token."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    plain, slept = get_session(), []
    hooks, shown = plain.event_hooks, []
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr(time, "sleep", slept.append)
    caplog.set_level("INFO", "jalm")

    def run(folder, *options, repo_id="you/neko"):
        output = tmp_path / "record.json"
        output.unlink(missing_ok=True)
        try:
            publish.main(["--model", str(folder), "--repo-id", repo_id, "--output", str(output), *options])
        except ValueError as fault:
            shown.append(str(fault))
            assert not output.exists()
            raise
        return json.loads(output.read_text(encoding="utf-8")) if output.exists() else None

    run.slept, run.said = slept, lambda: caplog.text
    yield run
    huggingface_hub.set_client_factory(lambda: type(plain)(event_hooks=hooks, follow_redirects=True, timeout=None))
    written = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(SECRET in text for text in [*written, *shown, caplog.text, *capfd.readouterr()])


def writes(hub: Hub) -> list[str]:
    """Requests that change something."""
    return [request for request in hub.asked if not re.match("GET|HEAD|POST /api/validate-yaml", request)]


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_export_is_published_and_the_record_says_what_is_where(export, hub, send):
    folder = export(eval__task_json='{"猫": 1}')
    record = send(folder)
    repo = hub.repos["you/neko"]
    assert (repo.private, repo.files) == (True, content(folder))
    assert repo.messages[1:] == [f"{MODEL}, by jalm 0.1.0 at {REVISION}"]
    assert repo.tags == {"20261101": repo.head}
    assert (record["commit"], record["tag"], record["repo_id"]) == (repo.head, "20261101", "you/neko")
    assert {name: file["sha256"] for name, file in record["files"].items()} == {
        name: sha256(data) for name, data in content(folder).items()
    }
    assert {file["was"] for file in record["files"].values()} == {"new"}


def test_what_is_published_is_not_published_again(export, hub, send):
    first = send(export())
    before, commits = len(writes(hub)), len(hub.repos["you/neko"].commits)
    second = send(export())
    assert (len(writes(hub)), len(hub.repos["you/neko"].commits)) == (before, commits)
    assert {file["was"] for file in second["files"].values()} == {"unchanged"}
    assert (second["commit"], second["tag"]) == (first["commit"], first["tag"])
    assert f"you/neko has {MODEL} already, as 20261101: nothing to do" in send.said()


def test_a_dry_run_says_what_would_go_and_touches_nothing(export, hub, send, capfd):
    folder = export()
    assert send(folder, "--dry-run", "--private", "false") is None
    assert (writes(hub), hub.repos) == ([], {})
    size = (folder / "provenance.json").stat().st_size
    assert capfd.readouterr().out.splitlines() == [
        f"{hub.address}/you/neko, new, public",
        "  new                   13  LICENSE",
        f"  new       {len(CARD.encode()):>14}  README.md",
        "  new                    3  config.json",
        "  new               10,240  model.safetensors",
        f"  new       {size:>14}  provenance.json",
        f"commit: {MODEL}, by jalm 0.1.0 at {REVISION}",
        "tag: 20261101",
    ]


def test_the_next_version_replaces_what_changed_deletes_what_is_gone_and_keeps_what_is_not_ours(
    export, hub, send, capfd
):
    old = export(OLDER, samples_json="[1]", old_json="{}", edited_json="{}", **{"CHANGELOG.md": "## 10\n"})
    send(old)
    hub.change("you/neko", {"edited.json": b"[]", "図.png": b"png"})
    del hub.sent[:]
    new = export(samples_json="[2]", **{"CHANGELOG.md": "## 11\n"})
    send(new, "--dry-run")
    told = dict(re.findall(r"(?m)^  (\w+) +[\d,]+  (.+)$", capfd.readouterr().out)[::-1])
    steps = {name: step for step, name in re.findall(r"(?m)^  (\w+) +[\d,]+  (.+)$", send.said())}
    assert (told["deleted"], steps) == ("old.json", {})
    record = send(new)
    repo = hub.repos["you/neko"]
    kept = {"edited.json": b"[]", "図.png": b"png", "CHANGELOG.md": b"## 11\n\n## 10\n"}
    assert repo.files == content(new) | kept
    assert record["deleted"] == ["old.json"]
    assert record["files"]["samples.json"]["was"] == "changed"
    assert record["files"]["CHANGELOG.md"]["sha256"] == sha256(kept["CHANGELOG.md"])
    assert hub.sent == []  # the weights are the same
    assert {path: blob.content for path, blob in repo.commits[repo.tags["20261001"]].items()}.items() >= content(
        old
    ).items()
    send(new)
    assert repo.tags["20261101"] == repo.head


def test_a_history_of_changes_goes_on_when_a_version_has_none(export, hub, send):
    send(export(OLDER, **{"CHANGELOG.md": "## 10\n"}))
    send(export())
    assert hub.repos["you/neko"].files["CHANGELOG.md"] == b"## 10\n"


@pytest.mark.parametrize("changed", ["README.md", "model.safetensors"])
def test_what_others_changed_is_replaced_only_if_asked(export, hub, send, changed):
    send(export(OLDER))
    hub.change("you/neko", {changed: b"edited " * 1000})
    before = len(writes(hub))
    new = export(**{changed: CARD + "\n12\n"})
    with pytest.raises(
        HubError, match=f"you/neko has files that jalm did not put there, or not as they are: {changed};"
    ):
        send(new)
    assert len(writes(hub)) == before
    send(new, "--overwrite", "true")
    assert hub.repos["you/neko"].files[changed] == (CARD + "\n12\n").encode()


def test_a_repository_of_others_is_left_alone(export, hub, send):
    hub.add("you/neko", {"config.json": b"[]", "README.md": b"# mine"})
    with pytest.raises(HubError, match=r"not as they are: config\.json; set overwrite"):
        send(export())
    assert writes(hub) == []


def test_a_repository_with_nothing_but_its_first_card_is_taken(export, hub, send):
    hub.add("you/neko", {"README.md": b"---\nlicense: mit\n---\n", "provenance.json": b"none"})
    with pytest.raises(HubError, match=r"provenance\.json"):
        send(export())
    hub.add("you/neko", {"README.md": b"---\nlicense: mit\n---\n"})
    send(export())
    assert hub.repos["you/neko"].files["README.md"] == CARD.encode()


@pytest.mark.parametrize(
    ("there", "said"),
    [("roberta-20261001", "has another model, roberta-20261001"), (NEXT, f"has a newer version, {NEXT}")],
)
def test_another_model_and_a_newer_version_are_not_covered(export, hub, send, there, said):
    send(export(there))
    with pytest.raises(HubError, match=said):
        send(export())
    send(export(), "--overwrite", "true")
    assert b"gpt2-small-20261101" in hub.repos["you/neko"].files["provenance.json"]


def test_what_is_to_be_private_does_not_go_to_a_public_repository(export, hub, send):
    hub.add("you/neko", {}, private=False)
    with pytest.raises(HubError, match="you/neko is public, and private is true"):
        send(export())
    assert writes(hub) == []
    assert send(export(), "--private", "false")["private"] is False


def test_a_tag_of_another_version_is_moved_only_if_asked(export, hub, send):
    first = send(export())["commit"]
    again, before = export(config_json="[]"), len(writes(hub))
    with pytest.raises(HubError, match=f"has a tag 20261101 of another version already \\(commit {first[:12]}\\)"):
        send(again)
    assert len(writes(hub)) == before
    second = send(again, "--move-tag", "true")["commit"]
    assert hub.repos["you/neko"].tags == {"20261101": second}
    assert second != first


# ---- failures


CALLS = {
    "whoami": "GET /api/whoami",
    "info": "GET /api/models/you/neko$",
    "create": "POST /api/repos/create",
    "tree": "GET .*/tree/",
    "refs": "GET .*/refs",
    "card": "POST .*/validate-yaml",
    "preupload": "POST .*/preupload/",
    "batch": "POST .*/objects/batch",
    "upload": "PUT /lfs/",
    "verify": "POST .*/verify",
    "commit": "POST .*/commit/",
    "tag": "POST .*/tag/",
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("failure", ["refused", "lost"])
def test_what_fails_for_a_while_is_tried_again(export, hub, send, call, failure):
    if failure == "refused":
        hub.refusals += [(CALLS[call], 503, {}), (CALLS[call], 500, {})]
    else:
        hub.lost += [CALLS[call]]
    folder = export()
    record = send(folder)
    repo = hub.repos["you/neko"]
    assert repo.files == content(folder)
    assert (len(repo.commits), repo.tags) == (2, {"20261101": repo.head})  # the Hub's own first commit, and one
    assert record["commit"] == repo.head
    assert send.slept[0] == 1


@pytest.mark.parametrize("call", ["info", "upload"])
def test_a_hub_that_does_not_answer_is_not_waited_for_for_ever(export, hub, send, monkeypatch, call):
    monkeypatch.setattr(publish, "TIMEOUT", 1)
    hub.stalls.append(CALLS[call])
    folder = export()
    send(folder)
    assert hub.repos["you/neko"].files == content(folder)
    assert 1 in send.slept  # perhaps for another slow answer too, on a busy machine


@pytest.mark.parametrize(("call", "wait"), [("info", 7), ("batch", 8)])  # huggingface_hub adds one
def test_a_hub_that_asks_for_patience_gets_it(export, hub, send, call, wait):
    hub.refusals.append((CALLS[call], 429, {"Retry-After": "7"}))
    send(export())
    assert send.slept == [wait]


def test_what_goes_on_failing_is_one_message_after_pauses_that_grow(export, hub, send):
    hub.refusals += [(CALLS["commit"], 500, {})] * 6
    with pytest.raises(HubError, match=r"answers 500: refused for the test"):
        send(export())
    assert send.slept == [1, 2, 4, 8, 16]
    assert [path for path, _ in hub.sent] == [f"/lfs/{sha256(WEIGHTS)}"]  # once


@pytest.mark.parametrize("error", [KeyError("id"), json.JSONDecodeError("Expecting value", "<html>", 0)])
def test_what_does_not_answer_as_a_hub_is_told(export, hub, send, monkeypatch, error):
    def answer(*_: object) -> None:
        raise error

    monkeypatch.setattr(publish.Repository, "state", answer)
    with pytest.raises(HubError, match=r"does not answer as a Hugging Face Hub .*; look at HF_ENDPOINT"):
        send(export())


def test_a_broken_upload_is_made_again_and_no_other(export, hub, send):
    other = WEIGHTS[::-1]
    hub.cuts = [3000]
    folder = export(**{"model.onnx": other})
    send(folder)
    assert hub.repos["you/neko"].files == content(folder)
    assert sorted(size for _, size in hub.sent) == [3000, 10240, 10240]


def test_what_was_uploaded_before_a_failure_is_not_sent_again(export, hub, send):
    other = WEIGHTS[::-1]
    folder = export(**{"model.onnx": other})
    hub.refusals.append((f"PUT /lfs/{sha256(other)}", 400, {}))
    with pytest.raises(HubError, match="answers 400"):
        send(folder)
    assert hub.repos["you/neko"].files == {}
    send(folder)
    counts = [sum(path.endswith(sha256(data)) for path, _ in hub.sent) for data in (WEIGHTS, other)]
    assert counts == [1, 2]
    assert hub.repos["you/neko"].files == content(folder)


def test_a_large_file_goes_in_parts_of_which_a_broken_one_is_made_again(export, hub, send):
    hub.part, hub.cuts = 4096, [100]
    folder = export()
    send(folder)
    assert [size for _, size in hub.sent] == [100, 4096, 4096, 2048]
    assert hub.repos["you/neko"].files == content(folder)


def test_who_commits_in_between_is_not_overwritten(export, hub, send, monkeypatch):
    send(export(OLDER))
    listed = publish.listing

    def meanwhile(*state):
        hub.change("you/neko", {"config.json": b"[1]"})
        return listed(*state)

    monkeypatch.setattr(publish, "listing", meanwhile)
    with pytest.raises(HubError, match=r"not as they are: config\.json"):
        send(export(config_json="[2]"))
    assert "answers 412" in send.said()
    assert hub.repos["you/neko"].files["config.json"] == b"[1]"


def test_a_commit_with_other_files_than_were_sent_is_an_error(export, hub, send, monkeypatch):
    import hub as module

    honest = module.Repo.commit

    def spoil(repo, files, message):
        files = {path: module.Blob(b"[0]" if path == "config.json" else b.content, b.lfs) for path, b in files.items()}
        return honest(repo, files, message)

    monkeypatch.setattr(module.Repo, "commit", spoil)
    with pytest.raises(HubError, match=r"has other files in commit \w{40} than were sent: config\.json"):
        send(export())
    assert hub.repos["you/neko"].tags == {}


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (
            "hf_read",
            "you/neko cannot be written to: the token of HF_TOKEN may only read; make one with write permission",
        ),
        ("hf_unknown", "does not take the token of HF_TOKEN"),
        ("hf_two words", "the token for the Hub has characters that no token has"),
        ("hf_秘密", "the token for the Hub has characters that no token has"),
    ],
)
def test_a_token_that_will_not_do_is_one_message(export, hub, send, monkeypatch, token, said):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match=said) as refusal:
        send(export())
    assert token not in str(refusal.value)
    assert writes(hub) == []


def test_a_token_that_may_not_write_there_is_one_message(export, send):
    with pytest.raises(
        HubError, match=r"may not write to them/neko \(You don't have the rights .*; make one with write"
    ):
        send(export(), repo_id="them/neko")


def test_without_a_token_the_message_says_how_to_get_one(export, send, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(HubError, match="no token for the Hub; run `hf auth login`"):
        send(export())


def test_a_dry_run_needs_no_token(export, hub, send, monkeypatch, tmp_path, capfd):
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    send(export(), "--dry-run")
    assert capfd.readouterr().out.startswith(f"{hub.address}/you/neko, new, private\n")
    assert "there is no token for the Hub, so a private repository cannot be told from a new one" in send.said()


def test_without_a_network_the_message_says_so(export, hub, send, monkeypatch):
    from huggingface_hub import constants

    with Hub() as gone:
        monkeypatch.setattr(constants, "ENDPOINT", gone.address)
    with pytest.raises(HubError, match=f"{gone.address} cannot be reached, or was lost: .*refused.*; run again"):
        send(export())
    assert send.slept == [1, 2, 4, 8, 16]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"):
        send(export())


def test_an_address_that_is_no_hub_is_one_message(export, send, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "localhost:80")
    with pytest.raises(HubError, match="localhost:80 cannot be reached"):
        send(export())


def test_a_hub_that_repeats_the_token_is_not_quoted(export, hub, send):
    hub.refusals.append((CALLS["tag"], 418, {"X-Error-Message": f"what is {SECRET}?"}))
    with pytest.raises(HubError, match="answers 418: what is …\\? refused for the test"):
        send(export())


def test_a_card_that_the_hub_does_not_take_is_one_message(export, hub, send):
    folder = export(**{"README.md": "---\nlicense: [mit, cc0-1.0]\n---\n"})
    with pytest.raises(HubError, match=r'Invalid metadata in README\.md\. - "license" must be a string'):
        send(folder)
    assert hub.sent == []


# ---- as users run it


def environment(hub: Hub, home: Path, **more: str) -> dict[str, str]:
    """That of a user whose Hub is this one, with a token in the file of `hf auth login`."""
    home.mkdir(exist_ok=True)
    (home / "token").write_text(SECRET, encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_OFF"))}
    return kept | {"HF_ENDPOINT": hub.address, "HF_HOME": str(home)} | more


LOADING = """
import sys
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer
print(snapshot_download("you/neko", revision="20261101"))
tokenizer = AutoTokenizer.from_pretrained("you/neko", revision="20261101")
model = AutoModelForCausalLM.from_pretrained("you/neko", revision="20261101")
print(tokenizer.decode(model.generate(**tokenizer("日本", return_tensors="pt"), max_new_tokens=4, do_sample=False)[0]))
"""


def test_what_was_published_by_command_is_loaded_by_its_tag(tiny, hub, tmp_path):
    folder = tmp_path / MODEL
    shutil.copytree(tiny.exported("gpt2"), folder)
    (folder / "LICENSE").write_text("CC BY-SA 4.0\n", encoding="utf-8")
    prove(folder)
    hub.small, hub.part = 1 << 14, 1 << 16
    debugging = environment(hub, tmp_path / "home", HF_DEBUG="1", HF_HUB_VERBOSITY="debug")
    command = [sys.executable, "-m", "jalm", "publish", "--model", folder, "--repo-id", "you/neko"]
    ran = subprocess.run(command, env=debugging, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "authorization" in ran.stderr  # it is verbose
    assert SECRET not in ran.stdout + ran.stderr
    assert any("/part/2" in path for path, _ in hub.sent)

    hub.change("you/neko", {"config.json": b"{}"})  # what comes later
    ran = subprocess.run([sys.executable, "-c", LOADING], env=debugging, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    path, *text = ran.stdout.splitlines()
    assert {name: data for name, data in content(Path(path)).items() if name != ".gitattributes"} == content(folder)
    assert "日本" in text[0]


def test_the_token_is_not_in_the_message_of_a_failure(export, hub, tmp_path):
    hub.refusals.append((CALLS["preupload"], 403, {"X-Error-Message": f"{SECRET} is not enough"}))
    command = [sys.executable, "-m", "jalm", "publish", "--model", export(), "--repo-id", "you/neko"]
    ran = subprocess.run(command, env=environment(hub, tmp_path / "home"), capture_output=True, text=True)
    assert ran.returncode == 1
    assert "publish: the token of `hf auth login` may not write to you/neko (… is not enough" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert SECRET not in ran.stdout + ran.stderr


def test_snakemake_publishes_when_asked_by_name_only(finished, hub, tmp_path):
    target, configured = "results/publish/gpt2-tiny-20261001.json", "models={gpt2-tiny: {publish: {repo_id: you/neko}}}"
    ran = finished.snakemake("--dry-run", target)
    assert ran.status
    assert "models.gpt2-tiny.publish is missing; set publish: {repo_id: YOU/gpt2-tiny}" in ran.output
    assert finished.stale("--config", configured) == {"export", "report"}  # the card names the repository

    moved = finished.moved("published")
    moved.environment = environment(hub, tmp_path / "home", HF_TOKEN=SECRET)
    allowed = configured.replace("you/neko", "you/neko, allow_dirty: true")
    ran = moved.run("--config", allowed, "--", target)
    assert ran.rules == {"export", "publish"}
    card = (moved.work / "results/export/gpt2-tiny-20261001/README.md").read_text(encoding="utf-8")
    assert 'model="you/neko"' in card
    assert json.loads((moved.work / target).read_text(encoding="utf-8"))["commit"] == hub.repos["you/neko"].head
    assert SECRET not in ran.output
    texts = [path.read_text(errors="replace") for path in moved.work.rglob("*") if path.is_file()]
    assert not any(SECRET in text for text in texts)
