"""Whether rows were trained to the end, from runs that were never made."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from koa_repro import rows
from koa_repro.beyond.automatic_cuts import agreement_table, kept_cuts
from koa_repro.beyond.second_cohort import as_predictions, kept_films
from koa_repro.results import save_table
from koa_repro.rows import GAIN, convergence
from koa_repro.runs import Run, find, read_spec, references
from koa_repro.specs import RunSpec
from koa_repro.stats import TRAINED
from koa_repro.tools.pages import _machines
from koa_repro.tools.release import _first_copies


def row(**spec):
    return [Run(RunSpec("knees", seed=seed, **spec), Path("store") / "run") for seed in range(2)]


@pytest.mark.parametrize("gain, trained", [(0, TRAINED[0]), (2 * GAIN, TRAINED[2])])
def test_a_row_that_was_doubled_does_not_speak_for_another(monkeypatch, gain, trained):
    doubled, alone = row(), row(loss="hybrid")
    longer = replace(doubled[0].spec.recipe, epochs=2 * doubled[0].spec.recipe.epochs)
    there = [replace(r.spec, recipe=longer) for r in doubled]
    found = lambda spec, store: Run(spec, Path()) if spec in there else None
    monkeypatch.setattr(rows, "find", found)
    monkeypatch.setattr(rows, "validated", lambda run: 0.8 + gain * (run.spec in there))
    assert convergence(doubled) == trained
    assert convergence(alone) == TRAINED[1]
    assert convergence([*doubled, *alone]) == max(trained, TRAINED[1], key=TRAINED.index)
    assert convergence([None, None]) == convergence([]) == ""


@pytest.mark.parametrize("third, trained", [(-0.06, TRAINED[0]), (0.05, TRAINED[2])])
def test_a_state_is_of_every_seed_that_was_doubled(monkeypatch, third, trained):
    "Two seeds gain 2 points; the third, which the row does not show, decides."
    shown, gain = row(), {0: 0.02, 1: 0.02, 2: third}
    recipe = shown[0].spec.recipe
    there = [replace(shown[0].spec, seed=s) for s in gain]
    there += [replace(s, recipe=replace(recipe, epochs=2 * recipe.epochs)) for s in there]
    found = lambda spec, store: Run(spec, Path()) if spec in there else None
    monkeypatch.setattr(rows, "find", found)
    more = lambda run: gain[run.spec.seed] * (run.spec.recipe.epochs > recipe.epochs)
    monkeypatch.setattr(rows, "validated", lambda run: 0.8 + more(run))
    assert convergence(shown) == convergence(shown[1:]) == trained


def test_the_longer_run_may_lie_in_a_store_of_ones_own(monkeypatch):
    asked = []
    monkeypatch.setattr(rows, "find", lambda spec, store: asked.append(store))
    convergence([Run(RunSpec("knees"), references() / "run", store=Path("mine"))])
    convergence([Run(RunSpec("knees"), Path("store") / "run")])
    # for another seed, and for twice the epochs
    assert asked == [Path("mine")] * 2 + [Path("store")] * 2
    kept = next(references().glob("*/spec.json"))
    assert find(read_spec(kept.read_text()), Path("mine")).store == Path("mine")


def test_machines_are_counted_over_the_runs_that_an_entry_shows(tmp_path):
    kept, kinds = sorted(references().glob("*/spec.json")), {}
    for file in kept:
        p = json.loads((file.parent / "provenance.json").read_text())
        kinds.setdefault((p["device"], p["threads"], p["precision"]), []).append(file.parent.name)
    one, other, *_ = sorted(kinds.values(), key=len)
    table = pd.DataFrame(dict(a=[1]))
    for name, ids in dict(first=one[:1], second=[*one[:1], *other[:1], "0" * 12]).items():
        save_table(table, name, tmp_path, study="", runs=ids)
    assert _machines(tmp_path, {"first", "absent"}) == ""
    told = _machines(tmp_path, {"first", "second"})
    assert told.count(": 1") == 2 and "more than one kind of machine" in told


def test_knees_of_which_all_are_called_alike_have_an_interval():
    cuts = kept_cuts()
    table = agreement_table(cuts).set_index("group")
    sure = table[table.alike == 100]
    assert len(sure) and (sure.alike_low < 100).all() and (sure.alike_high == 100).all()


def test_copies_of_a_film_are_one_participant():
    a, b = np.random.default_rng(0).integers(0, 256, (2, 150, 300)).astype(np.uint8)
    darker = (a * 0.7).astype(np.uint8)
    assert _first_copies(np.stack([a, b, a[:, ::-1], darker])).tolist() == [0, 1, 0, 0]
    films = kept_films()
    assert films.picture.isin(films.file).all() and films.picture.duplicated().any()
    p = as_predictions(films)
    assert len(set(p.participant)) < len(p.file) == len(set(p.file))
