"""Upload an exported folder to its repository on the Hugging Face Hub, and tag the commit with the date of its dump.

What goes up is what export proved, byte for byte, made by a known revision and under a licence. What the repository has
already is not sent again, so this can be broken off and run again at any time; --dry-run lists what it would do, also
without a token, by what all may see. The token is the one that huggingface_hub finds, in HF_TOKEN or from `hf auth login`;
it is never shown or stored.
"""

import datetime
import hashlib
import json
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

from jalm import Fault, __version__, cli
from jalm.config import Publish

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

log = logging.getLogger("jalm")

CARD, CHANGES, LICENSE, PROVENANCE = "README.md", "CHANGELOG.md", "LICENSE", "provenance.json"
NOT_OURS = {".snakemake_timestamp"}  # Snakemake puts one into each folder that it made
TEMPORARY = {408, 409, 412, 429, 500, 502, 503, 504}  # statuses; 409 and 412: someone else changed the repository
RETRIES = 5
BACKOFF = 1  # seconds before the first of them, twice as many each time
PATIENCE = 600  # seconds that the Hub may ask us to wait
TIMEOUT = 120  # seconds without a byte before a connection counts as lost


class Unfit(Fault):
    """An export that is not to be published."""


class HubError(Fault):
    """A repository that cannot be written to, or should not be."""


class File(NamedTuple):
    """A file to be published."""

    path: Path
    sha256: str


class Export(NamedTuple):
    """An exported folder that may be published."""

    files: dict[str, File]
    model: str
    tag: str
    message: str  # of the commit


class State(NamedTuple):
    """A repository as it is."""

    commit: str  # of its main branch; empty if there is no such repository
    private: bool
    files: dict[str, "RepoFile"]
    tags: dict[str, str]  # tag to commit
    left: dict  # model and SHA-256 of its files, by the provenance.json in it, if jalm put one there


class Change(NamedTuple):
    """What a publication makes of a repository."""

    files: dict[str, File]  # that it is to have of ours
    steps: dict[str, str]  # what becomes of each file, of others too: see `plan`


# ---- what may be published


def check_proof(provenance: Mapping, files: Mapping[str, str]) -> None:
    """Compare files, name to SHA-256, with those that export proved: all but the changes, which go on at the Hub.

    Raises:
        Unfit: nothing was proved, or something changed since.
    """
    proof = provenance.get("proof") or {}
    free = {CHANGES, PROVENANCE}
    proved, have = ({n: told[n] for n in told if n not in free} for told in (proof.get("files") or {}, files))
    if not proof.get("checks") or not proved:
        raise Unfit(f"{PROVENANCE} has no proof that model and tokenizer work as they did in training; export it again")
    differing = {
        "changed": [name for name in have if proved.get(name, have[name]) != have[name]],
        "added": have.keys() - proved.keys(),
        "removed": proved.keys() - have.keys(),
    }
    if any(differing.values()):
        told = "; ".join(f"{what}: {', '.join(sorted(names))}" for what, names in differing.items() if names)
        raise Unfit(f"this is not what was proved ({told}); export it again")


def check_license(folder: Path) -> None:
    """Look for a licence in the header of the card and in a file of its own.

    Raises:
        Unfit: one of them is missing.
    """
    card = folder / CARD
    header = re.match(r"---\n(.*?)\n---\n", card.read_text(encoding="utf-8") if card.is_file() else "", re.DOTALL)
    try:
        told = yaml.safe_load(header[1]) if header else None
    except yaml.YAMLError as error:
        raise Unfit(f"the header of {CARD} is no YAML: {error}") from None
    if not isinstance(told, dict) or not (
        told.get("license_name") if told.get("license") == "other" else told.get("license")
    ):
        raise Unfit(
            f"{CARD} names no license in its header; set corpora.*.license in the configuration and export again"
        )
    if not (folder / LICENSE).is_file() or not (folder / LICENSE).stat().st_size:
        raise Unfit(f"there is no {LICENSE} that says whose text the model was trained on; export it again")


