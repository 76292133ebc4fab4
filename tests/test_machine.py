import os
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from jalm.formats import machine

CPU = torch.device("cpu")


def test_the_peak_is_the_operations_of_the_fastest_product_by_its_time(monkeypatch):
    def peak(*seconds: float) -> float:
        clock = iter([tick for taken in seconds for tick in (0.0, taken)])
        monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
        return machine.matmul_peak(CPU, torch.float32)

    assert peak(0.05, 0.025, 0.05, 0.05, 0.0125, 0.05, 0.05, 0.05) == 2 * 1024**3 / 0.0125
    assert peak(3.0) == 2 * 1024**3 / 3  # where one takes so long, there is no second


def test_a_cpu_is_called_by_its_model(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    told = subprocess.run(["lscpu"], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout
    if model := re.search(r"(?m)^Model name: +(.+)", told):
        assert machine.name(CPU) == f"{model[1]}, 2 threads"
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        assert machine.name(CPU).endswith(", 1 thread")
    else:
        assert machine.name(CPU) == "cpu"


def test_the_memory_is_what_the_system_says_was_used_at_most():
    held = np.ones(50 << 20, dtype=np.uint8)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    system = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**20
    assert machine.peak_memory(CPU) == pytest.approx(system, rel=0.01)
    assert machine.peak_memory(CPU) > held.nbytes / 2**30


def test_nothing_is_said_of_a_gpu_that_is_not_used():
    assert machine.gpu_utilization(CPU) == {}


def test_why_nothing_can_be_compiled_is_said(monkeypatch, tmp_path):
    compiler, headers = tmp_path / "c++", tmp_path / "include"
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(machine.sysconfig, "get_paths", lambda: {"include": str(headers)})
    assert machine.no_compiler(CPU) == "there is no C++ compiler"
    compiler.touch(mode=0o755)
    assert machine.no_compiler(CPU) == "Python's headers are missing (python3-dev)"
    headers.mkdir()
    (headers / "Python.h").touch()
    assert machine.no_compiler(CPU) == ""


def test_a_compiler_that_torch_does_not_look_for_does_not_count(monkeypatch, tmp_path):
    (tmp_path / "clang++").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert machine.no_compiler(CPU) == "there is no C++ compiler"


def test_a_gpu_needs_triton_too(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda _: "/usr/bin/c++")
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    for found, said in ((None, "there is no triton"), (object(), "")):
        monkeypatch.setattr(machine.importlib.util, "find_spec", lambda _, found=found: found)
        assert machine.no_compiler(torch.device("cuda")) == said
