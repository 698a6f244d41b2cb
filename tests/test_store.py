"""A store notices what happens to its files, and says what lies in it."""

import errno
import gc
import json
import os
import shutil
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest
import torch
from filelock import FileLock

from koa_repro import executors, paths, runs, workers
from koa_repro.executors import check_executor, ensure, resources
from koa_repro.grader import save_network
from koa_repro.paths import DiskFull, write_whole
from koa_repro.phantom import make_knees
from koa_repro.runs import (
    NEEDED,
    SUMS,
    WEIGHTS,
    DamagedRun,
    OutOfMemory,
    Run,
    RunSpec,
    find,
    keep_reference,
    knees_id,
    make_run,
    partial_of,
    references,
    seal,
    state_of,
)
from koa_repro.specs import begun, hash_of
from koa_repro.store import listed, prune
from koa_repro.tools.koa import main
from koa_repro.training import Recipe, Trainer

RECIPE = Recipe(epochs=2, batch=16, pixels=16, schedule="onecycle", rate=3e-3)


@pytest.fixture(scope="module")
def knees():
    return make_knees(96, seed=5)


@pytest.fixture(scope="module")
def spec(knees):
    return RunSpec(knees_id(knees.frame()), options=dict(padding=1), recipe=RECIPE)


@pytest.fixture(scope="module")
def made(knees, spec, tmp_path_factory):
    return make_run(spec, knees, tmp_path_factory.mktemp("made"), progress=False)


@pytest.fixture
def store(made, tmp_path):
    "A store that holds one finished run."
    shutil.copytree(made.path, tmp_path / "store" / made.spec.id)
    return tmp_path / "store"


def flip(file: Path, at: float):
    data = bytearray(file.read_bytes())
    data[int(at * (len(data) - 1))] ^= 0x10
    file.write_bytes(data)


def everything(run: Run):
    return run.history, run.provenance, run.everything, run.model("last"), run.model("best")


@pytest.mark.parametrize("name", [*NEEDED, WEIGHTS, SUMS])
@pytest.mark.parametrize("at", [0.05, 0.5, 0.97])
def test_a_flipped_bit_is_noticed(spec, store, name, at):
    flip(store / spec.id / name, at)
    with pytest.raises(DamagedRun, match=spec.id):
        everything(find(spec, store))
    assert listed(store, verify=True).state.tolist() == ["damaged"]


@pytest.mark.parametrize("at", [0.0, 0.3, 0.6, 1.0])
def test_a_flipped_bit_in_a_checkpoint_is_noticed(knees, spec, tmp_path, at):
    make_run(spec, knees, tmp_path, progress=False, stop_after=1)
    flip(partial_of(spec, tmp_path) / "checkpoint.pt", at)
    with pytest.raises(RuntimeError, match=f"checkpoint.pt in {spec.id} is damaged"):
        ensure([spec], tmp_path, knees, progress=False)
    assert state_of(spec, tmp_path).name == "failed"


def test_another_runs_description_is_noticed(spec, store):
    file = store / spec.id / "spec.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | dict(seed=8)))
    with pytest.raises(DamagedRun, match=f"{spec.id}.*{replace(spec, seed=8).id}"):
        find(spec, store)


@pytest.mark.parametrize("name", [*NEEDED, SUMS])
def test_what_is_not_whole_is_refused_before_any_training(knees, spec, store, name, monkeypatch):
    (store / spec.id / name).unlink()
    monkeypatch.setattr(runs, "build_trainer", lambda *a: pytest.fail("it was trained"))
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"{spec.id} is damaged.*koa runs prune"):
            ensure([spec], store, knees, progress=False)
    assert main(["runs", "prune", "--store", str(store)]) == 0 and (store / spec.id).exists()
    assert main(["runs", "prune", "--store", str(store), "--yes"]) == 0
    assert find(spec, store) is None and (store / ".damaged" / spec.id).is_dir()


def test_every_reference_is_as_it_was_written():
    folders = [p.parent for p in references().rglob("spec.json")]
    assert len(folders) >= 160
    for folder in folders:
        run = Run(None, folder)
        kept = {p.name for p in folder.iterdir() if p.is_file()} - {SUMS}
        assert set(run.sums) == kept, folder.name
        for name in run.sums:
            run.read(name)