def commit_message(provenance: Mapping, allow_dirty: bool) -> str:
    """Message of the commit: the model, and what made it.

    Raises:
        Unfit: that cannot be known.
    """
    revision = provenance.get("revision") or ""
    clean = bool(revision) and not revision.endswith("-dirty")
    if not clean and not allow_dirty:
        what = (
            f"a clone with changes that no commit has ({revision})" if revision else "no clone, so of no known revision"
        )
        raise Unfit(
            f"it was made by {what}; commit, export again (snakemake --forcerun export, with the record of publish as its target), "
            "or set allow_dirty, which the commit message will say"
        )
    at = f"at {revision}" if clean else f"with changes to {revision[:-6]}" if revision else "of no known revision"
    return f"{provenance['model']}, by jalm {provenance['jalm']} {at}"


def version(model: str) -> tuple[str, str]:
    """Name and date of a model; the date is empty if it has none."""
    found = re.fullmatch(r"(.+)-(\d{8})", model)
    return (found[1], found[2]) if found else (model, "")


def read(folder: Path, config: Publish) -> Export:
    """What is to be published.

    Raises:
        Unfit: it is not to be, and why.
    """
    try:
        provenance = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise Unfit(f"{folder} has no {PROVENANCE}: it is no folder that `jalm export` made") from None
    except ValueError as error:
        raise Unfit(f"{folder / PROVENANCE} is no JSON: {error}") from None
    if not isinstance(provenance, dict) or not {"model", "jalm", "revision"} <= provenance.keys():
        raise Unfit(f"{folder / PROVENANCE} does not say which model it is and what made it; export it again")
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in NOT_OURS)
    files = {}
    for path in paths:
        with open(path, "rb") as file:
            files[path.relative_to(folder).as_posix()] = File(path, hashlib.file_digest(file, "sha256").hexdigest())
    try:
        check_proof(provenance, {name: file.sha256 for name, file in files.items()})
        check_license(folder)
        message = commit_message(provenance, config.allow_dirty)
    except Unfit as fault:
        raise Unfit(f"{folder}: {fault}") from None
    tag = config.tag or version(provenance["model"])[1]
    if not tag:
        raise Unfit(f"{folder}: the name {provenance['model']!r} has no date at its end to tag it with; set tag")
    return Export(files, provenance["model"], tag, message)


# ---- what becomes of the files


def plan(
    files: Collection[str], there: Collection[str], same: Collection[str], last: Collection[str]
) -> dict[str, str]:
    """What becomes of each file: new, changed, unchanged; deleted, if we put it there, else kept.

    Args:
        files: of the export.
        there: in the repository.
        same: in both, and equal.
        last: in the repository, and as the last publication left them.
    """
    made = {name: "unchanged" if name in same else "changed" if name in there else "new" for name in files}
    return made | {name: "deleted" if name in last else "kept" for name in there if name not in files}


def continued(ours: str, theirs: str) -> str:
    """The changes of this version on top of those that the repository tells of; an entry begins with `## `."""
    (title, *entries), (_, *old) = (re.split(r"(?m)^(?=## )", text) for text in (ours, theirs))
    known = {entry.splitlines()[0] for entry in entries}
    more = [entry for entry in old if entry.splitlines()[0] not in known]
    return title + "\n".join(entry.rstrip("\n") + "\n" for entry in [*entries, *more]) if more else ours


def provenance_in(content: bytes) -> dict:
    """The provenance that an earlier export wrote; empty if it is someone else's file."""
    try:
        told = json.loads(content)
        return {"model": str(told["model"]), "files": dict(told["proof"]["files"])}
    except (ValueError, TypeError, KeyError):
        return {}


def equal(entry: "RepoFile | None", file: File) -> bool:
    """Whether a repository has this file: a large one is listed by its SHA-256, a small one by git's digest."""
    if entry is None or entry.size != file.path.stat().st_size:
        return False
    if entry.lfs:
        return entry.lfs.sha256 == file.sha256
    from huggingface_hub.utils.sha import git_hash

    return git_hash(file.path.read_bytes()) == entry.blob_id


# ---- the Hub


