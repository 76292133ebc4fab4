"""The machine that a training runs on: how fast it multiplies, what memory is used, whether it can compile."""

import importlib.util
import os
import re
import resource
import shutil
import sysconfig
import time
from pathlib import Path

import torch


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product: the best of those that fit into a second."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times: list[float] = []
    while len(times) < 8 and sum(times) < 1:  # a CPU without instructions for bf16 takes seconds
        synchronize(device)
        began = time.perf_counter()
        a @ b
        synchronize(device)
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times)


def name(device: torch.device) -> str:
    """What the device is called; a CPU by its model, where the system tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    told = Path("/proc/cpuinfo")  # of Linux on x86
    found = re.search(r"(?m)^model name\s*: (.+)", told.read_text(encoding="utf-8")) if told.is_file() else None
    threads = torch.get_num_threads()
    return f"{found[1].strip()}, {threads} thread{'s' * (threads > 1)}" if found else str(device)


def synchronize(device: torch.device) -> None:
    """Wait for what a GPU was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> float:
    """Most memory that this process has used, of the GPU if it uses one; GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def gpu_utilization(device: torch.device) -> dict[str, float]:
    """Share of the last second that the GPU was busy, in percent; nothing where that cannot be known."""
    if device.type != "cuda":
        return {}
    try:
        import pynvml

        return {"gpu_utilization": float(torch.cuda.utilization(device))}
    except (ModuleNotFoundError, RuntimeError):
        return {}
    except pynvml.NVMLError:  # no driver's library; or a part of a GPU, of which it is not told
        return {}


def no_compiler(device: torch.device) -> str:
    """Why torch.compile cannot work here, empty if it can."""
    if not shutil.which(os.environ.get("CXX", "g++")):  # torch looks for no other
        return "there is no C++ compiler"
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        return "Python's headers are missing (python3-dev)"
    if device.type == "cuda" and not importlib.util.find_spec("triton"):
        return "there is no triton"
    return ""
