"""What the workflow does besides running jobs where there is Slurm: look after its queue."""

import atexit
import threading
import time

from snakemake.logging import logger

from jalm import slurm

QUEUE_INTERVAL = 30  # seconds between two looks at the queue


def by_slurm():
    """Whether this process gives jobs to Slurm, and is not itself within one of them."""
    return workflow.is_main_process and getattr(workflow.executor_plugin, "name", None) == "slurm"


def refuse_living_jobs():
    """Do not write beside the jobs of a snakemake that was killed."""
    if not (workflow.is_main_process and slurm.here()):
        return
    try:
        living = slurm.jobs(Path.cwd())
    except slurm.SlurmError as error:
        if by_slurm():
            raise WorkflowError(str(error)) from None
        return
    if living:
        raise WorkflowError(
            "An earlier start has left jobs in the queue, which write here:\n"
            + "".join(f"    {job}\n" for job in living)
            + f"Let trainings come to their end: jalm jobs --wait --directory {shlex.quote(os.getcwd())}\n"
            + f"Or end them all:                 jalm jobs --cancel --directory {shlex.quote(os.getcwd())}\n"
            + "Then start again: a training goes on, or is taken as it is; what else they were making is made again."
        )


def refuse_lost_jobs():
    """The executor plugin (2.8.0) forgets jobs of an array when the limit on jobs in the queue cuts it short."""
    arrays = by_slurm() and workflow.executor_settings.array_jobs
    at_once = sum(entry.parts for entry in CORPORA.values()) * max(1, len(TOKENIZERS))
    if arrays and workflow.nodes < at_once:
        raise WorkflowError(
            f"--jobs {workflow.nodes} is less than the {at_once} parts that may be ready at once, of which job arrays "
            f"are made; raise it, or do without arrays: --slurm-array-jobs ''"
        )


def refuse_half_asked_nodes():
    """Slurm waits for ever for what a training on several nodes asks for, unless all of it is asked for."""
    for job in workflow.dag.needrun_jobs() if by_slurm() else []:
        asked = job.resources
        if job.rule.name == "pretrain" and asked.nodes > 1:
            several = {"tasks": asked.nodes, "tasks_per_gpu": 0, "mpi": "srun", "gpu": 0}
            wrong = [f"{name}: {want}" for name, want in several.items() if asked.get(name) != want]
            if wrong:
                raise WorkflowError(
                    f"pretrain has nodes: {asked.nodes} in the profile, which needs {', '.join(wrong)} too"
                )


def refuse_other_logs():
    """By the place of Slurm's logs are the jobs of a folder known."""
    if by_slurm() and workflow.executor_settings.logdir:
        raise WorkflowError(
            "--slurm-logdir is not supported: jalm knows the jobs of a folder by .snakemake/slurm_logs in it"
        )


def watch_queue():
    """Report each job that waits for something that will not happen by itself, and cancel what cannot start at all."""
    reported = set()
    while True:
        try:
            stuck = [job for job in slurm.jobs(Path.cwd()) if job.stuck]
            slurm.cancel([job for job in stuck if job.hopeless])
        except slurm.SlurmError:
            stuck = []  # the executor asks Slurm too, and reports it
        for job in stuck:
            if (job.name, job.reason) not in reported:
                reported.add((job.name, job.reason))
                done = " and was cancelled" if job.hopeless else ""
                logger.error(f"Slurm job {job.number} ({job.name}) will not start{done}: {job.reason}: {job.stuck}")
        time.sleep(QUEUE_INTERVAL)


def cancel_all(folder):
    """Leave no job behind."""
    slurm.cancel(slurm.jobs(folder))


def leave_incomplete():
    """Let the head alone call what this job made complete: only the head records what it was made from.

    Else no change would ever make stale what outlived its head.
    """
    for job in workflow.dag.jobs if workflow.dag else []:
        workflow.persistence.started(job)


if workflow.remote_exec:
    atexit.register(leave_incomplete)  # Snakemake runs no hooks within jobs


onstart:
    refuse_living_jobs()
    refuse_lost_jobs()
    refuse_half_asked_nodes()
    refuse_other_logs()
    if by_slurm():
        threading.Thread(target=watch_queue, daemon=True).start()
        # what was being submitted when Ctrl-C came is in the queue now, unknown to the executor
        atexit.register(cancel_all, Path.cwd())
