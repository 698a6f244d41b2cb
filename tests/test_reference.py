"""Reference runs: packed, sent, killed, gone on with, handed back, merged."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from koa_repro import fitting, runs, workers
from koa_repro.phantom import make_knees
from koa_repro.results import entries, is_light
from koa_repro.runs import (
    DamagedRun,
    find,
    keep_reference,
    knees_id,
    make_run,
    replicates,
    seal,
)
from koa_repro.specs import RunSpec
from koa_repro.study import PROFILES, Profile, Study, study_spec
from koa_repro.tools import reference, reproduce
from koa_repro.tools import remote as bare
from koa_repro.tools.reference import (
    MergeError,
    Wanted,
    merge,
    pack,
    status,
    train,
    wanted_runs,
)
from koa_repro.training import Recipe, Trainer

QUICK = Recipe(epochs=3, batch=16, pixels=16, schedule="onecycle")


@pytest.fixture(scope="module")
def knees():
    return make_knees(120, seed=8)


@pytest.fixture(scope="module")
def jobs(knees):
    return [
        RunSpec(knees_id(knees.frame()), loss=loss, options=dict(padding=1), recipe=QUICK)
        for loss in ("ce", "hybrid")
    ]


@pytest.fixture
def kept(tmp_path, monkeypatch):
    "An empty folder of references."
    for module in (runs, reference):
        monkeypatch.setattr(module, "references", lambda: tmp_path / "kept")
    return tmp_path / "kept"


@pytest.fixture(scope="module")
def packed(knees, jobs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack")
    pack(knees, dict(official=knees.split), jobs, folder, part=1_500_000)
    return folder


@pytest.fixture(scope="module")
def returned(packed, tmp_path_factory):
    "What the far machine said and handed back when it had the time for both jobs."
    folder = tmp_path_factory.mktemp("far")
    text, status = far(packed, folder / "work", folder / "out", "--minutes", "9", "--later", "60")
    assert status == 0
    return text, folder / "out" / "runs.zip"


def far(packed, work, out, *more, wait=True):
    "The command on the far machine: the pack's own copy of the code, in a folder of its own."
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | dict(
        PYTHONPATH=str(packed / "send")
    )
    job = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "koa_repro.tools.remote",
            str(packed / "send"),
            "--work",
            str(work),
            "--out",
            str(out),
            "--device",
            "cpu",
            "--slots",
            "1",
            *more,
        ],
        env=env,
        cwd=work.parent,
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return (job.communicate(timeout=900)[0], job.returncode) if wait else job


def test_packed_killed_resumed_merged(knees, jobs, packed, kept, tmp_path):
    work, out = tmp_path / "work", tmp_path / "out"
    job, deadline = far(packed, work, out, wait=False), time.monotonic() + 600
    while not (work / jobs[0].id / "facts.json").exists():
        assert time.monotonic() < deadline and job.poll() is None
        time.sleep(0.01)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert not (work / jobs[1].id / "facts.json").exists() and not (out / "runs.zip").exists()
    text, status = far(packed, work, out)
    assert (
        status == 0 and text.count(" done") == 2 and [p.name for p in out.iterdir()] == ["runs.zip"]
    )
    assert [p.name for p in merge(out / "runs.zip", packed)] == sorted(j.id for j in jobs)
    assert [p.name for p in merge(out / "runs.zip", packed)] == sorted(j.id for j in jobs), (
        "a second merge changes nothing"
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    direct = make_run(jobs[1], knees, tmp_path / "store", progress=False, device="cpu")
    torch.set_num_threads(threads)
    mine = find(jobs[1])
    for weights in ("best", "last"):
        pd.testing.assert_frame_equal(mine.predictions(weights), direct.predictions(weights))
    assert (
        not replicates(mine)
        and mine.history.epoch.tolist() == [1, 2, 3]
        and "device" in mine.provenance
    )


def test_only_what_fits_is_gone_on_with(jobs, packed, tmp_path, monkeypatch):
    """A job whose first epoch shows that it cannot be done is left, unless later calls have the
    time; then it goes on from its checkpoint. An epoch takes two seconds of the test's clock."""
    clock = SimpleNamespace(now=0.0)
    for module, name in ((fitting, "monotonic"), (fitting, "perf_counter"), (bare, "monotonic")):
        monkeypatch.setattr(module, name, lambda: clock.now)
    train_epoch = Trainer.train_epoch

    def slow(self, tick):
        clock.now += 2
        return train_epoch(self, tick)

    monkeypatch.setattr(Trainer, "train_epoch", slow)
    work, long = tmp_path / "work", replace(jobs[0], recipe=replace(QUICK, epochs=100_000))
    assert bare.receive(packed / "send", work) == []
    images = bare.unpack(work)
    go = lambda spec, **more: bare.advance(spec, images, work, clock.now + 8, device="cpu", **more)
    kept = lambda spec: work / spec.id / "checkpoint.pt"
    assert go(long) == "too long"
    history = fitting.read_checkpoint(kept(long), "cpu")["history"]
    assert [(row["epoch"], row["seconds"]) for row in history] == [(1, 2.0)]
    assert go(long, later=1e9) == "epoch 4 of 100000"  # a fourth more would end at the deadline
    assert go(long, later=1e9) == "epoch 7 of 100000"
    other = replace(long, seed=1)
    assert go(other, expect=9) == "too long" and not kept(other).exists()