class Repository:
    """A model's repository on the Hub."""

    def __init__(self, repo_id: str, token: str | bool) -> None:
        from huggingface_hub import HfApi

        self.name, self.token = repo_id, token
        self.api = HfApi(token=token, library_name="jalm", library_version=__version__)
        self.url = f"{self.api.endpoint}/{repo_id}"

    def state(self) -> State:
        """What it has."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            info = self.api.model_info(self.name, timeout=TIMEOUT)
        except RepositoryNotFoundError:
            return State("", False, {}, {}, {})
        files = self.files(info.sha)
        tags = {ref.name: ref.target_commit for ref in self.api.list_repo_refs(self.name).tags}
        left = provenance_in(self.content(PROVENANCE, info.sha)) if PROVENANCE in files else {}
        return State(info.sha, info.private, files, tags, left)

    def check_token(self) -> None:
        """See whether the token is one that may write.

        Raises:
            HubError: it may only read.
        """
        told = self.api.whoami()
        if told.get("auth", {}).get("accessToken", {}).get("role") == "read":
            made = f"make one with write permission at {self.api.endpoint}/settings/tokens"
            raise HubError(f"cannot be written to: the token of {token_source()} may only read; {made}")

    def files(self, commit: str) -> dict[str, "RepoFile"]:
        """Files of a commit by name, but for the one that the Hub puts into each repository."""
        tree = self.api.list_repo_tree(self.name, recursive=True, revision=commit)
        return {entry.path: entry for entry in tree if hasattr(entry, "blob_id") and entry.path != ".gitattributes"}

    def content(self, name: str, commit: str) -> bytes:
        """A small file of a commit."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        url = hf_hub_url(self.name, name, revision=commit, endpoint=self.api.endpoint)
        response = get_session().get(url, headers=build_hf_headers(token=self.token))
        hf_raise_for_status(response)
        return response.content

    def has(self, name: str, sha256: str, state: State) -> bool:
        """Whether a file in it has this SHA-256."""
        lfs = state.files[name].lfs
        return (lfs.sha256 if lfs else hashlib.sha256(self.content(name, state.commit)).hexdigest()) == sha256


def check_state(state: State, export: Export, config: Publish) -> None:
    """Compare the repository with what is to go there.

    Raises:
        HubError: it is public, has the tag, another model, or a newer version.
    """
    if state.commit and config.private and not state.private:
        raise HubError("is public, and private is true; set private: false, or make it private in its settings there")
    if export.tag in state.tags and not config.move_tag:
        raise HubError(
            f"has a tag {export.tag} of another version already (commit {state.tags[export.tag][:12]}); set another tag, "
            "or move_tag to take it from that version"
        )
    if state.left and not config.overwrite:
        there = state.left["model"]
        (name, date), (other, latest) = version(export.model), version(there)
        if other != name:
            raise HubError(f"has another model, {there}; give {export.model} a repo_id of its own, or set overwrite")
        if latest > date:
            raise HubError(f"has a newer version, {there}; to put {export.model} on top of it set overwrite")


def change(repository: Repository, state: State, export: Export, config: Publish, scratch: Path) -> Change:
    """What is to be done.

    Args:
        repository: where they go.
        state: of it.
        export: the files.
        config: whether to replace what others put there.
        scratch: a folder for what has to be written anew.

    Raises:
        HubError: a file would be replaced that others put there, or changed.
    """
    files = dict(export.files)
    if CHANGES in files and CHANGES in state.files:
        theirs = repository.content(CHANGES, state.commit).decode("utf-8")
        text = continued(files[CHANGES].path.read_text(encoding="utf-8"), theirs).encode()
        (scratch / CHANGES).write_bytes(text)
        files[CHANGES] = File(scratch / CHANGES, hashlib.sha256(text).hexdigest())
    same = {name for name, file in files.items() if equal(state.files.get(name), file)}
    put = state.left.get("files", {})
    free = {CHANGES, PROVENANCE} if state.left else {CARD}  # the Hub gives a repository that is made there a first card
    differing = state.files.keys() - same - free
    last = {name for name in differing & put.keys() if repository.has(name, put[name], state)}
    foreign = sorted((differing & files.keys()) - last)
    if foreign and not config.overwrite:
        raise HubError(
            f"has files that jalm did not put there, or not as they are: {', '.join(foreign)}; set overwrite to replace "
            "them (they stay in the history), or use another repo_id"
        )
    return Change(files, plan(files, state.files, same, last))


