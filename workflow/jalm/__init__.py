"""From a dump to a published Japanese language model, stage by stage."""

import glob
import os
import shutil
import socket
from pathlib import Path

__version__ = "0.1.0"


class Fault(ValueError):
    """Something a user can cause and mend; shown as one message, without a traceback.

    The message says what was wrong, the value seen, where it came from and what to do.

    Attributes:
        status: the exit status it ends in.
    """

    status = 1


def unfinished(path: Path) -> Path:
    """Name for what becomes `path` once it is whole; what earlier processes left under such a name is removed.

    It belongs to this process: an orphan of a killed workflow that still writes never finishes what we began.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.partial")