def test_later_is_passed_on_and_no_time_begins_nothing(packed, returned, tmp_path):
    text, status = far(
        packed, tmp_path / "work", tmp_path / "out", "--minutes", "0", "--later", "60"
    )
    assert (
        status == 0
        and " done" not in text
        and not list((tmp_path / "work").glob("*/checkpoint.pt"))
    )
    assert returned[0].count(" done") == 2


def test_a_failed_job_is_told_and_the_others_come_back(knees, jobs, tmp_path):
    bad = replace(jobs[0], recipe=replace(QUICK, rate=1e30, epochs=1))
    pack(knees, dict(official=knees.split), [bad, jobs[1]], tmp_path / "pack")
    text, status = far(tmp_path / "pack", tmp_path / "work", tmp_path / "out")
    assert status == 1 and "failed: NonFiniteLoss" in text and text.count(" done") == 1
    with zipfile.ZipFile(tmp_path / "out" / "runs.zip") as z:
        assert {n.split("/")[0] for n in z.namelist()} == {jobs[1].id}


def test_a_worker_that_ended_early_is_told(jobs, packed, tmp_path, monkeypatch, capsys):
    "As one that was killed for memory: it leaves no word of its own."
    ended = lambda work, items, options: [(spec, None, workers.ENDED_EARLY) for spec in items]
    monkeypatch.setattr(bare, "side_by_side", ended)
    places = ["--work", str(tmp_path / "w"), "--out", str(tmp_path / "o"), "--slots", "2"]
    assert bare.main([str(packed / "send"), *places]) == 1
    said = capsys.readouterr().out
    assert all(f"{job.id} failed: {workers.ENDED_EARLY}" in said for job in jobs)


def test_the_pack_holds_every_module_that_the_far_machine_imports():
    code = "import sys, koa_repro.tools.remote; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    packages = {"koa_repro": "__init__", "koa_repro.tools": "tools/__init__"}
    needed = {
        packages.get(m, m.removeprefix("koa_repro.").replace(".", "/"))
        for m in loaded.split()
        if m.split(".")[0] == "koa_repro"
    }
    assert needed == set(reference.CODE)


def test_parts_may_come_one_by_one(packed, tmp_path):
    index, parts = (
        json.loads((packed / "send" / "index.json").read_text()),
        sorted((packed / "send").glob("part-*.bin")),
    )
    assert len(parts) > 1 and max(p.stat().st_size for p in parts) <= 1_500_000
    for i, part in enumerate(parts):
        delivery = tmp_path / f"delivery{i}"
        delivery.mkdir()
        (delivery / "index.json").write_text(json.dumps(index))
        (delivery / part.name).write_bytes(part.read_bytes())
        assert bare.receive(delivery, tmp_path / "work") == [p.name for p in parts[i + 1 :]]


def test_the_pack_is_lossless_and_names_nobody(knees, packed, tmp_path):
    assert bare.receive(packed / "send", tmp_path / "work") == []
    assert (bare.unpack(tmp_path / "work") == knees.images).all()
    text = (packed / "send" / "index.json").read_text()
    assert not [p for p in set(knees.participant) if p in text] and knees.file[0] not in text


def test_another_pack_needs_another_folder(packed, tmp_path):
    bare.receive(packed / "send", tmp_path / "work")
    other = json.loads((packed / "send" / "index.json").read_text())
    other["parts"][0]["sha256"] = "0" * 64
    (tmp_path / "send").mkdir()
    (tmp_path / "send" / "index.json").write_text(json.dumps(other))
    with pytest.raises(bare.PackError, match="another pack"):
        bare.receive(tmp_path / "send", tmp_path / "work")


