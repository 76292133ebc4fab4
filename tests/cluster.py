"""A real Slurm cluster on one machine, for tests: slurmctld, a slurmd for each node, and slurmdbd if asked for.

The nodes n1 and n2 are daemons of this host with fake GPUs: character devices, for which Slurm sets
CUDA_VISIBLE_DEVICES as for real ones. It needs root and Debian's packages (.ci/run has their names), listens on
loopback, and shares nothing with a cluster that the machine may belong to.
"""

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db")
CLIENTS = ("srun", "sbatch", "scontrol", "squeue", "scancel", "sinfo", "sacct", "sacctmgr")
NODES, GPUS, CPUS, MEMORY = 2, 2, 8, 64000  # of each node; memory in MB, more than the machine has

CONF = """
ClusterName=jalm
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={daemon}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdTimeout=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
MinJobAge=3600
KillWait=5
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] \
CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=cpu Nodes=n[1-{nodes}] Default=YES MaxTime=7-0 State=UP
PartitionName=gpu Nodes=n[1-{nodes}] MaxTime=7-0 State=UP
PartitionName=short Nodes=n[1-{nodes}] MaxTime=00:10:00 State=UP
"""

DATABASE = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={store}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
"""


def missing(*programs: str) -> str:
    """Why no cluster can be started here; empty if one can."""
    absent = [program for program in (*PROGRAMS, *programs) if not shutil.which(program)]
    if absent:
        return f"no Slurm: {', '.join(absent)} not installed"
    return "a Slurm cluster of one's own needs root" if os.geteuid() else ""


def until(condition: Callable[[], object], seconds: float = 60) -> object:
    """Wait until a condition holds; its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.2)
    return value


