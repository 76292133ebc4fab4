"""Killing a process before each change that it makes to files."""

import os
import signal
import sys
import traceback
from collections.abc import Callable

CHANGING = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"}


def killed_before(number: int, act: Callable, *given: object) -> bool:
    """Do it in a process that is killed, as kill -9 does, before its change of that number; False if it ended."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL)
        return status != 0
    changes = 0

    def count(event: str, arguments: tuple) -> None:
        nonlocal changes
        if event in CHANGING or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            changes += 1
            if changes == number:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(count)
        act(*given)
        os._exit(0)
    finally:
        traceback.print_exc()
        os._exit(1)