def test_a_run_begins_with_the_weights_that_it_names(knees, spec, made, tmp_path):
    (tmp_path / "starts").mkdir()
    save_network(made.model("last"), file := tmp_path / "starts" / "any.safetensors")
    start = sha256(file.read_bytes()).hexdigest()[:12]
    later = replace(spec, recipe=replace(RECIPE, start=start))
    assert later.id != spec.id and replace(spec, recipe=replace(RECIPE, start="")) == spec
    first, last = begun(later, tmp_path).state_dict(), made.model("last").state_dict()
    for name, value in last.items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-4)
    assert make_run(later, knees, tmp_path, progress=False).spec == later
    with pytest.raises(FileNotFoundError, match=f"{start}, which are not here: .*starts"):
        begun(later, tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="any.safetensors holds the weights of another network"):
        begun(replace(later, network="antony", options=()), tmp_path)
    with pytest.raises(ValueError, match="twelve hexadecimal"):
        replace(RECIPE, start="seed0")


def test_a_full_disk_is_told_and_nothing_is_left(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "table.csv").write_text("old")
    monkeypatch.setattr(paths.os, "fsync", full)
    with pytest.raises(DiskFull, match="table.csv.*make room"):
        write_whole(tmp_path / "table.csv", lambda p: p.write_text("new"))
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]
    assert (tmp_path / "table.csv").read_text() == "old"


@pytest.mark.parametrize("executor", ["inline", "local"])
def test_a_full_disk_begins_no_further_run(knees, spec, tmp_path, monkeypatch, executor):
    begun = []

    def full(spec, *a, **k):
        begun.append(spec)
        raise DiskFull(errno.ENOSPC, "No space is left")

    class Here:
        "A worker of this process, whose every run meets a full disk."

        alive = True

        def __init__(self, folder, options):
            self.pool = self

        def submit(self, do, work, spec):
            begun.append(spec)
            (answer := Future()).set_result((None, "DiskFull: No space is left"))
            return answer

        def end(self):
            pass

    monkeypatch.setattr(executors, "make_run", full)
    monkeypatch.setattr(workers, "_Worker", Here)
    monkeypatch.setattr(executors, "_slots", lambda *a: [dict(device="cpu", threads=1)])
    specs = [replace(spec, seed=s) for s in range(4)]
    with pytest.raises(RuntimeError, match="seed 0 failed: DiskFull"):
        ensure(specs, tmp_path, knees, executor, progress=False)
    assert begun == specs[:1]


def test_what_failed_does_not_stay_in_memory(knees, spec, tmp_path, monkeypatch):
    count = lambda: sum(isinstance(o, Trainer) for o in gc.get_objects())
    gc.collect()
    before, seen = count(), []
    run_epoch = Trainer.run_epoch
    look = lambda self, *a: (gc.collect(), seen.append(count() - before), run_epoch(self, *a))[2]
    monkeypatch.setattr(Trainer, "run_epoch", look)
    bad = [replace(spec, recipe=replace(RECIPE, rate=1e30), seed=s) for s in range(3)]
    with pytest.raises(RuntimeError, match="seed 2 failed"):
        ensure(bad, tmp_path, knees, progress=False)
    assert seen == [1, 1, 1]


def test_short_memory_is_a_sentence(knees, spec, tmp_path, monkeypatch):
    def short(self, *a):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Trainer, "run_epoch", short)
    with pytest.raises(OutOfMemory, match="seed 0 needs more memory.*smaller batch"):
        make_run(spec, knees, tmp_path, progress=False)
    assert state_of(spec, tmp_path).why.startswith("OutOfMemory: ")