@dataclass
class Cluster:
    """A running cluster.

    Attributes:
        folder: its configuration, logs and sockets.
        environment: what its clients need beside the environment of this process.
    """

    folder: Path
    environment: dict[str, str]

    def call(self, *command: str) -> str:
        """Output of a command, which has to end well."""
        environment = {**os.environ, **self.environment}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, f"{command}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def queue(self) -> dict[str, str]:
        """Comment, which has the rule and its wildcards, to state of the jobs that wait, run or end."""
        lines = self.call("squeue", "-h", "-a", "-r", "-o", "%T %k").splitlines()
        return {comment: state for state, comment in (line.split(maxsplit=1) for line in lines)}

    def jobs(self) -> dict[str, dict[str, str]]:
        """Id to what `scontrol show job` tells of it, of all jobs since the start."""
        found = self.call("scontrol", "show", "job", "-o").splitlines()
        jobs = (dict(re.findall(r"(\w+)=(\S*)", line)) for line in found if line.startswith("JobId="))
        return {job["JobId"]: job for job in jobs}

    def running(self, rule: str) -> str:
        """Id of the running job of a rule, empty if there is none."""
        found = (
            i for i, job in self.jobs().items() if job["JobState"] == "RUNNING" and f"rule_{rule}" in job["Comment"]
        )
        return next(found, "")

    def start_node(self, name: str) -> None:
        """Start the slurmd of a node."""
        (self.folder / f"spool.{name}").mkdir(exist_ok=True)
        self.call("slurmd", "-N", name, "-f", self.environment["SLURM_CONF"])

    def kill_node(self, name: str) -> None:
        """End all that runs on a node at once, as when its power fails."""
        victims = [int((self.folder / f"slurmd.{name}.pid").read_text())]
        for pid in self._processes(f"SLURMD_NODENAME={name}"):
            with contextlib.suppress(OSError):
                victims.append(pid)
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                if Path(f"/proc/{parent}/cmdline").read_bytes().startswith(b"slurmstepd"):
                    victims.append(parent)
        _kill(victims)

    def _processes(self, variable: str) -> list[int]:
        """Ids of the processes of jobs that have NAME=VALUE in their environment."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                variables = (process / "environ").read_bytes().split(b"\0")
                if variable.encode() in variables and str(self.folder).encode() in b"".join(variables):
                    found.append(int(process.name))
        return found

    def end_strays(self) -> None:
        """End what jobs have left: Slurm ends their process group only, where it has no cgroups."""
        for number in range(NODES):
            _kill(self._processes(f"SLURMD_NODENAME=n{number + 1}"))

    def idle(self) -> None:
        """Cancel all jobs and wait until every node is free again."""
        self.call("scancel", "--user=root")
        for name in [f"n{number + 1}" for number in range(NODES)]:
            if "DOWN" in self.call("scontrol", "show", "node", name):
                self.call("scontrol", "update", f"NodeName={name}", "State=RESUME")
        until(lambda: self.call("sinfo", "-h", "-N", "-p", "cpu", "-o", "%T").split() == ["idle"] * NODES)


@contextlib.contextmanager
def started(folder: Path, *, accounting: bool = False) -> Iterator[Cluster]:
    """A cluster with two nodes and the partitions cpu, gpu and short (10 minutes at most), under a folder of its own."""
    for name in ("state", "bin", "dev"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    host = socket.gethostname().split(".")[0]
    port = _free_ports(4 + NODES)
    numbers = {"controller": port, "daemon": port + 1, "first": port + 2, "last": port + 1 + NODES}
    sizes = {"nodes": NODES, "gpus": GPUS, "cpus": CPUS, "memory": MEMORY}
    conf = CONF.format(folder=folder, host=host, **numbers, **sizes)
    database = port + 2 + NODES
    if accounting:
        conf += "AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n"
        conf += f"AccountingStoragePort={database}\nAccountingStoragePass={folder}/munge.sock\n"
    (folder / "slurm.conf").write_text(conf, encoding="utf-8")
    for number in range(GPUS):
        os.mknod(folder / "dev" / f"nvidia{number}", 0o020666, os.makedev(4, 60 + number))
    gres = (
        f"AutoDetect=off\nNodeName=n[1-{NODES}] Name=gpu Flags=nvidia_gpu_env File={folder}/dev/nvidia[0-{GPUS - 1}]\n"
    )
    (folder / "gres.conf").write_text(gres, encoding="utf-8")
    for name in CLIENTS:  # a job loses SLURM_CONF, which no real site sets
        client = folder / "bin" / name
        client.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which(name)} "$@"\n')
        client.chmod(0o755)
    path = f"{folder}/bin:{os.environ['PATH']}"
    # the GPUs are no real ones: who trains there uses the CPU
    cluster = Cluster(folder, {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": path, "ACCELERATE_USE_CPU": "true"})
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    munged = {"socket": "sock", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    with contextlib.ExitStack() as stack:
        cluster.call("munged", "--force", *(f"--{option}={folder}/munge.{end}" for option, end in munged.items()))
        stack.callback(_end, folder / "munge.pid")
        if accounting:
            _start_accounting(cluster, database, stack)
        cluster.call("slurmctld", "-c", "-f", f"{folder}/slurm.conf")
        stack.callback(_end, folder / "slurmctld.pid")
        for name in [f"n{number + 1}" for number in range(NODES)]:
            stack.callback(_end, folder / f"slurmd.{name}.pid")
            cluster.start_node(name)
        until(lambda: cluster.call("sinfo", "-h", "-N", "-p", "cpu", "-o", "%T").split() == ["idle"] * NODES)
        stack.callback(cluster.end_strays)
        stack.callback(cluster.idle)
        yield cluster


def _start_accounting(cluster: Cluster, port: int, stack: contextlib.ExitStack) -> None:
    folder = cluster.folder
    data = folder / "database"
    cluster.call("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db")
    listen = [f"--socket={folder}/database.sock", f"--port={port + 1}", "--bind-address=127.0.0.1"]
    files = [f"--datadir={data}", f"--pid-file={folder}/database.pid", f"--log-error={folder}/database.log"]
    environment = {**os.environ, **cluster.environment}
    subprocess.Popen(["mariadbd", "--no-defaults", "--user=root", *listen, *files], env=environment)
    stack.callback(_end, folder / "database.pid")
    until((folder / "database.sock").exists)
    grant = "CREATE USER slurm@'127.0.0.1' IDENTIFIED BY 'slurm'; GRANT ALL ON slurm.* TO slurm@'127.0.0.1';"
    cluster.call("mariadb", "--no-defaults", f"--socket={folder}/database.sock", "-e", grant)
    conf = folder / "slurmdbd.conf"
    conf.write_text(DATABASE.format(folder=folder, port=port, store=port + 1), encoding="utf-8")
    conf.chmod(0o600)
    cluster.call("slurmdbd")
    stack.callback(_end, folder / "slurmdbd.pid")
    until(lambda: _listens(port))
    cluster.call("sacctmgr", "-i", "add", "cluster", "jalm")


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _end(pid_file: Path) -> None:
    """End a daemon, and wait until it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _free_ports(count: int) -> int:
    """First of `count` ports in a row that nobody listens at."""
    for first in range(21000, 32000, 50):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise RuntimeError("no free ports")
