"""Choices are made on validation knees, a killed search loses and repeats nothing, and halving
and grid add up.
"""

import multiprocessing
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

import koa_repro.study
from koa_repro import runs
from koa_repro.beyond import search
from koa_repro.beyond.search import (
    best_so_far,
    complete,
    grid_history,
    halve,
    halved,
    halving_table,
    keep_search,
    kept_search,
    open_search,
    read_search,
    rungs,
    scaled_spec,
    search_gain,
    search_weights,
    trial_spec,
    trials_table,
)
from koa_repro.results import entries
from koa_repro.study import PROFILES, Profile, Study, study_spec
from koa_repro.tools import reference
from koa_repro.tools.reference import collect
from koa_repro.training import NonFiniteLoss, Recipe
from koa_repro.tuning import TRIPLES, Scale, every_third, whole_parts


def search_in(folder, pace):
    "Thirteen trials, what is asked for written down."

    def value(options, epoch):
        with open(folder / "log", "a") as f:
            f.write(f"{epoch} {options}\n")
        time.sleep(pace)
        return -abs(options["smoothing"] - 0.1) - abs(options["weights"][0] - 0.3) + epoch / 100

    study = open_search(folder / "s.sqlite3", "s")
    if not study.trials:
        study.enqueue_trial(search.PAPERS)
    search.work_through(study, search.loss_options, value, [1, 2], 13, seed=3)


def searched(folder):
    return open_search(folder / "s.sqlite3", "s").trials


def test_a_killed_search_loses_and_repeats_nothing(tmp_path):
    """SIGKILL in the middle of a startup trial and of a proposed one; it ends with the trials
    of a search that was left alone."""
    folders = [tmp_path / n for n in ("alone", "killed")]
    for f in folders:
        f.mkdir()
    search_in(folders[0], 0)
    for lines in (3, 23):
        # forked, so that nothing need be imported again
        job = multiprocessing.get_context("fork").Process(target=search_in, args=(folders[1], 0.2))
        job.start()
        log, until = folders[1] / "log", time.monotonic() + 100
        while not log.exists() or len(log.read_text().splitlines()) < lines:
            assert job.is_alive() and time.monotonic() < until
            time.sleep(0.005)
        job.kill()
        job.join()
        assert [t.state for t in searched(folders[1])].count(TrialState.RUNNING) == 1
    search_in(folders[1], 0)
    alone, killed = map(searched, folders)
    assert all(t.state == TrialState.COMPLETE for t in killed) and [t.params for t in killed] == [
        t.params for t in alone
    ]
    assert [t.value for t in killed] == [t.value for t in alone]
    assert len({tuple(t.params.values()) for t in killed}) == 13
    evaluated = (folders[1] / "log").read_text().splitlines()
    assert (
        len(set(evaluated)) == 26 and len(evaluated) <= 26 + 2
    )  # only what was under way is asked for again


def test_a_search_stops_in_time_and_goes_on(tmp_path):
    "Out of time in the second trial: it stays open, and is the first to be gone on with."
    from koa_repro.beyond.search import work_through

    left = [3]

    def value(x, step):
        left[0] -= 1
        return None if left[0] < 0 else x

    search = work_through(
        open_search(tmp_path / "s.sqlite3", "s"),
        lambda t: t.suggest_float("x", 0, 1),
        value,
        [1, 2],
        3,
    )
    before = search.trials
    assert [t.state for t in before] == [TrialState.COMPLETE, TrialState.RUNNING]
    left[0] = 99
    again = work_through(
        open_search(tmp_path / "s.sqlite3", "s"),
        lambda t: t.suggest_float("x", 0, 1),
        value,
        [1, 2],
        3,
    )
    assert (
        all(t.state == TrialState.COMPLETE for t in again.trials)
        and [t.params for t in again.trials][:2] == [t.params for t in before]
        and len(again.trials) == 3
    )


