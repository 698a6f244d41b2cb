"""Runs survive what happens to them: kills, races, failures, bad folders."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch

from koa_repro import executors, runs
from koa_repro.executors import ensure
from koa_repro.fitting import NonFiniteLoss
from koa_repro.losses import LOSSES, HybridLoss
from koa_repro.model import SiameseGAP
from koa_repro.networks import NETWORKS, Network, create
from koa_repro.paths import repository
from koa_repro.phantom import make_knees
from koa_repro.runs import (
    Run,
    RunSpec,
    batches,
    derived,
    find,
    keep_reference,
    knees_id,
    make_run,
    reopen,
    replicates,
    seal,
    state_of,
)
from koa_repro.study import Study, study_frame, study_runs, study_spec
from koa_repro.training import Recipe, Trainer, fit, predict

RECIPE = Recipe(epochs=3, batch=16, pixels=16, schedule="onecycle", rate=3e-3)


@pytest.fixture(scope="module")
def knees():
    return make_knees(120, seed=5)


@pytest.fixture(scope="module")
def spec(knees):
    return RunSpec(knees_id(knees.frame()), options=dict(padding=1), recipe=RECIPE, loss="hybrid")


@pytest.fixture(scope="module")
def whole(knees, spec, tmp_path_factory):
    return make_run(spec, knees, tmp_path_factory.mktemp("whole"), progress=False, device="cpu")


SCRIPT = """
import os, signal, sys
from dataclasses import replace
import joblib, torch
from koa_repro.executors import ensure
from koa_repro.fitting import Resumable
from koa_repro.runs import read_spec

if __name__ == "__main__":
    spec, knees = joblib.load(sys.argv[1])
    seeds = map(int, sys.argv[4:])
    if stop := int(os.environ.get("KOA_TEST_STOP", 0)):  # wait to be killed after this epoch
        epoch = Resumable.run_epoch
        Resumable.run_epoch = lambda self, *a: (
            signal.pause() if self.epoch == stop else epoch(self, *a)
        )
    torch.set_num_threads(int(sys.argv[3]))
    ensure([replace(spec, seed=s) for s in seeds], sys.argv[2], knees, "local", progress=False)
    assert "torch._dynamo" not in sys.modules  # the compiler takes as long to load as PyTorch
