"""A Hugging Face Hub on this machine: the calls that huggingface_hub makes to publish and load a model, with real storage.

Files above `small` bytes go by LFS, those above `part` in parts; what arrives is checked by its SHA-256. Requests can be
refused, and connections cut off in the midst of a file. `python tests/hub.py 8000` runs one; its token is hf_write.
"""

import base64
import hashlib
import json
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

PAGE = 4  # files of a tree in an answer; the rest on the next page


@dataclass
class Blob:
    """A file in a commit."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """Git's digest, of the pointer if it is in LFS."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        stored = pointer.encode() if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored, usedforsecurity=False).hexdigest()

    def listed(self, path: str) -> dict:
        """As a tree lists it."""
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        return entry | (
            {"lfs": {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}} if self.lfs else {}
        )


@dataclass
class Repo:
    """A repository: commits with all their files, the newest last."""

    private: bool
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        """Content of the newest files, but for the Hub's own."""
        return {path: blob.content for path, blob in self.commits[self.head].items() if path != ".gitattributes"}

    def commit(self, files: dict[str, Blob], message: str) -> str:
        told = f"{list(self.commits)} {message} {sorted((path, blob.oid) for path, blob in files.items())}"
        oid = hashlib.sha1(told.encode(), usedforsecurity=False).hexdigest()
        self.commits[oid] = files
        self.messages.append(message)
        return oid

    def at(self, revision: str) -> str | None:
        """Commit of a branch, tag or commit."""
        commit = self.head if revision == "main" else self.tags.get(revision, revision)
        return commit if commit in self.commits else None


