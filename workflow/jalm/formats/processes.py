"""The processes that share a training, each with a part of the rows; one alone is the common case."""

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def alone() -> bool:
    """Whether there is only this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


@contextlib.contextmanager
def met(told_to_end: type[Exception]) -> Iterator[None]:
    """Meet the other processes, and part from them when all have ended well or with this exception."""
    if alone():
        yield
        return
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    try:
        yield
    except told_to_end:
        state.destroy_process_group()
        raise
    state.destroy_process_group()  # a process that ends without it may abort


def place() -> tuple[int, int]:
    """Which of the processes this is, counted from 0, and how many there are."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def device() -> "torch.device":
    """The device of this process."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device


def said_by_lead(value: bool) -> bool:
    """What the first of all processes says; what the others see of a shared file system may be older."""
    if alone():
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def meet() -> None:
    """Wait until all processes have come here."""
    if not alone():
        import torch

        torch.distributed.barrier()


def summed(numbers: list[float] | np.ndarray) -> np.ndarray:
    """Sums of numbers over all processes, float64."""
    return _reduced(numbers, "SUM")


def smallest(number: float) -> float:
    """The smallest that a process has."""
    return float(_reduced([number], "MIN")[0])


def _reduced(numbers: list[float] | np.ndarray, operation: str) -> np.ndarray:
    if alone():
        return np.array(numbers, dtype=np.float64)
    import torch
    from accelerate import PartialState

    local = torch.tensor(numbers, dtype=torch.float64, device=PartialState().device)
    torch.distributed.all_reduce(local, getattr(torch.distributed.ReduceOp, operation))
    return local.cpu().numpy()