"""


def start_process(folder, spec, knees, store, *seeds, **environment):
    "Another process that asks for the runs of these seeds: one itself, several by its workers."
    folder.mkdir()
    joblib.dump((spec, knees), folder / "ask")
    (folder / "ask.py").write_text(SCRIPT)
    words = [folder / "ask.py", folder / "ask", store, torch.get_num_threads(), *(seeds or (0,))]
    return subprocess.Popen(
        [sys.executable, *map(str, words)], env=os.environ | environment, start_new_session=True
    )


def wait_until(true, job, seconds=600):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end and job.poll() is None
        time.sleep(0.002)


def test_killed_run_goes_on_to_the_same_weights(knees, spec, whole, tmp_path):
    """SIGKILL as soon as a process has gone beyond its checkpoint; no folder is there until a
    second one has finished the run."""
    store = tmp_path / "store"
    assert (
        make_run(spec, knees, store, progress=False, device="cpu", stop_after=1) is None
    )  # leaves a checkpoint of epoch 1
    job = start_process(tmp_path / "ask", spec, knees, store, KOA_TEST_STOP="2")
    wait_until(lambda: state_of(spec, store).epoch == 2, job)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert not (store / spec.id).exists()
    assert str(state_of(spec, store)) == "incomplete, epoch 2"
    run = make_run(spec, knees, store, progress=False, device="cpu")
    for kind in ("best", "last"):
        a, b = run.tensors(kind), whole.tensors(kind)
        assert a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())
    pd.testing.assert_frame_equal(run.predictions("last"), whole.predictions("last"))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_process_and_leave_no_knees(knees, spec, tmp_path, how):
    long, store = replace(spec, recipe=replace(RECIPE, epochs=10_000)), tmp_path / "store"
    (tmp_path / "tmp").mkdir()
    job = start_process(tmp_path / "ask", long, knees, store, 1, 2, TMPDIR=str(tmp_path / "tmp"))
    handed_over = lambda: [p for p in (tmp_path / "tmp").rglob("*") if p.is_file()]  # the knees
    states = lambda: [state_of(replace(long, seed=s), store) for s in (1, 2)]
    at_once = min(2, joblib.cpu_count())  # one alone where there is one core
    wait_until(lambda: sum(s.epoch > 0 for s in states()) == at_once, job)
    assert handed_over()
    job.send_signal(how)
    job.wait()
    end = time.monotonic() + 600
    while sessions(job.pid) or handed_over():
        assert time.monotonic() < end
        time.sleep(0.05)


def sessions(session: int) -> list[int]:
    "Processes of a session that are alive."
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            state = Path("/proc", process, "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(state[3]) == session and state[0] != "Z":
            found.append(int(process))
    return found


def test_a_resumed_training_has_the_threads_that_it_had(knees, spec, tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        make_run(spec, knees, tmp_path, progress=False, device="cpu", stop_after=1)
        torch.set_num_threads(2)
        run = make_run(spec, knees, tmp_path, progress=False, device="cpu")
        assert torch.get_num_threads() == run.provenance["threads"] == 1
    finally:
        torch.set_num_threads(before)


def test_a_damaged_checkpoint_is_named(knees, spec, tmp_path):
    make_run(spec, knees, tmp_path, progress=False, device="cpu", stop_after=1)
    file = tmp_path / ".partial" / spec.id / "checkpoint.pt"
    for data in (b"", file.read_bytes()[:5000], b"e" * 200):
        file.write_bytes(data)
        with pytest.raises(RuntimeError, match=f"checkpoint.pt in {spec.id} is damaged.*delete it"):
            ensure([spec], tmp_path, knees, progress=False)


def test_what_cannot_be_trained_is_named(knees):
    good = dict(model=SiameseGAP(padding=1), loss=HybridLoss(), knees=knees, recipe=RECIPE)
    loss = torch.nn.functional.cross_entropy
    black = replace(knees, images=np.zeros_like(knees.images))
    for wrong, said in (
        (dict(model="siamese-gap"), "network is a str: .*Module"),
        (dict(loss=loss), "loss is a function: .*Module"),
        (dict(recipe=dict(epochs=1)), "recipe is a dict: .*Recipe"),
        (dict(knees=knees.frame()), "knees are a DataFrame: .*KneeSet"),
        (dict(device="gpu"), "device='gpu'"),
        (dict(model=SiameseGAP(3, padding=1)), "3 logits a knee for 2 grades"),
        (dict(knees=black), "one grey level"),
    ):
        with pytest.raises(ValueError, match=said):
            Trainer(**good | wrong)
    each = Trainer(**good | dict(loss=torch.nn.CrossEntropyLoss(reduction="none"), device="cpu"))
    with pytest.raises(ValueError, match="a value a knee"):
        each.run_epoch()


@pytest.mark.parametrize(
    "name, value",
    [
        *(("epochs", v) for v in ("x", 1.5, None, np.inf, np.nan)),
        *(("rate", v) for v in ("fast", 0, -1, np.nan, None)),
        *(("brightness", v) for v in ("dim", 1, (1,), (2, 1), ("a", "b"), (0, 1))),
        *(("start", v) for v in (123, None, "0" * 11, "g" * 12)),
    ],
)
def test_a_recipe_that_cannot_be_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name}="):
        Recipe(**{name: value})


def test_registries_hold_what_makes_networks_and_losses(monkeypatch):
    monkeypatch.setitem(NETWORKS, "mine", SiameseGAP)
    monkeypatch.setitem(NETWORKS, "bare", Network(lambda: SiameseGAP(), "Bare", "blocks.3"))
    monkeypatch.setitem(LOSSES, "mine", torch.nn.CrossEntropyLoss())
    for make, said in (
        (lambda: RunSpec("k", network="mine"), r"NETWORKS\['mine'\] is a type: .*Network"),
        (lambda: create("mine"), r"NETWORKS\['mine'\] is a type"),
        (lambda: RunSpec("k", network="bare"), "bare must take `classes`"),
        (lambda: RunSpec("k", loss="mine"), r"LOSSES\['mine'\] is made already"),
    ):
        with pytest.raises(ValueError, match=said):
            make()


def test_a_grade_without_training_knees_is_named(knees, spec):
    for part, word in (("train", "training"), ("val", "validation")):
        some = knees.select(~((knees.split == part) & (knees.kl == 2)))
        with pytest.raises(ValueError, match=f"no {word} knee of class 1"):
            Trainer(SiameseGAP(padding=1), HybridLoss(), some, RECIPE)
    with pytest.raises(ValueError, match="no training knee of class 0"):
        Trainer(SiameseGAP(padding=1), HybridLoss(), knees.where(kl=2), RECIPE)


@pytest.mark.parametrize(
    "values, word",
    [
        (dict(gamma=(0, 1)), "gamma"),
        (dict(brightness=(1.3, 0.7)), "brightness"),
        (dict(brightness=(1,)), "brightness"),
        (dict(epochs=1.5), "epochs"),
        (dict(gamma=1.2), "gamma"),
        (dict(rate=float("nan")), "rate"),
        (dict(rate=0), "rate"),
        (dict(weight_decay=-1), "weight_decay"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(values, word):
    with pytest.raises(ValueError, match=word):
        Recipe(**values)


@pytest.mark.parametrize(
    "values, word",
    [(dict(seed="a"), "seed"), (dict(grades=2), "grades=2"), (dict(knees=3), "knees_id")],
)
def test_a_spec_that_cannot_be_is_refused(values, word):
    with pytest.raises(ValueError, match=word):
        RunSpec(**(dict(knees="k") | values))
    assert RunSpec("k", seed=np.int64(3)).id == RunSpec("k", seed=3).id


def test_two_processes_train_once(knees, spec, tmp_path):
    quick = replace(spec, recipe=replace(RECIPE, epochs=1))
    store = tmp_path / "store"
    jobs = [start_process(tmp_path / name, quick, knees, store) for name in ("a", "b")]
    assert [j.wait(600) for j in jobs] == [0, 0]
    assert find(quick, store) and {p.name for p in store.iterdir()} == {".partial", quick.id}


def test_a_failing_run_is_named_and_the_others_finish(knees, spec, tmp_path):
    bad = replace(spec, recipe=replace(RECIPE, rate=1e30, epochs=1))
    good = [replace(spec, recipe=replace(RECIPE, epochs=1), seed=s) for s in (1, 2)]
    with pytest.raises(RuntimeError, match=r"hybrid seed 0 failed.*epoch 1"):
        ensure([bad, *good], tmp_path, knees, "local", progress=False)
    assert all(find(s, tmp_path) for s in good) and not find(bad, tmp_path)


def test_a_killed_worker_costs_its_own_run_though_there_is_a_deadline(
    knees, spec, tmp_path, monkeypatch
):
    "The run of the killed worker is named; a new worker makes the others."
    monkeypatch.setattr(executors, "_slots", lambda *a: [dict(device="cpu", threads=1)])
    long, *quick = (
        replace(spec, recipe=replace(RECIPE, epochs=e), seed=s)
        for s, e in ((1, 10_000), (2, 1), (3, 1))
    )

    def kill():
        while not state_of(long, tmp_path).epoch:
            time.sleep(0.01)
        multiprocessing.active_children()[0].kill()

    threading.Thread(target=kill, daemon=True).start()
    deadline = time.monotonic() + 3600
    with pytest.raises(RuntimeError, match="seed 1 failed: its worker ended early") as e:
        ensure([long, *quick], tmp_path, knees, "local", progress=False, deadline=deadline)
    assert "\n" not in str(e.value) and all(find(s, tmp_path) for s in quick)


def test_an_epoch_that_would_end_too_late_is_not_begun(knees, spec, tmp_path):
    quick = [replace(spec, recipe=replace(RECIPE, epochs=1), seed=s) for s in (1, 2)]
    pace = {}
    executors._paced(quick[0], knees, tmp_path, pace, progress=False, device="cpu")
    assert list(pace.values()) == [find(quick[0], tmp_path).history.seconds.max()]
    pace = {k: 3600.0 for k in pace}
    soon = time.monotonic() + 1800
    executors._paced(quick[1], knees, tmp_path, pace, progress=False, device="cpu", deadline=soon)
    assert state_of(quick[1], tmp_path).name == "not started"


def test_best_is_by_validation_and_ties_go_to_the_later(whole):
    h = whole.history
    assert whole.provenance["best_epoch"] == h.epoch[h.val_accuracy == h.val_accuracy.max()].max()


def test_a_reference_is_never_overwritten(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "references", lambda: tmp_path)
    kept = keep_reference(whole)
    assert not list(kept.glob("weights*")) and find(whole.spec, tmp_path / "nowhere").path == kept
    before = {p.name: p.read_bytes() for p in kept.iterdir()}
    (kept / "provenance.json").write_text("{}")
    keep_reference(whole)
    assert (kept / "provenance.json").read_text() == "{}" and len(before) == 5
    (kept / "replicates" / ".1.x.new" / "1").mkdir(parents=True)
    (
        kept / "replicates" / ".DS_Store"
    ).touch()  # left by a copy that was interrupted, and by an onlooker
    assert replicates(Run(whole.spec, kept)) == [] and keep_reference(whole) == kept


@pytest.mark.parametrize("schedule, kind", [("constant", "best"), ("onecycle", "last")])
def test_a_network_is_opened_with_the_weights_whose_predictions_are_given(
    whole, knees, schedule, kind, monkeypatch
):
    stored = Run.tensors

    def unlike(run, wanted):  # in this run the best weights are the last ones
        other = {"last": "best", "best": "last"}[kind]
        shift = torch.tensor([0.0, 2.0]) if wanted == other else 0
        found = stored(run, wanted)
        return found | {k: v + shift for k, v in found.items() if k == "head.bias"}

    monkeypatch.setattr(Run, "tensors", unlike)
    run = replace(whole, spec=replace(whole.spec, recipe=replace(RECIPE, schedule=schedule)))
    test = knees.where(split="test")
    say = lambda name: predict(*reopen(run, test, name)).softmax(1)[:, 1].numpy()
    own = run.predictions().query("split == 'test'").p1
    np.testing.assert_allclose(say("reported"), own, atol=1e-5)
    assert (say("reported") == say(kind)).all() and (say("reported") != say("beside")).all()
    for model in (run.model(), next(batches(run, test))[0]):
        assert (model.head.bias == stored(run, kind)["head.bias"]).all()
    for ask in (run.predictions, run.model):
        with pytest.raises(ValueError, match="final"):
            ask("final")


def test_a_table_made_later_joins_the_kept_run(whole, knees, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "references", lambda: tmp_path)

    def again(run):
        model, seen = reopen(run, knees.where(split="test"))
        return pd.DataFrame({"p1": predict(model, seen).softmax(1)[:, 1].numpy()})

    kept = Run(whole.spec, keep_reference(whole))
    assert derived(kept, "again", again) is None  # a reference has no weights
    made = derived(whole, "again", again)
    own = whole.predictions()
    own = own[own.split == "test"]
    np.testing.assert_allclose(made.p1, own.p1, atol=1e-5)  # single precision, in other batches
    assert derived(whole, "again", None) is not None  # made once
    (tmp_path / f".{whole.spec.id}.x.new").mkdir()  # left by a copy that was interrupted
    assert keep_reference(whole) == kept.path
    pd.testing.assert_frame_equal(derived(kept, "again", None), made)
    (whole.path / "again.parquet").unlink()


def test_other_last_weights_are_another_run(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "references", lambda: tmp_path / "kept")
    keep_reference(whole)
    other = Run(whole.spec, tmp_path / "other")
    shutil.copytree(whole.path, other.path)
    frame = other.everything
    frame.loc[frame.weights == "last", "p0"] += 1e-3
    frame.to_parquet(other.path / "predictions.parquet", index=False)
    seal(other.path)
    assert (
        keep_reference(other).parent.name == "replicates"
        and len(replicates(Run(whole.spec, tmp_path / "kept" / whole.spec.id))) == 1
    )


def test_reference_study_needs_no_knees(tmp_path):
    study = Study("paper", "reference", out=str(tmp_path), store=str(tmp_path))
    assert len(study_frame(study)) == 5428
    assert study_runs(study, [study_spec(study, seed=10**6)]) == [None]


def test_same_knees_by_manifest_and_by_file(knees_folder, tmp_path):
    places = dict(out=str(tmp_path), store=str(tmp_path))
    for split in ("official", "knee", "participant"):
        ids = {
            study_spec(Study("paper", data, **places), grades=(3, 4), split=split).id
            for data in ("reference", str(knees_folder))
        }
        assert len(ids) == 1, split


@pytest.mark.parametrize(
    "bad, word",
    [
        (dict(profile="fats"), "smoke, demo, preview, long, short, fast, paper"),
        (dict(data="no/such"), "not a folder"),
        (dict(seeds=0), "from 1 up"),
        (dict(seeds="three"), "from 1 up"),
        (dict(store="/proc/x"), "Cannot write"),
        (dict(out="/proc/x"), "Cannot write"),
    ],
)
def test_bad_parameters_are_one_sentence(bad, word, tmp_path):
    with pytest.raises((ValueError, OSError), match=word) as e:
        Study(**dict(dict(out=str(tmp_path), store=str(tmp_path)), **bad))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("profile", ["smoke", "demo", "preview"])
def test_no_study_writes_to_figures(profile):
    for data in ("phantom", "reference"):
        with pytest.raises(ValueError, match="choose another folder"):
            Study(profile, data, out=str(repository() / "figures" / "x"))


def test_a_run_has_its_own_epochs_and_no_more(knees, spec, tmp_path):
    run = make_run(spec, knees, tmp_path, progress=False, device="cpu", stop_after=10)
    assert len(run.history) == spec.recipe.epochs
    other = replace(spec, seed=99)
    assert make_run(other, knees, tmp_path, progress=False, device="cpu", stop_after=0) is None
    assert state_of(other, tmp_path).epoch == 0


def test_equal_networks_are_one_run_and_options_that_cannot_be_are_refused():
    assert RunSpec("a", options=dict(positions=(4, 1))) == RunSpec(
        "a", options=dict(positions=(1, 4))
    )
    for bad in (
        dict(options=dict(classes=5)),
        dict(loss="hybrid", loss_options=dict(classes=3)),
        dict(loss="hybrid", loss_options=dict(weights=("a", 0.5, 0.1))),
        dict(loss="hybrid", loss_options=dict(ratio=(7, 2))),
        dict(precision="fp16"),
        dict(network="x"),
    ):
        with pytest.raises(ValueError):
            RunSpec("a", **bad)


def test_targets_of_every_batch_move_within_an_epoch(knees):
    seen = []

    class Spy(HybridLoss):
        def forward(self, logits, labels):
            seen.append(self.class_confidence.tolist())
            return super().forward(logits, labels)

    for targets in ("epoch", "batch"):
        seen.clear()
        torch.manual_seed(0)
        recipe = replace(RECIPE, targets=targets, rate=1e-4)  # far from confidences of 0 and 1
        trainer = Trainer(SiameseGAP(padding=1), Spy(), knees, recipe, device="cpu")
        trainer.run_epoch()
        different = 1 if targets == "epoch" else trainer.steps
        assert len({str(c) for c in seen}) == different and len(seen) == trainer.steps


@pytest.fixture
def unheld(knees):
    """Trains a network with a channel that no gradient holds, all its weights next to nothing;
    `plainly` without taking them for 0."""

    def train(plainly=False):
        torch.manual_seed(0)
        model = SiameseGAP(padding=1)
        first = list(model.blocks[0].parameters())
        with torch.no_grad():
            for values in first[:3]:  # the convolution's, and the scale of its normalisation
                values[0] = 1e-39
            first[3][0] = -1.0  # behind the ReLU the channel is silent
        recipe = replace(RECIPE, rate=1e-5)  # at which such weights do not swing across 0
        trainer = Trainer(model, HybridLoss(), knees, recipe, precision="float32", device="cpu")
        epoch = Trainer.run_epoch.__wrapped__ if plainly else Trainer.run_epoch
        for _ in range(2):
            epoch(trainer)
        return trainer, [values[0] for values in first[:3]]

    return train


def test_weights_next_to_nothing_become_nothing_and_no_digit_changes(unheld):
    (one, zero), (other, left) = unheld(), unheld(plainly=True)
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot take small numbers for 0")
    assert all((v == 0).all() for v in zero) and all((v != 0).any() for v in left)
    timed = ["seconds", "knees_a_second"]
    told, again = (pd.DataFrame(t.history).drop(columns=timed) for t in (one, other))
    pd.testing.assert_frame_equal(told, again, rtol=0, atol=0)
    for a, b in zip(one.weights().values(), other.weights().values()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-37)


def test_small_numbers_count_again_after_an_epoch(unheld):
    trainer, _ = unheld()
    assert (torch.tensor([1e-39]) * 1).item() > 0
    trainer.loss.weights = (float("nan"),) * 3
    with pytest.raises(NonFiniteLoss):
        trainer.run_epoch()
    assert (torch.tensor([1e-39]) * 1).item() > 0


def test_checkpoint_of_another_precision_is_refused(knees, spec, tmp_path):
    new = lambda precision: Trainer(
        SiameseGAP(padding=1),
        torch.nn.CrossEntropyLoss(),
        knees,
        RECIPE,
        precision=precision,
        device="cpu",
    )
    fit(new("float32"), tmp_path / "c.pt", progress=False, until=1)
    with pytest.raises(ValueError, match="precision"):
        fit(new("bf16"), tmp_path / "c.pt", progress=False)


def test_a_checkpoint_of_another_training_is_refused_and_stays(knees, tmp_path):
    def new(model=SiameseGAP, knees=knees, loss=None, seed=0, **recipe):
        loss = loss or HybridLoss()
        recipe = replace(RECIPE, **recipe)
        options = dict(padding=1) if model is SiameseGAP else {}
        return Trainer(model(**options), loss, knees, recipe, seed, "float32", "cpu")

    fit(new(), file := tmp_path / "c.pt", progress=False, until=1)
    made = file.read_bytes()
    for other, word in (
        (new(seed=1), "seed is 0, and 1 "),
        (new(epochs=4), "epochs is 3, and 4 "),
        (new(rotation=5), "rotation"),
        (new(loss=torch.nn.CrossEntropyLoss()), "loss is HybridLoss .* and CrossEntropyLoss "),
        (new(loss=HybridLoss(smoothing=0.1)), "loss"),
        (new(knees=knees.select(np.arange(len(knees)) != 0)), "knees"),
        (new(knees=make_knees(120, seed=6)), "knees"),
        (new(lambda: SiameseGAP(padding=1, pool="gmp")), "network"),
        (new(lambda: SiameseGAP(padding=1, dropout=0.2, attention="ca8")), "another network"),
    ):
        with pytest.raises(ValueError, match=word):
            fit(other, file, progress=False)
    smooth = tmp_path / "smooth.pt"
    cross = lambda smoothing: torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
    fit(new(loss=cross(0.1)), smooth, progress=False, until=1)
    with pytest.raises(ValueError, match="label_smoothing"):
        fit(new(loss=cross(0.5)), smooth, progress=False)
    weighed, cross = tmp_path / "w.pt", torch.nn.CrossEntropyLoss
    fit(new(loss=cross(torch.tensor([1.0, 3.0]))), weighed, progress=False, until=1)
    for other in (cross(torch.tensor([3.0, 1.0])), cross()):
        with pytest.raises(ValueError, match="loss is CrossEntropyLoss .*1.0, 3.0"):
            fit(new(loss=other), weighed, progress=False)
    assert file.read_bytes() == made
    assert fit(new(), file, progress=False).epoch == RECIPE.epochs