def listing(repository: Repository, state: State, export: Export, config: Publish, todo: Change) -> list[str]:
    """What is to be done, for reading."""
    private = state.private if state.commit else config.private
    lines = [f"{repository.url}, {'' if state.commit else 'new, '}{'private' if private else 'public'}"]
    for name, step in sorted(todo.steps.items()):
        size = todo.files[name].path.stat().st_size if name in todo.files else state.files[name].size
        lines.append(f"  {step:<9} {size:>14,}  {name}")
    lines.append(f"commit: {export.message}" if changing(todo.steps) else "commit: none, it has all this")
    taken = f" (now that of {state.tags[export.tag][:12]})" if export.tag in state.tags else ""
    return [*lines, f"tag: {export.tag}{taken}"]


def changing(steps: Mapping[str, str]) -> bool:
    """Whether a commit is needed."""
    return not set(steps.values()) <= {"unchanged", "kept"}


def upload(repository: Repository, state: State, export: Export, config: Publish, todo: Change) -> str:
    """Send what is new, and see that it arrived; the commit.

    Raises:
        HubError: the commit has something else than what was sent.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    if not state.commit:
        repository.api.create_repo(repository.name, private=config.private)
        state = repository.state()
    files, steps, commit = *todo, state.commit
    if changing(steps):
        sent = [
            CommitOperationAdd(name, files[name].path) for name, step in steps.items() if step in ("new", "changed")
        ]
        for operation in sent:
            operation.upload_info.sha256 = bytes.fromhex(files[operation.path_in_repo].sha256)
        gone = [CommitOperationDelete(name) for name, step in steps.items() if step == "deleted"]
        made = repository.api.create_commit(
            repository.name, [*sent, *gone], commit_message=export.message, parent_commit=commit
        )
        commit = made.oid
    there = repository.files(commit)
    wrong = {name for name, file in files.items() if not equal(there.get(name), file)}
    wrong |= {name for name, step in steps.items() if step == "deleted" and name in there}
    if wrong:
        raise HubError(
            f"has other files in commit {commit} than were sent: {', '.join(sorted(wrong))}; look at it there"
        )
    return commit


def publish(repository: Repository, export: Export, config: Publish, dry_run: bool) -> dict | None:
    """Bring the repository from wherever it is to where it should be; the record of that.

    Raises:
        HubError: that would destroy what is not ours, or did not work.
    """
    state = repository.state()
    tell = print if dry_run else log.info
    if export.tag in state.tags:
        tagged = repository.files(state.tags[export.tag])
        files = {name: file for name, file in export.files.items() if name != CHANGES}
        if all(equal(tagged.get(name), file) for name, file in files.items()):
            tell(f"{repository.url} has {export.model} already, as {export.tag}: nothing to do")
            done = Change(files, dict.fromkeys(files, "unchanged"))
            return record(repository, export, state.private, state.tags[export.tag], done)
    check_state(state, export, config)
    with tempfile.TemporaryDirectory() as scratch:
        todo = change(repository, state, export, config, Path(scratch))
        for line in listing(repository, state, export, config, todo):
            tell(line)
        if dry_run:
            return None
        commit = upload(repository, state, export, config, todo)
        if export.tag in state.tags:
            repository.api.delete_tag(repository.name, tag=export.tag)
        repository.api.create_tag(repository.name, tag=export.tag, revision=commit)
        private = state.private if state.commit else config.private
        return record(repository, export, private, commit, todo)


def record(repository: Repository, export: Export, private: bool, commit: str, done: Change) -> dict:
    """What is where, for the results."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    told = {
        name: {"size": file.path.stat().st_size, "sha256": file.sha256, "was": done.steps[name]}
        for name, file in done.files.items()
    }
    return {
        "model": export.model,
        "repo_id": repository.name,
        "url": f"{repository.url}/tree/{export.tag}",
        "private": private,
        "commit": commit,
        "tag": export.tag,
        "message": export.message,
        "published": now,
        "verified": "sizes, and SHA-256 or git's digests, as the repository lists them for this commit",
        "files": told,
        "deleted": [name for name, step in done.steps.items() if step == "deleted"],
    }


# ---- requests that fail


def token_source() -> str:
    """Where the token is from."""
    return "HF_TOKEN" if os.environ.get("HF_TOKEN") else "`hf auth login`"