def test_a_setting_that_diverges_stops_no_other():
    def value(i, epoch):
        if i == 3:
            raise NonFiniteLoss("it is not a number")
        return i / 10

    search = halve(value, 5, 4)
    assert {t.params["setting"]: t.state for t in search.trials}[3] == TrialState.FAIL and halved(
        search
    )["winner"] == 4
    assert len(search.trials) == 5 and not search.get_trials(
        states=(TrialState.RUNNING, TrialState.WAITING)
    )


def test_a_training_is_worth_the_same_before_and_after_it_is_kept(tmp_path):
    """A checkpoint has more digits than a history file; settings that tie must not be told
    apart by that."""
    kept = pd.DataFrame(dict(val_accuracy=[0.5, np.float32(5 / 6)]))
    kept.to_csv(tmp_path / "h.csv", float_format="%.6g")
    assert (
        best_so_far(kept) == best_so_far(pd.read_csv(tmp_path / "h.csv"))
        and best_so_far(None) is None
    )


def test_bad_knees_are_one_sentence(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert (
        search.main(
            [
                "--data",
                str(tmp_path / "empty"),
                "--store",
                str(tmp_path / "runs"),
                "--profile",
                "smoke",
            ]
        )
        == 2
    )
    assert capsys.readouterr().err.startswith("koa-repro: ")


def made_up_grid(
    order,
):  # settings whose ranking never changes ("steady") or is turned over at the end ("turned")
    levels = np.linspace(0.5, 0.8, 27)
    values = np.stack([levels - 0.04 + 0.01 * e for e in range(9)], 1)
    if order == "turned":
        values[:, 0] = 0.4 - levels / 10
    return pd.DataFrame(
        values, index=pd.MultiIndex.from_tuples(TRIPLES[:27], names=["alpha", "beta", "gamma"])
    )


def test_halving_finds_a_steady_winner_and_misses_a_late_one():
    steady, turned = (
        halving_table({0: made_up_grid(o)}, 3, orders=20).iloc[0] for o in ("steady", "turned")
    )
    assert (
        steady.same_winner == 1
        and steady.lost == 0
        and steady.cost < 0.5
        and steady.lost_by_lot == pytest.approx(15)
    )
    assert turned.same_winner < 0.5 and turned.lost > 0 and turned.lost_worst <= 30
    assert (
        rungs(9, 3) == [1, 3, 9]
        and rungs(8, 2) == [1, 2, 4, 8]
        and rungs(10, 3) == [1, 3, 9, 10]
        and rungs(8, 2, 2) == [2, 4, 8]
    )


def test_halving_counts_what_it_trains():
    asked_for = {}

    def value(i, epoch):
        asked_for[i] = epoch
        return made_up_grid("steady").to_numpy()[i, epoch - 1]

    search = halve(value, 27, 9, 3)
    assert (
        halved(search)["epochs"] == sum(asked_for.values())
        and set(asked_for) == set(range(27))
        and halved(search)["winner"] == 26
    )


def test_complete_takes_whole_trainings_only():
    history = pd.DataFrame(
        [
            dict(seed=0, alpha=a, beta=0.1, gamma=0.1, epoch=e, val_accuracy=0.5 + (e == 1) * 0.1)
            for a, last in ((0.1, 3), (0.2, 2))
            for e in range(1, last + 1)
        ]
    )
    whole = complete(history, 3)[0]
    assert list(whole.index) == [(0.1, 0.1, 0.1)] and whole.to_numpy().tolist() == [[0.6] * 3]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda s: sum(s) > 1e-3))
def test_whole_parts_are_the_nearest(shares):
    shares = np.array(shares) / sum(shares)
    parts = whole_parts(shares)
    assert (
        sum(parts) == 20
        and min(parts) >= 0
        and np.abs(np.array(parts) - 20 * shares).max() < 1 + 1e-6
    )


