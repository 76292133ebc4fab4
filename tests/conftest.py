"""What several test files share; the one place that knows where shared data lies."""

import json
import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import workflow
from cluster import Cluster, missing, started
from tiny import Tiny

ROOT = Path(__file__).parents[1]

# a shell ignores SIGINT for what it starts in the background, and nohup SIGHUP: the programs that tests start would inherit that
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> workflow.Workflow:
    """The whole workflow, run once on the embedded wiki of 20261001."""
    made = workflow.copy(tmp_path_factory.mktemp("workflow"))
    made.run()
    return made


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Slurm cluster with two nodes of two fake GPUs each."""
    if why := missing():
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, started(Path(folder)) as running:  # short, for sockets
        yield running


@pytest.fixture(scope="session")
def files_of() -> Callable[[int], AbstractContextManager]:
    """A block within which no file can grow beyond some bytes, as if the disk were full."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return limited


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real dumps, texts and gold cases beside the checkout; a user's machine has none."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("no ../shared beside this checkout")
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A small corpus, its tokenizer, shards and models, made by the stages when first asked for."""
    os.environ["ACCELERATE_USE_CPU"] = "true"  # a GPU's sums are not the same to the last bit each time
    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def stream(tmp_path: Path):
    """Makes shards out of arrays of tokens, one array a part; returns their manifest."""

    def make(*parts, vocab_size: int = 1000, tokenizer: str = "a", name: str = "stream", dtype: str = "<u2") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        arrays = [np.asarray(part, dtype=dtype) for part in parts]
        for number, array in enumerate(arrays):
            array.tofile(folder / f"{number:03d}.bin")
        files = [{"name": f"{number:03d}.bin", "tokens": len(array)} for number, array in enumerate(arrays)]
        counts = {"dtype": dtype, "tokens": sum(map(len, arrays)), "files": files}
        manifest = {"tokenizer": tokenizer, "vocab_size": vocab_size, **counts}
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        return folder / "manifest.json"

    return make
