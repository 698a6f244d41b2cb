"""An array of runs on a real one-node Slurm: one killed, one pre-empted, all as they are here."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from koa_repro.executors import ensure
from koa_repro.phantom import make_knees
from koa_repro.runs import RunSpec, knees_id, state_of
from koa_repro.training import Recipe

CONFIGURATION = """ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=2
MinJobAge=10
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
"""


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for s in held:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


def said(*words) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def until(true, seconds=300):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def slurm():
    "A Slurm of one node on loopback, started here and stopped at the end."
    if os.geteuid():
        pytest.skip("Slurm's daemons are started as root")
    if not (shutil.which("slurmctld") and shutil.which("munged")):
        install = ["apt-get", "install", "-y", "-q", "slurm-wlm", "munge"]
        if not shutil.which("apt-get") or subprocess.run(install, capture_output=True).returncode:
            pytest.skip("slurm-wlm and munge are not here and cannot be installed")
    folder = Path("/run/koa-trial-" + secrets.token_hex(4))
    for part in (folder, folder / "state", folder / "spool"):
        part.mkdir(mode=0o755)
    (folder / "key").write_bytes(secrets.token_bytes(128))
    (folder / "key").chmod(0o600)
    host = socket.gethostname().split(".")[0]
    facts = dict(host=host, folder=folder, ports=free_ports(2), cpus=os.cpu_count())
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**facts))
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    where = {n: f"--{n}-file={folder}/{n}" for n in ("key", "pid", "log", "seed")}
    munge = ["munged", "-F", "--force", f"--socket={folder}/munge.socket", *where.values()]
    daemons = [subprocess.Popen(munge)]
    try:
        until((folder / "munge.socket").exists, 20)
        for words in (["slurmctld", "-D"], ["slurmd", "-D", "-N", host]):
            daemons.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=-3))
        until(
            lambda: "idle" in subprocess.run(["sinfo"], capture_output=True, text=True).stdout, 60
        )
        yield folder
    finally:
        subprocess.run(["scancel", "--user", "root"], capture_output=True)
        for daemon in daemons[::-1]:
            daemon.terminate()
            daemon.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
        del os.environ["SLURM_CONF"]


def job_processes(job: str) -> list[int]:
    "The Python processes of a job."
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"submitit" in words and f"SLURM_JOB_ID={job}".encode() in environment:
            found.append(int(folder.name))
    return found


def test_an_array_with_a_killed_and_a_preempted_job(slurm, tmp_path, tally):
    knees = make_knees(240, seed=5)
    recipe = Recipe(epochs=16, batch=8, pixels=32, schedule="onecycle", rate=3e-3)
    spec = RunSpec(knees_id(knees.frame()), options=dict(padding=1), recipe=recipe, loss="hybrid")
    specs = [replace(spec, seed=s) for s in range(3)]
    asked = 'cpus = 1\nmemory_gb = 1\nparallel = 2\npartition = "low"'
    (tmp_path / "trial.toml").write_text(asked)
    store, seen = tmp_path / "store", dict(killed="", preempted=0)

    def disturb():
        "Kill a run under way; then a job of the other partition takes the whole machine."
        until(lambda: any(state_of(s, store).epoch for s in specs))
        running = said("squeue", "-h", "-t", "R", "-o", "%A").split()
        until(lambda: job_processes(running[0]))
        for process in job_processes(running[0]):
            os.kill(process, signal.SIGKILL)
        seen["killed"] = running[0]
        until(lambda: running[0] not in said("squeue", "-h", "-t", "R", "-o", "%A").split())
        until(lambda: said("squeue", "-h", "-t", "R", "-o", "%A").split())
        said("sbatch", "-p", "high", f"-c{os.cpu_count()}", "-o/dev/null", "--wrap", "sleep 1")

        def put_back():
            jobs = said("scontrol", "-o", "show", "job").splitlines()
            seen["preempted"] = sum("Restarts=0" not in j and "Partition=low" in j for j in jobs)
            for job in jobs:  # a job that was put back waits two minutes before it may start
                if "Restarts=0" not in job and "JobState=PENDING" in job:
                    id = job.split()[0].removeprefix("JobId=")
                    subprocess.run(["scontrol", "update", f"JobId={id}", "StartTime=now"])
            return seen["preempted"]

        until(put_back)
        for _ in range(20):
            put_back()
            time.sleep(1)

    trouble = threading.Thread(target=disturb, daemon=True)
    trouble.start()
    found = ensure(specs, store, knees, f"slurm:{tmp_path / 'trial.toml'}", progress=False)
    trouble.join(60)
    assert seen["killed"] and seen["preempted"]
    here = ensure(specs, tmp_path / "here", knees, "local", progress=False)
    same = [a.everything.equals(b.everything) for a, b in zip(found, here)]
    tally("a Slurm array, one job killed and one or more pre-empted", len(specs), sum(same))
    assert all(same) and not list(store.glob(".partial/knees-*"))
