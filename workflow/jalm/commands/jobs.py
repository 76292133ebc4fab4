"""List the Slurm jobs that a working folder has in the queue, and why they wait.

When snakemake was killed, or the machine it ran on went down, its jobs live on. Before it is started again they are
waited for (--wait), so that a training comes to its end, or taken out of the queue (--cancel): a training goes on from
its last checkpoint. What other jobs made without their snakemake is made again, since nobody recorded from what.
"""

import shlex
import time
from pathlib import Path

from jalm import cli, slurm

INTERVAL = 5  # seconds between two looks at the queue
PATIENCE = 600  # seconds for which Slurm may give no answer


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("jobs", __doc__)
    parser.add_argument(
        "--directory", type=Path, default=Path(), metavar="DIR", help="where snakemake works (default: here)"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--wait", action="store_true", help="return when the last of them has ended")
    what.add_argument("--cancel", action="store_true", help="end them all, and return when they are gone")
    args = parser.parse_args(argv)
    if not args.directory.is_dir():
        raise slurm.SlurmError(f"--directory {args.directory}: there is no such folder")
    found = slurm.jobs(args.directory)
    if not found:
        print(f"no jobs of {args.directory.resolve()} in the queue")
        for folder in sorted({job.folder for job in slurm.all_jobs()}):
            print(f"but of another folder: jalm jobs --directory {shlex.quote(str(folder))}")
    for job in found:
        print(job)
        if job.stuck:
            print(f"           will not start: {job.stuck}")
    if args.cancel:
        slurm.cancel(found)
    failed = 0
    while (args.wait or args.cancel) and found:
        time.sleep(INTERVAL)
        try:
            found, failed = slurm.jobs(args.directory), 0
        except slurm.SlurmError:  # its controller may be restarted while we wait for days
            failed += 1
            if failed * INTERVAL > PATIENCE:
                raise
