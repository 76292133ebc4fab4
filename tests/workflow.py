"""A copy of the workflow that tests can run, change and look at."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGETS = {"all", "corpus", "data"}

# the demo, made small: what is tested is the workflow, not the models
SMALL = """
models:
  gpt2-tiny:
    config: {n_layer: 1, n_head: 2, n_embd: 32}
    generation: {max_new_tokens: 10}
    block_size: 32
    max_steps: 6
    warmup_steps: 2
  roberta-tiny:
    config: {num_hidden_layers: 1, num_attention_heads: 2, hidden_size: 32, intermediate_size: 64}
    block_size: 32
    max_steps: 6
    warmup_steps: 2
"""


@dataclass
class Ran:
    """One call of snakemake.

    Attributes:
        status: its exit status.
        output: what it printed, stdout and stderr together.
    """

    status: int
    output: str

    @property
    def jobs(self) -> list[tuple[str, str]]:
        """Rule and output files of each job that ran, or would run."""
        found = re.findall(r"(?m)^(?:local)?rule (\w+):\n(?:    input: .*\n)?(?:    output: (.*)\n)?", self.output)
        return [(rule, output) for rule, output in found if rule not in TARGETS]

    @property
    def rules(self) -> set[str]:
        """Rules that ran, or would run."""
        return {rule for rule, _ in self.jobs}


@dataclass
class Workflow:
    """A copy of the workflow and a folder that it works in.

    Attributes:
        code: Snakefile, workflow/, config.yaml and the rest.
        work: where resources/ and results/ are.
        options: options of every call.
        environment: variables of every call, beside those of this process.
    """

    code: Path
    work: Path
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def snakemake(self, *args: str, cores: int = 2) -> Ran:
        """Call snakemake with the small demo configuration."""
        return self.started(*args, cores=cores, wait=True)

    def command(self, *args: str, cores: int = 2) -> list[str]:
        """The command line of a call."""
        files = [self.code / "demo.yaml", self.code / "small.yaml"]
        options = ["--directory", self.work, "--cores", cores, "--rerun-incomplete", "--show-failed-logs"]
        return [
            str(Path(sys.executable).parent / "snakemake"),
            *map(str, ["--snakefile", self.code / "Snakefile", "--configfile", *files, *options]),
            *self.options,
            *args,
        ]

    def started(self, *args: str, cores: int = 2, wait: bool) -> Ran | subprocess.Popen:
        """Start snakemake, in a process group of its own, and wait for its end or not."""
        process = subprocess.Popen(
            self.command(*args, cores=cores),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.code,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | self.environment,
            start_new_session=True,
        )
        if not wait:
            return process
        output, _ = process.communicate(timeout=1200)
        return Ran(process.returncode, output)

    def run(self, *args: str, cores: int = 2) -> Ran:
        """Call snakemake, which has to end well."""
        ran = self.snakemake(*args, cores=cores)
        assert ran.status == 0, ran.output[-6000:]
        return ran

    def stale(self, *args: str) -> set[str]:
        """Rules that snakemake would run."""
        return self.run("--dry-run", *args).rules

    @contextlib.contextmanager
    def edited(self, path: str, old: str, new: str) -> Iterator[None]:
        """A file of the code with `old` replaced by `new`, and put back after."""
        file = self.code / path
        before = file.read_text(encoding="utf-8")
        assert old in before
        file.write_text(before.replace(old, new, 1), encoding="utf-8")
        try:
            yield
        finally:
            file.write_text(before, encoding="utf-8")

    def files(self, *folders: str) -> dict[str, bytes]:
        """Path to content of all files of some results."""
        found = (path for folder in folders for path in (self.work / folder).rglob("*"))
        return {path.relative_to(self.work).as_posix(): path.read_bytes() for path in found if path.is_file()}

    def elsewhere(self, work: Path) -> "Workflow":
        """The same code, working in another folder that has the same mirror."""
        work.mkdir(parents=True)
        shutil.copytree(self.work / "dumps", work / "dumps")
        return replace(self, work=work)

    def moved(self, name: str) -> "Workflow":
        """The same code and a copy of all results, in another folder beside it."""
        work = self.work.with_name(name)
        shutil.copytree(self.work, work, symlinks=True)
        return replace(self, work=work)


def copy(folder: Path) -> Workflow:
    """The workflow copied into a folder, with the embedded wiki packed beside it."""
    code, work = folder / "code", folder / "work"
    code.mkdir(parents=True)
    for name in ("Snakefile", "config.yaml", "demo.yaml"):
        shutil.copy(ROOT / name, code / name)
    for name in ("workflow", "envs", "profiles"):
        shutil.copytree(ROOT / name, code / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (code / "slurm").symlink_to("profiles/slurm")
    (code / "small.yaml").write_text(SMALL, encoding="utf-8")
    subprocess.run([sys.executable, ROOT / "tests" / "wiki" / "pack.py", work / "dumps"], check=True)
    return Workflow(code, work)
