"""The house holds: names agree, imports point one way, environments and lock are one."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from jalm import provenance

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "workflow" / "jalm"
STAGES = sorted(path.stem for path in (PACKAGE / "stages").glob("[a-z]*.py"))
RULES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))
TARGETS = {"all", "corpus", "data"}


def modules(folder: str) -> dict[str, set[str]]:
    """Module to the modules of the package that it imports."""
    files = (PACKAGE / folder).glob("*.py")
    return {path.stem: provenance.imports(path.read_text(encoding="utf-8")) for path in files}


def bodies() -> dict[str, str]:
    """Rule to its text."""
    found = re.split(r"(?m)^rule (\w+):$", RULES)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


def test_every_stage_is_a_rule_and_every_rule_a_stage():
    assert set(bodies()) == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_a_test_file_a_folder_of_results_a_log_and_a_command_of_its_name(stage):
    assert (ROOT / "tests" / f"test_{stage}.py").is_file()
    body = bodies()[stage]
    assert f'"logs/{stage}/' in body
    assert f'"benchmarks/{stage}/' in body
    launched = stage in ("pretrain", "evaluate")  # as a process for each GPU
    assert f'" {stage} {{params.flags}}' in body if launched else f"python -m jalm {stage} " in body
    assert ("python -m jalm launch " in body) == launched
    home = {"download": "resources", "split_summary": "results/split", "shard_manifest": "results/shard"}
    home["train_tokenizer_report"] = "results/train_tokenizer"
    assert f'"{home.get(stage, f"results/{stage}")}/' in body


@pytest.mark.parametrize("stage", STAGES)
def test_a_rule_says_what_it_is_for_what_it_needs_and_what_makes_it_stale(stage):
    body = bodies()[stage]
    assert body.lstrip().startswith('"""')
    for directive in ("output", "log", "benchmark", "conda", "resources", "params", "shell"):
        assert f"\n    {directive}:\n" in body
    for word in ("mem_mb=", "runtime=", "flags=", f'("{stage}")', "{params.flags}"):
        assert word in body
    params = body.partition("    params:\n")[2].partition("    shell:\n")[0]
    assert not re.search(r"threads|cpus|mem|gpu|partition", params)


@pytest.mark.parametrize("name", ["cli", "config", "configfile", "knobs", "provenance", "sizes", "slurm"])
def test_the_base_imports_nothing_of_the_package_but_the_base(name):
    imported = provenance.imports((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    allowed = {"cli": {"knobs"}, "sizes": {"knobs"}, "config": {"knobs", "sizes"}, "configfile": {"config", "knobs"}}
    assert imported <= allowed.get(name, set())


def test_formats_import_formats_only():
    for name, imported in modules("formats").items():
        assert all(module.startswith("formats.") for module in imported), (name, imported)


@pytest.mark.parametrize("folder", ["stages", "commands"])
def test_stages_and_commands_import_no_stage_and_no_command(folder):
    for name, imported in modules(folder).items():
        assert all(m in ("cli", "config", "knobs", "sizes", "slurm") or m.startswith("formats.") for m in imported), (
            name,
            imported,
        )


def test_rules_import_configuration_provenance_and_slurm_only():
    assert set(re.findall(r"from jalm(?:\.| import )(\w+)", RULES)) == {
        "config",
        "configfile",
        "knobs",
        "provenance",
        "slurm",
    }


def test_parsing_the_workflow_imports_nothing_heavy():
    program = "import sys; import jalm.cli, jalm.configfile, jalm.provenance, jalm.slurm; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "numpy", "tokenizers", "sentencepiece", "fugashi", "requests"} & set(loaded)


@pytest.mark.parametrize("stage", STAGES)
def test_help_of_a_stage_tells_every_knob_and_comes_at_once(stage):
    program = f"import sys; from jalm.cli import run; sys.argv[1:] = ['{stage}', '--help']\ntry: run()\nfinally: print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    doc = ast.get_docstring(ast.parse((PACKAGE / "stages" / f"{stage}.py").read_text(encoding="utf-8")))
    assert doc.splitlines()[0] in ran.stdout
    assert not {"torch", "transformers"} & set(ran.stdout.splitlines()[-1].split())


def test_the_conda_environments_and_the_lock_name_the_same_versions():
    lock = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)$", (ROOT / "envs" / "requirements.txt").read_text(encoding="utf-8")))
    lock = {name.lower().replace("_", "-"): version for name, version in lock.items()}
    for name in ("cpu", "gpu"):
        dependencies = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text(encoding="utf-8"))["dependencies"]
        pinned = [line.split("==") for line in dependencies[-1]["pip"] if "==" in line]
        assert len(pinned) > 10
        for package, version in pinned:
            assert lock[package] == version


def test_the_environments_have_every_library_that_the_package_imports():
    names = {
        "yaml": "pyyaml",
        "google": "protobuf",
        "fontTools": "fonttools",
        "huggingface_hub": "huggingface-hub",
        "matplotlib_fontja": "matplotlib-fontja",
        "pynvml": "nvidia-ml-py",
        "unidic_lite": "unidic-lite",
        "urllib3": "requests",
        "xz": "python-xz",
    }
    imported = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    imported -= {*sys.stdlib_module_names, "jalm"}
    lines = (ROOT / "envs" / "cpu.yaml").read_text(encoding="utf-8")
    for name in imported:
        assert f"- {names.get(name, name)}==" in lines


@pytest.mark.parametrize("path", sorted((ROOT / "bench").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_uses_only_what_the_package_has(path):
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    wanted = [
        node for node in nodes if isinstance(node, ast.ImportFrom) and node.module in ("jalm.formats", "jalm.stages")
    ]
    modules = {
        alias.name: importlib.import_module(f"{node.module}.{alias.name}") for node in wanted for alias in node.names
    }
    used = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    missing = [
        f"{node.value.id}.{node.attr}"
        for node in used
        if node.value.id in modules and not hasattr(modules[node.value.id], node.attr)
    ]
    assert missing == []