def test_an_index_is_asked_for(tmp_path):
    (tmp_path / "send").mkdir()
    for text in (None, "{}", "[]", "{"):
        if text:
            (tmp_path / "send" / "index.json").write_text(text)
        assert (
            bare.main(
                [
                    str(tmp_path / "send"),
                    "--work",
                    str(tmp_path / "w"),
                    "--out",
                    str(tmp_path / "o"),
                ]
            )
            == 2
        )


def test_other_knees_are_not_packed_and_not_merged(knees, jobs, packed, returned, kept, tmp_path):
    runs = shutil.copy(returned[1], tmp_path)
    with pytest.raises(ValueError, match="other knees"):
        pack(make_knees(120, seed=9), dict(official=knees.split), jobs, tmp_path / "p")
    (tmp_path / "other").mkdir()
    frame = pd.read_parquet(packed / "knees.parquet")
    frame.assign(sha256="0").to_parquet(tmp_path / "other" / "knees.parquet")
    with pytest.raises(MergeError, match="other knees"):
        merge(runs, tmp_path / "other")
    with pytest.raises(MergeError, match="cannot be read"):
        merge(tmp_path / "nothing.zip", packed)
    frame.rename(columns={"in official": "in knee"}).to_parquet(
        tmp_path / "other" / "knees.parquet"
    )
    with pytest.raises(MergeError, match="split official"):
        merge(runs, tmp_path / "other")
    assert not kept.exists()
    with zipfile.ZipFile(runs, "a") as z:
        z.writestr("notes.txt", "mine")
        z.writestr(f"{'0' * 12}/spec.json", "{}")
    with pytest.raises(MergeError, match="2 runs were taken in.*000000000000.*notes.txt") as e:
        merge(runs, packed)
    assert len(list(kept.glob("*/spec.json"))) == 2 and "\n" not in str(e.value)


def test_what_is_no_probability_is_not_merged(jobs, packed, returned, kept, tmp_path):
    name = jobs[0].id
    with zipfile.ZipFile(returned[1]) as z:
        content = {n: z.read(n) for n in z.namelist() if n.startswith(name)}
    softmax = dict(np.load(io.BytesIO(content[f"{name}/softmax.npz"])))
    for i, bad in enumerate(
        (
            dict(best=softmax["best"]),
            softmax | dict(last=softmax["last"] * np.nan),
            softmax | dict(best=softmax["best"] * 3.5),
            softmax | dict(best=softmax["best"][:-1]),
            softmax | dict(best=np.hstack([softmax["best"], softmax["best"] * 0])),
        )
    ):
        np.savez(file := io.BytesIO(), **bad)
        with zipfile.ZipFile(tmp_path / f"{i}.zip", "w") as z:
            for n, data in (content | {f"{name}/softmax.npz": file.getvalue()}).items():
                z.writestr(n, data)
        with pytest.raises(MergeError, match="no probabilities"):
            merge(tmp_path / f"{i}.zip", packed)
    assert not find(jobs[0])


def repacked(returned, file, changed):
    "What came back, with some of its files changed."
    with zipfile.ZipFile(returned[1]) as old, zipfile.ZipFile(file, "w") as new:
        for n in old.namelist():
            new.writestr(n, changed.get(n, old.read(n)))
    return file


@pytest.mark.parametrize(
    "file, content",
    [
        ("history", "[]"),
        ("history", '[{"epoch": 1}]'),
        ("facts", "{}"),
        ("facts", "[]"),
        ("spec", '"x"'),
        ("spec", "5"),
    ],
)
def test_what_is_no_finished_run_is_not_merged(
    jobs, packed, returned, kept, tmp_path, file, content
):
    name = f"{jobs[0].id}/{file}.json"
    runs = repacked(returned, tmp_path / "runs.zip", {name: content})
    with pytest.raises(MergeError, match=f"1 runs were taken in. {jobs[0].id}"):
        merge(runs, packed)
    assert not find(jobs[0]) and find(jobs[1]).provenance["seconds"] > 0


def test_a_flipped_bit_costs_its_own_run_alone(jobs, packed, returned, kept, tmp_path):
    with zipfile.ZipFile(returned[1]) as z:
        member = z.getinfo(f"{jobs[0].id}/softmax.npz")
    data = bytearray(returned[1].read_bytes())
    start = member.header_offset + 30 + len(member.filename)
    data[start : start + 20] = bytes(b ^ 0xFF for b in data[start : start + 20])
    (tmp_path / "runs.zip").write_bytes(data)
    with pytest.raises(MergeError, match=f"1 runs were taken in. {jobs[0].id}"):
        merge(tmp_path / "runs.zip", packed)
    assert not find(jobs[0]) and find(jobs[1])


