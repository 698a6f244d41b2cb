"""kill -9 at random moments of processes that share a store: nothing is lost, nothing is half."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import joblib
import pytest

from koa_repro.executors import ensure
from koa_repro.phantom import make_knees
from koa_repro.runs import RunSpec, find, knees_id
from koa_repro.store import listed
from koa_repro.training import Recipe

ASK = """
import sys
import joblib, torch
from koa_repro.executors import ensure
torch.set_num_threads(1)
if __name__ == "__main__":
    specs, knees = joblib.load(sys.argv[1])
    print("begins", flush=True)
    ensure(specs, sys.argv[2], knees, progress=False)
"""


@pytest.mark.parametrize("processes, kills", [(2, 50), (8, 50)])
def test_killed_at_random_moments(tmp_path, processes, kills, tally):
    knees = make_knees(96, seed=5)
    recipe = Recipe(epochs=3, batch=16, pixels=32, schedule="onecycle", rate=3e-3)
    spec = RunSpec(knees_id(knees.frame()), options=dict(padding=1), recipe=recipe, loss="hybrid")
    rng, left = random.Random(processes), kills
    (tmp_path / "ask.py").write_text(ASK)
    store, right, rounds, total = tmp_path / "store", 0, 0, 0
    whole = {}
    while left > 0:
        specs = [replace(spec, seed=s) for s in (2 * rounds, 2 * rounds + 1)]
        rounds += 1
        joblib.dump((specs, knees), tmp_path / "asked")
        words = [sys.executable, tmp_path / "ask.py", tmp_path / "asked", store]
        start = lambda: subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        jobs = [start() for _ in range(processes)]
        for job in jobs:
            job.stdout.readline()
        for _ in range(min(left, 10)):
            time.sleep(rng.uniform(0, 0.8))
            victim = rng.choice(jobs)
            if victim.poll() is None:
                os.killpg(victim.pid, signal.SIGKILL)
                left -= 1
            victim.wait()
            jobs[jobs.index(victim)] = new = start()
            new.stdout.readline()
        assert [job.wait(1200) for job in jobs] == [0] * processes
        ensure(specs, tmp_path / "whole", knees, progress=False)
        for s in specs:
            whole[s] = find(s, tmp_path / "whole")
            total += 1
            right += find(s, store).everything.equals(whole[s].everything)
    assert set(listed(store, verify=True).state) == {"done"}
    what = f"runs asked for by {processes} processes, killed {kills} times: as undisturbed ones"
    tally(what, total, right)
    assert right == total
