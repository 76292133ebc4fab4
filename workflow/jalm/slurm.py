"""Slurm as the workflow sees it: the jobs of a working folder, why they wait, and what a job can learn of itself.

Everything is asked of Slurm's own commands, since Snakemake's jobs lose most of Slurm's environment variables.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from jalm import Fault

# width of the columns of squeue; the last has none
COLUMNS = {"JobArrayID": 30, "State": 20, "Reason": 80, "TimeUsed": 20, "NodeList": 80, "Comment": 200, "StdOut": 4000}
LIVING = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "REQUEUE", "RESIZING", "SIGNALING")
LOGS = Path(".snakemake") / "slurm_logs"  # where the executor plugin lets Slurm write, under the working folder

# Slurm's reasons (JOB REASON CODES in man squeue) for which a job will not start as it is, and what to do …
HOPELESS = {
    r"PartitionTimeLimit|.*MaxWall.*": "it asks for more time than it may have; lower its runtime in the profile",
    r"PartitionConfig|PartitionNodeLimit|BadConstraints": (
        "no node of the partition has what it asks for; compare its cpus_per_task, mem_mb, gpu and gres in the profile "
        "with: sinfo -o '%P %D %c %m %G %l'"
    ),
    r".*(PerJob|MinCpu|MinGRES|MaxMemPer).*": "it asks for more, or less, than its account or QOS may have in one job",
    r"(Account|QOS)NotAllowed|Invalid(Account|QOS)": "its account or QOS may not use this partition",
    r"DependencyNeverSatisfied": "what it waits for has failed",
}
# … and for which it waits until somebody does something
HELD = {
    r"PartitionDown|PartitionInactive": "its partition takes no jobs now; another slurm_partition in the profile may",
    r".*Grp.*Minutes.*|.*GrpWall.*": "the time of its account or QOS is used up; ask who grants it",
    r"NodeDown|ReqNodeNotAvail.*|.*DOWN, DRAINED or reserved.*": (
        "the nodes it could run on are down, drained or reserved; until they are back, another slurm_partition may have some"
    ),
    r"JobHeld.*|.*requeued[ _]held|.*JobHoldMaxRequeue": "it is held; look why, then: scontrol release {number}",
}


class SlurmError(Fault):
    """Slurm could not be asked."""


@dataclass
class Job:
    """A job in the queue.

    Attributes:
        number: its id; 12_3 for a task of an array.
        state: PENDING, RUNNING, …
        reason: why it waits, in Slurm's word.
        time: how long it has run, [days-]hours:minutes:seconds.
        nodes: where it runs, as Slurm writes them.
        name: the rule, and its wildcards if it is no array.
        folder: where its snakemake works.
    """

    number: str
    state: str
    reason: str
    time: str
    nodes: str
    name: str
    folder: Path

    @property
    def hopeless(self) -> str:
        """Why a job cannot start as it is, and what to do; empty for others."""
        return self._advice(HOPELESS)

    @property
    def stuck(self) -> str:
        """What is to be done about a job that its turn alone will not start; empty for one that waits for its turn."""
        return self.hopeless or self._advice(HELD)

    def _advice(self, reasons: dict[str, str]) -> str:
        found = (text for pattern, text in reasons.items() if re.fullmatch(pattern, self.reason))
        return next(found, "").format(number=self.number) if self.state == "PENDING" else ""

    def __str__(self) -> str:
        where = self.reason if self.state == "PENDING" else f"{self.time} on {self.nodes}"
        return f"{self.number:<10} {self.name:<40} {self.state:<10} {where}"


def ask(*command: str) -> str:
    """Output of a Slurm command.

    Raises:
        SlurmError: it failed, or there is no Slurm.
    """
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{' '.join(command)}: {error}") from None
    if ran.returncode:
        raise SlurmError(f"{' '.join(command)}: {ran.stderr.strip() or ran.stdout.strip()}")
    return ran.stdout


def here() -> bool:
    """Whether this machine can ask Slurm."""
    return shutil.which("squeue") is not None


def all_jobs() -> list[Job]:
    """The user's jobs, waiting and living, that a snakemake has submitted."""
    found = []
    columns = ",".join(f"{name}:{width}" for name, width in COLUMNS.items())
    for line in ask("squeue", "--me", "--array", "--noheader", "-O", columns).splitlines():
        values, start = [], 0
        for width in COLUMNS.values():
            values.append(line[start : start + width].strip())
            start += width
        *told, comment, log = values
        folder, in_logs, _ = log.partition(f"/{LOGS}/")
        if in_logs:
            rule, _, wildcards = comment.removeprefix("rule_").partition("_wildcards_")
            array = "_" in told[0]  # Slurm knows the wildcards of the first task only
            found.append(Job(*told, rule if array else f"{rule} {wildcards}".strip(), Path(folder)))
    return found


def jobs(folder: Path) -> list[Job]:
    """Those of a working folder."""
    return [job for job in all_jobs() if job.folder == folder.resolve()]


def cancel(found: list[Job]) -> None:
    """Take jobs out of the queue, ending those that run."""
    if found:
        ask("scancel", *(job.number for job in found))


def own_job() -> str:
    """Id of the job that this process belongs to, empty if it is none."""
    return os.environ.get("SLURM_JOB_ID", "")


def gone(job: str) -> bool:
    """Whether a job is no longer in the queue; False if Slurm does not say."""
    try:
        return not ask("squeue", "--noheader", "--jobs", job, "--states", "all", "--format", "%T").startswith(LIVING)
    except SlurmError as error:
        return "Invalid job id" in str(error)


def is_rule(job: str) -> bool:
    """Whether a job runs one rule; else it is one that a user put snakemake, or a stage, into."""
    return ask("squeue", "--noheader", "--jobs", job, "--format", "%k").startswith("rule_")


def seconds_left(job: str) -> float | None:
    """Seconds until Slurm ends a running job; None if nothing limits it."""
    left = ask("squeue", "--noheader", "--jobs", job, "--format", "%L").split()
    return duration(left[0]) if left else None


def duration(text: str) -> float | None:
    """Seconds of Slurm's [days-]hours:minutes:seconds; None for UNLIMITED and the like.

    >>> duration("1-02:03:04")
    93784.0
    """
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if not match:
        return None
    days, hours, minutes, seconds = (int(number or 0) for number in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def requeue(job: str) -> None:
    """Put the job that this process belongs to back into the queue, under its id; Slurm then ends this process.

    Raises:
        SlurmError: the site or the job does not allow it.
    """
    ask("scontrol", "requeue", job)


def first_node(node_list: str) -> str:
    """Address of the first node of a list as Slurm writes them, n[1-4,7]."""
    name = ask("scontrol", "show", "hostnames", node_list).split()[0]
    address = re.search(r"NodeAddr=(\S+)", ask("scontrol", "show", "node", name))
    return address[1] if address else name