def test_private_knees_never_enter_the_repository(jobs, packed, kept, tmp_path, monkeypatch):
    (tmp_path / "pack").mkdir()
    frame = pd.read_parquet(packed / "knees.parquet")
    frame.assign(file="test/0/DOE^JANE_1R.png").to_parquet(tmp_path / "pack" / "knees.parquet")
    zipfile.ZipFile(tmp_path / "runs.zip", "w").close()
    with pytest.raises(MergeError, match="published"):
        merge(tmp_path / "runs.zip", tmp_path / "pack")
    monkeypatch.setattr(Study, "published", property(lambda self: False))
    private = Study(
        "preview", str(tmp_path), store=str(tmp_path / "runs"), out=str(tmp_path / "out")
    )
    for act in (
        lambda: train(private, 1),
        lambda: reference.collect(private),
        lambda: reference.pack_study(private, tmp_path / "private"),
        lambda: reproduce.check_kept(private, []),
    ):
        with pytest.raises(ValueError, match="not the published knees"):
            act()


def test_a_pack_is_not_written_over_another(knees, jobs, packed, tmp_path):
    shutil.copytree(packed, tmp_path / "pack")
    assert pack(knees, dict(official=knees.split), jobs[:1], tmp_path / "pack", part=1_500_000), (
        "other jobs for the same knees"
    )
    before = (tmp_path / "pack" / "knees.parquet").read_bytes()
    others = make_knees(120, seed=9)
    with pytest.raises(ValueError, match="another pack"):
        pack(others, dict(official=others.split), [], tmp_path / "pack")
    assert (tmp_path / "pack" / "knees.parquet").read_bytes() == before


def test_a_rerun_is_a_replicate_and_nothing_is_overwritten(knees, jobs, kept, tmp_path):
    first, other = (
        make_run(
            replace(jobs[0], recipe=replace(QUICK, epochs=1)),
            knees,
            tmp_path / name,
            progress=False,
            device="cpu",
        )
        for name in "ab"
    )
    target = keep_reference(first)
    before = (target / "predictions.parquet").read_bytes()
    frame = pd.read_parquet(other.path / "predictions.parquet")
    frame.assign(p0=frame.p1, p1=frame.p0).to_parquet(
        other.path / "predictions.parquet", index=False
    )
    seal(other.path)
    assert keep_reference(other) == target / "replicates" / "1" == keep_reference(other)
    assert (target / "predictions.parquet").read_bytes() == before and len(
        replicates(find(first.spec))
    ) == 1
    assert find(first.spec).predictions().equals(first.predictions())


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    "A study of two wanted runs that takes seconds."
    monkeypatch.setitem(
        PROFILES, "short", Profile(replace(QUICK, epochs=2), dict(padding=1), phantom=120)
    )
    study = Study("short", store=str(tmp_path / "store"), out=str(tmp_path / "out"))
    wanted = [Wanted("VI", loss, study_spec(study, loss=loss)) for loss in ("ce", "hybrid")]
    monkeypatch.setattr(reference, "wanted_runs", lambda study: wanted)
    return study


def test_training_here_stops_in_time_and_goes_on(tiny, kept):
    assert train(tiny, 0, progress=False) == [] and not kept.exists()
    made = train(tiny, 60, progress=False)
    assert len(made) == 2 and (status(tiny).state == "reference").all()
    assert train(tiny, 60, progress=False) == [], "what is there is not made again"


def test_a_damaged_run_costs_no_other_run(tiny, kept):
    train(tiny, 60, progress=False)
    shutil.rmtree(kept)
    first, second = (w.spec.id for w in reference.wanted_runs(tiny))
    (tiny.runs / first / "history.csv").write_text("epoch\n")
    with pytest.raises(DamagedRun, match=f"{first}.*All others are kept"):
        reference.collect(tiny)
    assert [p.name for p in kept.glob("[0-9a-f]*")] == [second]


def test_the_list_is_ordered_and_names_each_run_once():
    study = Study("fast", "reference", seeds=2)
    wanted = wanted_runs(study)
    ids = [w.spec.id for w in wanted]
    assert len(set(ids)) == len(ids) and wanted[0].table == "Table III"
    light = [w for w in wanted if is_light(w.spec.network)]
    assert light == wanted[: len(light)], "what a CPU does not train comes last"
    asked = {s.id for e in entries() for row in e.specs(study).values() for s in row}
    single = {study_spec(study, seed, precision="float32").id for seed in range(2)}
    assert set(ids) == asked | single
    assert {w.spec.split for w in wanted} == {
        "official",
        "knee",
        "partners-1",
        "partners-2",
        "slice-0-left-out",
        "slice-1-left-out",
        *(f"participants-{k}" for k in range(10)),
    }
