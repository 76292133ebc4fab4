"""What the workflow does besides running jobs: looks at what they need before it starts, and after Slurm's queue."""

import atexit
import threading
import time

from snakemake.logging import logger

from jalm import slurm

QUEUE_INTERVAL = 30  # seconds between two looks at the queue


def by_slurm():
    """Whether this process gives jobs to Slurm, and is not itself within one of them."""
    return workflow.is_main_process and getattr(workflow.executor_plugin, "name", None) == "slurm"


def refuse_missing_dictionary():
    """Do not load and clean a dump first, and then find that segment cannot begin."""
    needed = any(job.rule.name == "segment" for job in workflow.dag.needrun_jobs())
    if needed and workflow.is_main_process and not workflow.deployment_settings.deployment_method:
        name = cfg.segment.dictionary
        if dictionary(name).endswith(MISSING):
            raise WorkflowError(
                f"segment.dictionary is {name!r}, which is not here: run `python -m unidic download` for unidic, or set it to "
                "unidic-lite or the folder of a compiled UniDic"
            )


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
    at_once = sum(entry.parts for entry in CORPORA.values()) * max(1, len(TOKENIZERS))
    if workflow.executor_settings.array_jobs and workflow.nodes < at_once:
        raise WorkflowError(
            f"--jobs {workflow.nodes} is less than the {at_once} parts that may be ready at once, of which job arrays "
            f"are made; raise it, or do without arrays: --slurm-array-jobs ''"
        )


def refuse_half_asked_nodes():
    """Slurm waits for ever for what a training on several nodes asks for, unless all of it is asked for."""
    for job in workflow.dag.needrun_jobs():
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
    if workflow.executor_settings.logdir:
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
    tasks = map(os.getenv, ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN"))
    if getattr(workflow.executor_settings, "array_execs", "") and len(set(tasks)) > 1:
        return  # each task of an array begins as the first one, whose job is not its own, and starts its own from there
    for job in workflow.dag.targetjobs if workflow.dag else []:
        workflow.persistence.started(job)


if workflow.remote_exec:
    atexit.register(leave_incomplete)  # Snakemake runs no hooks within jobs


def warn_of_what_is_not_compared():
    """Say which local text may repeat a wiki: it stands after it, where dedup cannot compare them."""
    for place, (name, entry) in enumerate(cfg.corpora.items()):
        before = [other for other in list(cfg.corpora)[:place] if isinstance(cfg.corpora[other], MediaWiki)]
        if before and not isinstance(entry, MediaWiki):
            logger.warning(
                f"corpora.{name} is not compared with {', '.join(before)} before it: what it repeats of valid or test there "
                f"stays in its train. Local text that stands before a wiki in config.yaml is compared with it."
            )


onstart:
    refuse_living_jobs()
    warn_of_what_is_not_compared()
    refuse_missing_dictionary()
    if by_slurm():
        refuse_lost_jobs()
        refuse_half_asked_nodes()
        refuse_other_logs()
        threading.Thread(target=watch_queue, daemon=True).start()
        # what was being submitted when Ctrl-C came is in the queue now, unknown to the executor
        atexit.register(cancel_all, Path.cwd())