def test_short_gpu_memory_is_tried_again_with_fewer(knees, spec, tmp_path, monkeypatch):
    "With three runs a GPU the second has no room; alone each has."
    monkeypatch.setattr(executors.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(executors.torch.cuda, "device_count", lambda: 1)
    calls = []

    def gpu(work, items, options, *a):
        items = list(items)
        calls.append((len(options), items))
        short = f"OutOfMemory: {OutOfMemory('it')}"
        return [(s, None, short if len(options) > 1 and k else None) for k, s in enumerate(items)]

    monkeypatch.setattr(executors, "side_by_side", gpu)
    specs = [replace(spec, seed=s) for s in range(3)]
    assert ensure(specs, tmp_path, knees, "local", progress=False) == [None] * 3
    assert calls == [(3, specs), (1, specs[1:])]


def test_who_waits_says_for_whom(knees, spec, tmp_path, capfd):
    with runs._alone(spec, tmp_path):
        assert state_of(spec, tmp_path).name == "running"
        waiting = threading.Thread(
            target=lambda: make_run(spec, knees, tmp_path, progress=False), daemon=True
        )
        waiting.start()
        said = ""
        while f"process {os.getpid()}" not in said:
            assert waiting.is_alive()
            said += capfd.readouterr().err
            time.sleep(0.01)
    waiting.join()
    assert "waits" in said and state_of(spec, tmp_path).name == "done"


def test_a_deleted_lock_lets_nobody_in(spec, tmp_path):
    order = []

    def second():
        with runs._alone(spec, tmp_path):
            order.append("second")

    with runs._alone(spec, tmp_path) as partial:
        partial.with_suffix(".lock").unlink()
        other = threading.Thread(target=second, daemon=True)
        other.start()
        other.join(1.5)
        order.append("first")
    other.join()
    assert order == ["first", "second"]


def test_a_deleted_lock_of_another_machine_is_told(spec, tmp_path):
    with runs._alone(spec, tmp_path) as partial:
        note = partial / "running.json"
        note.write_text(json.dumps(json.loads(note.read_text()) | dict(host="elsewhere")))
        partial.with_suffix(".lock").unlink()
        with pytest.raises(RuntimeError, match="on elsewhere since .*delete running.json"):
            with runs._alone(spec, tmp_path):
                pytest.fail("it was let in")


def test_two_that_keep_the_same_reference(made, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "references", lambda: tmp_path / "kept")
    start, found = threading.Barrier(4), []

    def keep():
        start.wait()
        found.append(keep_reference(made))

    threads = [threading.Thread(target=keep) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == [tmp_path / "kept" / made.spec.id] * 4
    assert find(made.spec).everything.equals(made.everything)


def test_states_are_listed(spec, made, tmp_path, capsys):
    "Each state has its word, damaged ones do not stop the others."
    for seed in range(20):
        other = replace(spec, seed=seed)
        shutil.copytree(made.path, tmp_path / other.id)
        (tmp_path / other.id / "spec.json").write_text(other.text)
    shutil.rmtree(tmp_path / spec.id)
    runs.enlist(spec, tmp_path)
    (tmp_path / replace(spec, seed=3).id / "spec.json").write_text("{")
    table = listed(tmp_path)
    assert table.state.value_counts().to_dict() == {"done": 18, "not started": 1, "damaged": 1}
    assert main(["runs", "--store", str(tmp_path)]) == 1
    assert "20 runs: 1 not started, 18 done, 1 damaged" in capsys.readouterr().out
    assert main(["runs", "explain", spec.id, "--store", str(tmp_path)]) == 0
    assert main(["runs", "explain", "zz", "--store", str(tmp_path)]) == 2
    assert "0 runs of this store begin with 'zz'" in capsys.readouterr().err


def test_what_killed_processes_left_is_cleared_and_what_runs_is_not(spec, tmp_path):
    left = tmp_path / ".partial" / "knees-abc"
    left.mkdir(parents=True)
    (left / "knees").touch()
    with runs._alone(spec, tmp_path):
        prune(tmp_path, really=True)
        assert left.is_dir()
    assert prune(tmp_path) and left.is_dir()
    prune(tmp_path, really=True)
    assert not left.exists() and prune(tmp_path) == []


def test_what_is_left_of_a_finished_run_is_cleared(spec, store):
    partial = store / ".partial" / spec.id
    partial.mkdir(parents=True)
    (partial / "checkpoint.pt").touch()
    with FileLock(partial.with_suffix(".lock")):
        assert prune(store, really=True) == [] and partial.is_dir()
    assert len(prune(store, really=True)) == 1 and not partial.exists()
    assert listed(store, verify=True).state.tolist() == ["done"]


def test_what_was_finished_since_it_was_listed_stays(spec, store, monkeypatch):
    row = dict(id=spec.id, run="", state="damaged", epoch=0, of=0, why="it was half there")
    monkeypatch.setattr("koa_repro.store.listed", lambda *a, **k: pd.DataFrame([row]))
    assert prune(store, really=True) == [] and find(spec, store)


def test_a_note_that_goes_while_it_is_read_is_no_damage(spec, tmp_path):
    partial = tmp_path / ".partial" / spec.id
    partial.mkdir(parents=True)
    (partial / "spec.json").symlink_to(tmp_path / "gone")
    assert listed(tmp_path).empty and prune(tmp_path, really=True) == [] and partial.is_dir()


def test_a_damaged_reference_costs_no_checkpoint(knees, spec, made, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "references", lambda: tmp_path / "kept")
    make_run(spec, knees, tmp_path / "store", progress=False, stop_after=1)
    flip(keep_reference(made) / SUMS, 0.5)
    assert listed(tmp_path / "store").state.tolist() == ["damaged"]
    prune(tmp_path / "store", really=True)
    assert (partial_of(spec, tmp_path / "store") / "checkpoint.pt").exists()


def test_a_run_of_another_version_is_told_and_left_alone(made, tmp_path):
    told = made.spec.description | dict(novel=1)
    folder = tmp_path / hash_of(told)
    shutil.copytree(made.path, folder)
    (folder / "spec.json").write_text(json.dumps(told))
    seal(folder)
    shutil.copytree(made.path, tmp_path / made.spec.id)
    table = listed(tmp_path, verify=True).set_index("id")
    assert table.state[made.spec.id] == "done" and "other code" in table.why[folder.name]
    assert prune(tmp_path, really=True) == [] and folder.is_dir()


def test_a_lock_that_one_may_only_read_is_looked_at(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    lock = tmp_path / "a.lock"
    assert not runs.is_held(lock)
    with FileLock(lock):
        monkeypatch.setattr(runs.FileLock, "acquire", refuse)
        assert runs.is_held(lock)
    assert not runs.is_held(lock) and not runs.is_held(tmp_path / "none.lock")


def test_a_process_number_that_came_again_holds_nobody_up(spec, tmp_path):
    with runs._alone(spec, tmp_path) as partial:
        note = (partial / "running.json").read_text()
    (partial / "running.json").write_text(json.dumps(json.loads(note) | dict(lock=-1)))
    with runs._alone(spec, tmp_path):  # as after a restart, with the same number
        pass


@pytest.mark.parametrize("name", ["cloud", "local:file", "", "slurm :x"])
def test_an_unknown_executor_is_named(name):
    with pytest.raises(ValueError, match="choose inline, local, slurm or slurm:FILE"):
        check_executor(name)


@pytest.mark.parametrize(
    "text, word",
    [
        ("parallel = '8'", "parallel = '8' cannot be"),
        ("hours = 3", "hours = 3 cannot be"),
        ("cpus = 0", "cpus = 0 cannot be"),
        ("cpus", "is no TOML"),
    ],
)
def test_bad_resources_are_named(tmp_path, text, word):
    (tmp_path / "lab.toml").write_text(text)
    with pytest.raises(ValueError, match=f"lab.toml.*{word}|lab.toml {word}"):
        resources(str(tmp_path / "lab.toml"))
    with pytest.raises(ValueError, match="lab.toml"):
        check_executor(f"slurm:{tmp_path / 'lab.toml'}")  # before anything is begun
    with pytest.raises(ValueError, match="no file"):
        resources(str(tmp_path / "none.toml"))


def test_a_saved_table_is_never_half_of_one(tmp_path, monkeypatch):
    "Cut off while it is written, the old table and its provenance stand as they were."
    from koa_repro.results import facts_of, save_table

    save_table(pd.DataFrame(dict(x=[1, 2])), "t", tmp_path, study="before")
    monkeypatch.setattr(pd.DataFrame, "to_csv", lambda *a, **k: (_ for _ in ()).throw(OSError()))
    with pytest.raises(OSError):
        save_table(pd.DataFrame(dict(x=[3] * 9)), "t", tmp_path, study="after")
    assert pd.read_csv(tmp_path / "t.csv").x.tolist() == [1, 2]
    assert facts_of(tmp_path / "t.csv")["study"] == "before"