class Hub(ThreadingHTTPServer):
    """The Hub, on a free port."""

    daemon_threads = True
    loud = False  # it logs each request
    small, part = 4096, 65536  # bytes

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.tokens = {"hf_write": "write", "hf_read": "read"}
        self.repos: dict[str, Repo] = {}
        self.stored: dict[str, bytes] = {}  # LFS objects by SHA-256
        self.parts: dict[tuple[str, int], bytes] = {}
        self.asked: list[str] = []  # method and path of each request
        self.sent: list[tuple[str, int]] = []  # path and bytes of each body of a PUT, also of those cut off
        self.refusals: list[tuple[str, int, dict[str, str]]] = []  # pattern of a request, status, headers; each once
        self.cuts: list[int] = []  # bytes of the next PUTs after which the connection is cut
        self.lost: list[str] = []  # patterns of requests that are done, but whose answer is lost; each once
        self.stalls: list[str] = []  # patterns of requests that are answered after three seconds only; each once
        self.rate = 0  # bytes a second that it takes in a PUT; 0: all it can
        self.lock = threading.RLock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, files: dict[str, bytes], private: bool = True) -> Repo:
        """A repository that is there already, with these files."""
        repo = self.repos[name] = Repo(private)
        attributes = Blob(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", lfs=False)
        repo.commit({".gitattributes": attributes}, "initial commit")
        if files:
            self.change(name, files)
        return repo

    def change(self, name: str, files: dict[str, bytes]) -> None:
        """Files put there by someone else."""
        repo = self.repos[name]
        made = {path: Blob(content, len(content) > self.small) for path, content in files.items()}
        repo.commit({**repo.commits[repo.head], **made}, "someone else")

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Cut(ConnectionError):
    """The connection is cut off."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits for 40 ms
    server: Hub

    def answer(self, status: int, content: object = b"", **headers: str) -> None:
        request = f"{self.command} {self.path}"
        if lost := next((pattern for pattern in self.server.lost if re.search(pattern, request)), None):
            self.server.lost.remove(lost)
            raise Cut
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, message: str, code: str = "") -> None:
        self.answer(status, {"error": message}, **({"X_Error_Code": code} if code else {}))

    def body(self) -> bytes:
        """What was sent; it may come in at a certain rate, or be cut off."""
        hub, left, taken = self.server, int(self.headers.get("Content-Length") or 0), b""
        pieces = []
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        cut = hub.cuts.pop(0) if hub.cuts and self.command == "PUT" else None
        try:
            while left:
                piece = self.rfile.read1(min(left, 65536 if cut is None else max(1, cut - len(taken))))
                if not piece:
                    raise Cut
                taken, left = taken + piece, left - len(piece)
                if hub.rate and self.command == "PUT":
                    time.sleep(len(piece) / hub.rate)
                if cut is not None and len(taken) >= cut:
                    raise Cut
        finally:
            if self.command == "PUT":
                hub.sent.append((urlsplit(self.path).path, len(taken)))
        return taken

    def log_message(self, *words: object) -> None:
        if self.server.loud:
            super().log_message(*words)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def respond(self) -> None:
        hub, request = self.server, f"{self.command} {self.path}"
        hub.asked.append(request)
        url = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        sent = self.body()
        if stalled := next((pattern for pattern in hub.stalls if re.search(pattern, request)), None):
            hub.stalls.remove(stalled)
            threading.Event().wait(3)  # a test may have taken time.sleep away
        for refusal in hub.refusals:
            if re.search(refusal[0], request):
                hub.refusals.remove(refusal)
                return self.answer(refusal[1], {"error": "refused for the test"}, **refusal[2])
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        self.role = hub.tokens.get(token) if scheme == "Bearer" else None
        if token and not self.role:
            return self.refuse(401, "Invalid credentials in Authorization header")
        with hub.lock:
            for method, pattern, act in ROUTES:
                if method == self.command and (found := re.fullmatch(pattern, url.path)):
                    return act(self, sent, *map(unquote, found.groups()))
        return self.refuse(404, f"no such page: {request}")

    def repo(self, name: str, write: bool = False) -> Repo | None:
        """A repository that may be read, or written; None, and an answer, if not."""
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and not self.role):
            self.refuse(404 if self.role else 401, "Repository not found", "RepoNotFound")
            return None
        if write and self.role != "write":
            self.refuse(403, f"Authorization error: you don't have write access to {name}")
            return None
        return repo

    # ---- the API

    def whoami(self, sent: bytes) -> None:
        if not self.role:
            return self.refuse(401, "Invalid username or password.")
        token = {"displayName": "test", "role": self.role}
        return self.answer(200, {"type": "user", "name": "you", "orgs": [], "auth": {"accessToken": token}})

    def create(self, sent: bytes) -> None:
        told = json.loads(sent)
        name = f"{told.get('organization') or 'you'}/{told['name']}"
        if self.role != "write" or told.get("organization") not in (None, "you"):
            return self.refuse(403, f"You don't have the rights to create a model under the namespace {name}")
        if name in self.server.repos:
            return self.refuse(409, "You already created this model repo")
        self.server.add(name, {}, told.get("visibility") == "private")
        return self.answer(200, {"url": f"{self.server.address}/{name}", "name": name})

    def info(self, sent: bytes, name: str, revision: str | None = None) -> None:
        if repo := self.repo(name):
            commit = repo.at(revision or "main")
            if commit is None:
                return self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            siblings = [{"rfilename": path} for path in repo.commits[commit]]
            return self.answer(200, {"id": name, "sha": commit, "private": repo.private, "siblings": siblings})
        return None

    def tree(self, sent: bytes, name: str, revision: str) -> None:
        if repo := self.repo(name):
            commit = repo.at(revision)
            if commit is None:
                return self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            files = repo.commits[commit]
            folders = sorted({path.rpartition("/")[0] for path in files if "/" in path})
            entries = [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in folders]
            entries += [files[path].listed(path) for path in sorted(files)]
            start = int(self.query.get("cursor", 0))
            more = {}
            if start + PAGE < len(entries):
                page = (
                    f"{self.server.address}/api/models/{quote(name)}/tree/{commit}?recursive=true&cursor={start + PAGE}"
                )
                more = {"Link": f'<{page}>; rel="next"'}
            return self.answer(200, entries[start : start + PAGE], **more)
        return None

    def refs(self, sent: bytes, name: str) -> None:
        if repo := self.repo(name):
            branches = [{"name": "main", "ref": "refs/heads/main", "targetCommit": repo.head}]
            tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": at} for tag, at in repo.tags.items()]
            self.answer(200, {"branches": branches, "tags": tags, "converts": []})

    def preupload(self, sent: bytes, name: str, revision: str) -> None:
        if repo := self.repo(name, write=True):
            there, files = repo.commits[repo.head], []
            for file in json.loads(sent)["files"]:
                path, blob = file["path"], there.get(file["path"])
                mode = "lfs" if file["size"] > self.server.small else "regular"
                told = {"oid": blob.sha256 if blob.lfs else blob.oid} if blob else {}
                files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **told})
            self.answer(200, {"files": files})

    def validate_yaml(self, sent: bytes) -> None:
        header = re.match(r"---\n(.*?)\n---\n", json.loads(sent)["content"], re.DOTALL)
        try:
            told = yaml.safe_load(header[1]) if header else {}
        except yaml.YAMLError as error:
            return self.answer(400, {"errors": [{"message": str(error)}], "warnings": []})
        errors = [] if isinstance(told.get("license", ""), str) else [{"message": '"license" must be a string'}]
        return self.answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def commit(self, sent: bytes, name: str, revision: str) -> None:
        repo = self.repo(name, write=True)
        if not repo:
            return None
        header, *operations = map(json.loads, sent.splitlines())
        told = header["value"]
        if told.get("parentCommit", repo.head) != repo.head:
            return self.refuse(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[repo.head])
        for operation in operations:
            kind, value = operation["key"], operation["value"]
            if kind == "file":
                content = base64.b64decode(value["content"])
                if len(content) > self.server.small:
                    return self.refuse(400, f"{value['path']} is too large for a regular file")
                files[value["path"]] = Blob(content, lfs=False)
            elif kind == "lfsFile":
                if len(self.server.stored.get(value["oid"], b"")) != value["size"]:
                    return self.refuse(400, f"LFS pointer of {value['path']} points to a file that does not exist")
                files[value["path"]] = Blob(self.server.stored[value["oid"]], lfs=True)
            elif files.pop(value["path"], None) is None:
                return self.refuse(404, "A file with this name doesn't exist", "EntryNotFound")
        commit = repo.commit(files, told["summary"])
        return self.answer(200, {"success": True, "commitOid": commit, "commitUrl": f"/{name}/commit/{commit}"})

    def tag(self, sent: bytes, name: str, revision: str) -> None:
        if repo := self.repo(name, write=True):
            tag, commit = json.loads(sent)["tag"], repo.at(revision)
            if commit is None:
                return self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            if tag in repo.tags:
                return self.refuse(409, f"Tag {tag} already exists")
            repo.tags[tag] = commit
            return self.answer(200, {})
        return None

    def untag(self, sent: bytes, name: str, tag: str) -> None:
        if repo := self.repo(name, write=True):
            if repo.tags.pop(tag, None) is None:
                return self.refuse(404, f"Invalid rev id: {tag}", "RevisionNotFound")
            return self.answer(200, {})
        return None

    # ---- large files

    def batch(self, sent: bytes, name: str) -> None:
        if not self.repo(name, write=True):
            return
        hub, objects = self.server, []
        for told in json.loads(sent)["objects"]:
            entry, oid, size = {"oid": told["oid"], "size": told["size"]}, told["oid"], told["size"]
            if oid not in hub.stored:
                place = f"{hub.address}/lfs/{oid}"
                entry["actions"] = {"upload": {"href": place}, "verify": {"href": f"{place}/verify"}}
                if size > hub.part:
                    parts = {str(n + 1): f"{place}/part/{n + 1}" for n in range(-(-size // hub.part))}
                    header = {"chunk_size": str(hub.part), **parts}
                    entry["actions"]["upload"] = {"href": f"{place}/complete", "header": header}
            objects.append(entry)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def keep(self, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            return self.refuse(422, "the file has another SHA-256")
        self.server.stored[oid] = content
        return self.answer(200, {})

    def put(self, sent: bytes, oid: str) -> None:
        self.keep(oid, sent)

    def put_part(self, sent: bytes, oid: str, number: str) -> None:
        self.server.parts[oid, int(number)] = sent
        self.answer(200, ETag=f'"{hashlib.md5(sent, usedforsecurity=False).hexdigest()}"')

    def complete(self, sent: bytes, oid: str) -> None:
        numbers = [part["partNumber"] for part in json.loads(sent)["parts"]]
        self.keep(oid, b"".join(self.server.parts[oid, number] for number in numbers))

    def verify(self, sent: bytes, oid: str) -> None:
        told = json.loads(sent)
        kept = self.server.stored.get(told["oid"])
        if not self.role or kept is None or len(kept) != told["size"]:
            return self.refuse(404, "there is no such object")
        return self.answer(200, {})

    # ---- loading

    def resolve(self, sent: bytes, name: str, revision: str, path: str) -> None:
        if repo := self.repo(name):
            commit = repo.at(revision)
            if commit is None:
                return self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            blob = repo.commits[commit].get(path)
            if blob is None:
                return self.refuse(404, "Entry not found", "EntryNotFound")
            tag = blob.sha256 if blob.lfs else blob.oid
            linked = {"X_Linked_Etag": f'"{tag}"', "X_Linked_Size": str(len(blob.content))} if blob.lfs else {}
            return self.answer(200, blob.content, ETag=f'"{tag}"', X_Repo_Commit=commit, **linked)
        return None


for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
    setattr(Handler, f"do_{method}", Handler.respond)

NAME = "([^/]+/[^/]+)"
ROUTES = [
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate_yaml),
    ("GET", f"/api/models/{NAME}", Handler.info),
    ("GET", f"/api/models/{NAME}/revision/([^/]+)", Handler.info),
    ("GET", f"/api/models/{NAME}/tree/([^/]+)", Handler.tree),
    ("GET", f"/api/models/{NAME}/refs", Handler.refs),
    ("POST", f"/api/models/{NAME}/preupload/([^/]+)", Handler.preupload),
    ("POST", f"/api/models/{NAME}/commit/([^/]+)", Handler.commit),
    ("POST", f"/api/models/{NAME}/tag/([^/]+)", Handler.tag),
    ("DELETE", f"/api/models/{NAME}/tag/([^/]+)", Handler.untag),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", "/lfs/([0-9a-f]{64})", Handler.put),
    ("PUT", r"/lfs/([0-9a-f]{64})/part/(\d+)", Handler.put_part),
    ("POST", "/lfs/([0-9a-f]{64})/complete", Handler.complete),
    ("POST", "/lfs/([0-9a-f]{64})/verify", Handler.verify),
    *[(method, f"/{NAME}/resolve/([^/]+)/(.+)", Handler.resolve) for method in ("GET", "HEAD")],
]

if __name__ == "__main__":
    port, *rate = map(int, sys.argv[1:])
    with Hub(port) as hub:
        hub.loud, hub.rate, hub.part = True, rate[0] if rate else 0, 1 << 25
        hub.serve_forever()