def meaning(error: Exception, repository: Repository) -> str:
    """What a failed request means, and what to do."""
    import httpx2

    said = " ".join((getattr(error, "server_message", None) or str(error) or type(error).__name__).split())
    said = said.replace(repository.token, "…") if repository.token else said
    endpoint = repository.api.endpoint
    status = error.response.status_code if hasattr(error, "response") else None
    if status == 401:
        return (
            f"{endpoint} does not take the token of {token_source()} ({said}); make one at {endpoint}/settings/tokens"
        )
    if status == 403:
        return (
            f"the token of {token_source()} may not write to {repository.name} ({said}); make one with write permission "
            f"for it at {endpoint}/settings/tokens"
        )
    if status:
        return f"{endpoint} answers {status}: {said}"
    if isinstance(error, httpx2.HTTPError):
        return f"{endpoint} cannot be reached, or was lost: {said}"
    if isinstance(error, (KeyError, JSONDecodeError)):
        return f"{endpoint} does not answer as a Hugging Face Hub ({said}); look at HF_ENDPOINT"
    return f"{endpoint}: {said}"


def pause(error: Exception, attempt: int) -> float | None:
    """Seconds to wait before a request that failed may be made again; None if that is of no use."""
    import httpx2

    if not hasattr(error, "response"):
        passing = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)
        return BACKOFF * 2**attempt if isinstance(error, passing) else None
    if error.response.status_code not in TEMPORARY:
        return None
    asked = error.response.headers.get("Retry-After", "")
    return min(int(asked), PATIENCE) if asked.isdigit() else BACKOFF * 2**attempt


def patiently(act: Callable[[], dict | None], repository: Repository) -> dict | None:
    """Do it again where that may help: each attempt goes on from where the last one ended.

    Raises:
        HubError: it did not help.
    """
    import httpx2

    for attempt in range(RETRIES + 1):
        try:
            return act()
        except HubError as fault:
            raise HubError(f"{repository.url} {fault}") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, ConnectionError, RuntimeError, ValueError, KeyError) as error:
            cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error
            said = meaning(cause, repository)
            seconds = pause(cause, attempt)
            if seconds is None:
                raise HubError(said) from None
            if attempt == RETRIES:
                raise HubError(f"{said}; run again later: files that were uploaded whole are not sent again") from None
            log.info("%s; again in %d s", said, seconds)
            time.sleep(seconds)
    raise AssertionError


def connected(repo_id: str, dry_run: bool) -> Repository:
    """The repository, with the token that huggingface_hub finds; a dry run can do without.

    Raises:
        HubError: there is no token, or one that cannot be.
    """
    # LFS says by HTTP statuses what failed; to the client of Xet a refused token is a network error
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    import httpx2
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars, get_session

    if huggingface_hub.is_offline_mode():
        raise HubError(
            "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set: huggingface_hub may not use the network; unset it"
        )
    token = huggingface_hub.get_token() or False  # None would be any token that is found later
    if not token and dry_run:
        log.info("there is no token for the Hub, so a private repository cannot be told from a new one")
    elif not token:
        raise HubError(
            "there is no token for the Hub; run `hf auth login` once, or put one with write permission in HF_TOKEN"
        )
    if token and not re.fullmatch(r"[!-~]+", token):  # or it would be in the message of a refused header
        raise HubError("the token for the Hub has characters that no token has, such as a space; look at HF_TOKEN")
    if not sys.stderr.isatty():
        disable_progress_bars()
    hooks = get_session().event_hooks
    client = partial(httpx2.Client, event_hooks=hooks, follow_redirects=True, timeout=TIMEOUT)  # its own waits for ever
    huggingface_hub.set_client_factory(client)
    return Repository(repo_id, token)


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, Publish, "publish")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="the exported folder")
    parser.add_argument("--output", type=Path, metavar="FILE", help="record of what is where (.json)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and touch nothing")
    args, config = cli.parse(parser, argv)
    export = read(args.model, config)
    repository = connected(config.repo_id, args.dry_run)
    if repository.token:
        patiently(repository.check_token, repository)
    made = patiently(lambda: publish(repository, export, config, args.dry_run), repository)
    if args.dry_run or made is None:
        return
    if args.output:
        with cli.writing(args.output) as (output,):
            output.write_text(json.dumps(made, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sent = [name for name, file in made["files"].items() if file["was"] != "unchanged"]
    cli.closing("publish", f"{len(made['files'])} files", f"{len(sent)} sent, {made['url']}, commit {made['commit']}")