def test_every_third_leaves_validation_and_test_alone():
    frame = pd.DataFrame(
        dict(
            participant=[f"{i // 2}" for i in range(3000)],
            split=np.repeat(["train", "val", "test"], 1000),
        )
    )
    part = every_third(frame)
    assert (
        (part[1000:] == frame.split[1000:]).all()
        and 0.25 < (part[:1000] == "train").mean() < 0.42
        and set(part[:1000]) == {"train", ""}
    )
    assert (pd.Series(part).groupby(frame.participant).nunique() == 1).all()


def test_scales_keep_the_rate_constant(tmp_path):
    for profile in ("smoke", "preview", "fast"):
        study = Study(
            profile,
            "phantom" if profile == "smoke" else "reference",
            store=str(tmp_path),
            out=str(tmp_path),
        )
        spec = scaled_spec(study)
        assert (
            spec.recipe.schedule == "constant" and spec.id != study_spec(study, loss="hybrid").id
        )  # no run of the tables


@pytest.fixture
def small(tmp_path, monkeypatch):
    "A profile in which the grid and the search take seconds, and an empty folder of references."
    recipe = Recipe(epochs=1, batch=16, pixels=16, schedule="constant")
    monkeypatch.setitem(
        PROFILES, "short", Profile(recipe, dict(padding=1), phantom=80, verdict=False)
    )
    monkeypatch.setattr(
        search,
        "scale_of",
        lambda study: Scale(recipe, dict(padding=1), "official", TRIPLES[:2], 3, 2, 1),
    )
    for module in (runs, reference, search):
        monkeypatch.setattr(module, "references", lambda: tmp_path / "kept")
    study = Study("short", seeds=2, store=str(tmp_path / "store"), out=str(tmp_path / "out"))
    monkeypatch.setitem(
        koa_repro.study._ids, ("reference", 80, (0, 2), "official"), study_spec(study).knees
    )  # as if these knees were the published ones
    tuned = [e for e in entries() if e.name == "search"]
    monkeypatch.setattr(reference, "entries", lambda: tuned)
    return study


def test_grid_and_search_can_become_references(small):
    read = replace(small, data="reference", store=str(small.target / "elsewhere"))
    assert grid_history(read, (0, 1)).empty and read_search(read).empty
    grid_history(small, (0,))
    trials = trials_table(search_weights(small, 3))
    made = {p.name for p in collect(small)}
    assert made == {p.name for p in small.runs.iterdir() if (p / "spec.json").exists()}
    assert len(made) >= 3 and collect(small) == []
    assert grid_history(read, (0,)).equals(grid_history(small, (0,)))
    assert complete(grid_history(read, (0,)), 1)[0].shape == (2, 1)
    pd.testing.assert_frame_equal(read_search(read), trials)
    assert len(search_gain(read, read_search(read))) == 1


def test_a_kept_search_is_of_its_own_scale_and_only_continued(small):
    """A table of another scale is not read, whatever it says of itself; another search's
    trials never replace those that are kept."""
    trials = trials_table(search_weights(small, 3))
    assert [s.id for s in keep_search(small)] == [
        trial_spec(small, t).id for t in trials.itertuples()
    ] and kept_search(small).stem == scaled_spec(small).id
    other = replace(small, profile="preview")
    assert kept_search(other) != kept_search(small) and read_search(other).empty
    longer = pd.concat([trials, trials.tail(1).assign(trial=3)], ignore_index=True)
    longer.to_csv(kept_search(small), index=False)
    assert keep_search(small) == [] and len(read_search(small)) == 4
    trials.assign(smoothing=0.3).head(2).to_csv(kept_search(small), index=False)
    assert keep_search(small) == [] and (read_search(small).smoothing == 0.3).all()


def test_a_smoke_run_is_not_collected(tmp_path):
    with pytest.raises(ValueError, match="smoke"):
        collect(Study(out=str(tmp_path), store=str(tmp_path)))
