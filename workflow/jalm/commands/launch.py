"""Start a stage as one process for each GPU, on one machine or on the nodes of a Slurm job.

Inside a Slurm job the GPUs are those that it was given; with --nodes it starts itself on each node by srun, and the
processes find each other there. Elsewhere it takes --gpus of the machine's, and waits while others hold them. With
one GPU, or none, the stage runs in this process.
"""

import argparse
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from jalm import Fault, cli, slurm

FIRST_PORT, PORTS = 20000, 10000  # below those that systems hand out by themselves
MEETING_TIME = 300  # seconds that the nodes wait for each other
SAVING_TIME = 120  # seconds that processes have to save their state when they are told to end
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)  # passed on to the processes
STARTED = "JALM_LAUNCH"  # set in the tasks that we start ourselves; SLURM_NODEID is also set in a batch script
ON_CPU = "ACCELERATE_USE_CPU"  # set by who wants the CPU; accelerate reads it
POLL = 1  # seconds between two looks for a free GPU


class LaunchError(Fault):
    """The processes could not be started, or one of them failed; then with its exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def start_on_nodes(args: argparse.Namespace, argv: list[str]) -> None:
    """Become srun, which starts this command again on every node of the job."""
    job = slurm.own_job()
    if not job:
        raise LaunchError(
            f"--nodes {args.nodes} needs a Slurm job; without Slurm a training takes the GPUs of one machine"
        )
    spread = [f"--nodes={args.nodes}", f"--ntasks={args.nodes}", "--ntasks-per-node=1"]
    # srun gives a task one core unless told otherwise, and goes on when one of them fails
    cores = [f"--cpus-per-task={args.cpus}", "--kill-on-bad-exit=1"]
    cli.log.info("job %s: starting on %s nodes", job, args.nodes)
    os.environ[STARTED] = "yes"
    os.execvp("srun", ["srun", *spread, *cores, sys.executable, "-m", "jalm", "launch", *argv])


def given_gpus() -> list[str]:
    """GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name not in ("", "-1")]
    if slurm.own_job():
        return []  # the node may have some, but they are not for this job
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def claim(gpus: list[str], wanted: int, folder: Path, stack: contextlib.ExitStack) -> list[str]:
    """Take GPUs that no other process has claimed, waiting for them; they are free again when the stack closes.

    Raises:
        LaunchError: the machine does not have so many.
    """
    if wanted > len(gpus):
        raise LaunchError(f"--gpus {wanted}, but this machine has {len(gpus)} to use: {', '.join(gpus)}")
    waiting = False
    while True:
        with contextlib.ExitStack() as attempt:
            taken = []
            for gpu in gpus:
                if len(taken) < wanted and _lock(folder / f"jalm-gpu-{gpu}", attempt):
                    taken.append(gpu)
            if len(taken) == wanted:
                stack.push(attempt.pop_all())
                return taken
        if not waiting:
            cli.log.info("waiting for %s of the GPUs %s, which other jobs use", wanted, ", ".join(gpus))
        waiting = True
        time.sleep(POLL)


def _lock(path: Path, stack: contextlib.ExitStack) -> bool:
    with contextlib.suppress(FileExistsError):  # another user's may be opened, but not with O_CREAT
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o644))
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return False
    stack.callback(os.close, file)
    return True


def start_processes(stage: list[str], nodes: int, processes: int) -> None:
    """Run a stage in several processes, on this node and, if this is a task of srun, on the others.

    Raises:
        LaunchError: the nodes did not meet, or a process failed and the others were ended.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # the failed process says what failed
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(SAVING_TIME)
    job = slurm.own_job() or "0"
    if nodes > 1:  # which have to know it without asking each other
        port = FIRST_PORT + int(job) % PORTS
        node, head = int(os.environ["SLURM_NODEID"]), slurm.first_node(os.environ["SLURM_JOB_NODELIST"])
    else:
        node, head = 0, "127.0.0.1"
        with socket.create_server(("", 0)) as free:
            port = free.getsockname()[1]
    cli.log.info("node %s of %s: %s processes, meeting at %s:%s", node + 1, nodes, processes, head, port)
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes,
        run_id=job,
        rdzv_backend="static",
        rdzv_endpoint=f"{head}:{port}",
        rdzv_configs={"rank": node, "timeout": MEETING_TIME},
        max_restarts=0,
        signals_to_handle=",".join(number.name for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "jalm", *stage)
    except DistError as error:
        reason = str(error).splitlines()[0]
        raise LaunchError(
            f"node {node + 1} of {nodes} did not meet the others at {head}:{port} ({reason}); "
            "can the nodes reach each other there, and is the port free?"
        ) from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise LaunchError(
            f"process {rank} of {stage[0]} ended with exit status {failure.exitcode}; see above",
            max(1, failure.exitcode),
        ) from None
    except SignalException as error:
        raise LaunchError(
            f"told to stop by {error.sigval.name}; see above what {stage[0]} did", os.EX_TEMPFAIL
        ) from None


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("launch", __doc__)
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes of the Slurm job (default: 1)")
    parser.add_argument(
        "--gpus",
        type=int,
        default=0,
        metavar="N",
        help="GPUs to take, or that the job must have (default: one if there are any, or the job's)",
    )
    parser.add_argument("--cpus", type=int, default=1, metavar="N", help="cores of each node (default: 1)")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="processes on each node (default: one for each GPU, at least 1)"
    )
    parser.add_argument("stage", nargs=argparse.REMAINDER, help="the stage and its arguments")
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    if not args.stage:
        raise LaunchError("which stage? jalm launch [options] STAGE …")
    if args.nodes > 1 and STARTED not in os.environ:
        start_on_nodes(args, argv)
    with contextlib.ExitStack() as stack:
        gpus = given_gpus()
        if gpus and not slurm.own_job():
            gpus = claim(gpus, args.gpus or 1, Path(tempfile.gettempdir()), stack)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        import torch

        cli.log.info("GPUs: %s", ", ".join(gpus) or "none, so the CPU")
        usable, asked = torch.cuda.device_count(), max(args.gpus, len(gpus))
        if usable < asked and ON_CPU not in os.environ:
            raise LaunchError(
                f"{asked} GPUs were asked for, of which PyTorch can use {usable}: is it built for CUDA, is the driver new "
                f"enough, does the job have them (CUDA_VISIBLE_DEVICES is {','.join(gpus)!r})? To use the CPU: {ON_CPU}=true"
            )
        if not usable:
            os.environ[ON_CPU] = "true"
        processes = args.processes or max(1, len(gpus))
        if args.nodes * processes == 1:
            cli.run(args.stage)
        else:
            os.environ["OMP_NUM_THREADS"] = str(max(1, args.cpus // processes))
            start_processes(args.stage, args.nodes, processes)
