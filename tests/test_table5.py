"""koa_repro.paper.table5: choices are made on validation knees, and the grid adds up."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import N, run

from koa_repro.paper import table5
from koa_repro.paper.table5 import (
    cost_sentence,
    extent,
    grid_claims,
    grid_cost,
    grid_table,
    optimism,
    row_differences,
    show_grid,
    span_sentence,
)
from koa_repro.runs import RunSpec, seal
from koa_repro.study import PROFILES, Study
from koa_repro.tuning import TRIPLES, choose, grid_specs, table5_options


def grid(cells, seeds=1):
    "The whole grid as `grid_runs` gives it, with these cells run: (row, triple) -> (val, test)."
    number = itertools.count()
    return {
        (row, t): [
            run(*cells[row, t], next(number)) if (row, t) in cells else None for _ in range(seeds)
        ]
        for row in table5_options()
        for t in TRIPLES
    }


A, B = "7:2:1 eps 0.15", "6:3:1 eps 0.15"


def test_the_choice_is_made_on_validation():
    rows = grid(
        {
            (A, TRIPLES[0]): (0.80, 0.90),
            (A, TRIPLES[1]): (0.85, 0.70),
            (A, TRIPLES[2]): (0.70, 0.95),
        }
    )
    line = grid_table(rows, n=200).set_index("row").loc[A]
    say = lambda t: ", ".join(f"{w:.1f}" for w in t)
    assert (
        line.triple == say(TRIPLES[1])
        and line.validation == pytest.approx(85)
        and line.test == pytest.approx(70)
    )
    assert (
        line.triple_on_test == say(TRIPLES[2])
        and line.best_on_test == pytest.approx(95)
        and line.gain == pytest.approx(25)
        and line.triples_done == 3
    )
    rest = grid_table(rows, n=200).set_index("row").drop(A)
    assert (rest.triples_done == 0).all() and rest.test.isna().all() and rest.triple.isna().all()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(100, 199), st.integers(100, 199)), min_size=1, max_size=5))
def test_test_knees_have_no_part_in_the_choice(pairs):
    first, second = (
        grid({(A, t): (v / N, w) for t, (v, w) in zip(TRIPLES, [(v, f(w)) for v, w in pairs])})
        for f in (lambda w: w / N, lambda w: 1 - w / N)
    )
    chosen = [choose(table5._row_predictions(rows, A, "val")) for rows in (first, second)]
    assert chosen[0] == chosen[1] and pairs[TRIPLES.index(chosen[0])][0] == max(v for v, _ in pairs)


def test_triples_of_a_row_are_judged_on_shared_seeds():
    rows = grid({(A, TRIPLES[0]): (0.8, 0.8), (A, TRIPLES[1]): (0.7, 0.7)}, seeds=3)
    rows[A, TRIPLES[0]][1] = None
    rows[A, TRIPLES[1]][2] = None
    assert {p.seeds for p in table5._row_predictions(rows, A, "test").values()} == {1}
    rows[A, TRIPLES[0]][0] = None
    assert (
        table5._row_predictions(rows, A, "test") == {}
        and (table := grid_table(rows, n=50)).set_index("row").triples_done[A] == 2
    )
    line = show_grid(table).set_index("λ, ε").loc["7:2:1, 0.15"]
    assert line.ours == "no seed that all weightings have" and line.seeds == ""
    assert line["weightings run"] == "2 of 36"


def test_optimism_is_too_high_but_not_twice_where_some_are_better():
    rng, told = np.random.default_rng(36), []
    p = (0.85 + 0.03 * rng.standard_normal((20_000, 36))).clip(0.5, 1)
    seen = rng.binomial(500, p) / 500
    truth = np.take_along_axis(seen - p, seen.argmax(1)[:, None], 1).mean()
    people = np.arange(500).astype(str)
    for row in p[:40]:
        right = rng.random((36, 500)) < row[:, None]
        found = {i: SimpleNamespace(right=r[None], participant=people) for i, r in enumerate(right)}
        told.append(optimism(found, 200))
    assert truth < np.mean(told) < 2 * truth


@pytest.mark.parametrize("triples, knees_each", [(2, 1), (36, 1), (36, 2)])
def test_optimism_is_neither_too_low_nor_too_high(triples, knees_each):
    "Against what choosing among equally good settings adds, with one or two knees a participant."
    rng, n, told = np.random.default_rng(triples), 400, []
    people = n // knees_each
    truth = (rng.binomial(people, 0.8, (40_000, triples)).max(1) / people).mean() - 0.8
    for _ in range(40):
        right = np.repeat(rng.random((triples, people)) < 0.8, knees_each, 1)
        found = {
            i: SimpleNamespace(
                right=r[None], participant=np.repeat(np.arange(people), knees_each).astype(str)
            )
            for i, r in enumerate(right)
        }
        told.append(optimism(found, 200))
    assert abs(np.mean(told) - truth) < 4 * np.std(told) / 40**0.5 + 0.02 * truth
    assert abs(optimism({0: found[0]}, 500)) < 0.004


def test_rows_are_compared_over_the_triples_that_both_have():
    cells = {
        (A, TRIPLES[0]): (0.80, 0.90),
        (A, TRIPLES[1]): (0.85, 0.70),
        (B, TRIPLES[3]): (0.6, 0.6),
    }
    assert not row_differences(grid(cells), n=100)
    assert not row_differences(
        grid(cells | {(B, TRIPLES[4]): (0.5, 0.95)}), n=100
    )  # equally many, and none the same
    found = row_differences(grid(cells | {(B, TRIPLES[0]): (0.5, 0.95)}), n=100)
    assert set(found) == {(A, B, "val"), (A, B, "test")}
    assert found[A, B, "val"].estimate == pytest.approx(0.30) and found[
        A, B, "test"
    ].estimate == pytest.approx(-0.05)  # at the triple that both have


def test_one_run_is_no_choice():
    cells = {
        (A, TRIPLES[0]): (0.80, 0.90),
        (B, TRIPLES[0]): (0.7, 0.7),
        (B, TRIPLES[1]): (0.6, 0.8),
    }
    table = grid_table(grid(cells), n=100)
    line = table.set_index("row").loc
    assert np.isnan(line[A].gain) and np.isnan(line[A].optimism) and line[A].triples_done == 1
    assert line[B].best_on_test == pytest.approx(80) and line[B].gain == pytest.approx(10)
    shown = show_grid(table).set_index("λ, ε")
    assert shown["best on test"]["7:2:1, 0.15"] == shown["test, so chosen"]["7:2:1, 0.15"] == ""
    assert shown["test, so chosen"]["6:3:1, 0.15"] == "80.00"


def test_nothing_run_is_a_table_that_says_so(tmp_path):
    rows, study = grid({}), Study("paper", "reference", 3, str(tmp_path), str(tmp_path))
    table = grid_table(rows)
    assert (table.triples_done == 0).all() and (show_grid(table).ours == "not run").all()
    assert row_differences(rows) == {} and extent(rows).startswith("THINNED: 0 of 432")
    claims = grid_claims({}, False, study)
    assert set(claims.verdict) == {"not decided"} and set(claims.ours) == {"not run"}
    assert "1,296" in cost_sentence(grid_cost(3), False, study) and "0.63" in span_sentence(table)


@pytest.mark.parametrize(
    "edge, verdicts",
    [
        (0.2, ("holds", "holds")),
        (-0.2, ("fails", "fails")),
        (0.0, ("not decided", "not decided")),
    ],
)
def test_claims_of_the_grid_can_go_either_way(edge, verdicts, tmp_path, monkeypatch):
    monkeypatch.setattr(table5, "TRIPLES", TRIPLES[:1])
    best = lambda row: edge * ((row.startswith("7:2:1")) + (row == A))
    rows = {
        (row, TRIPLES[0]): [run(0.5 + best(row), 0.5 + best(row), 10 * i + s) for s in range(3)]
        for i, row in enumerate(table5_options())
    }
    study = Study("fast", "reference", 3, str(tmp_path), str(tmp_path))
    found = row_differences(rows, n=1000)
    assert len(found) == 22 and tuple(grid_claims(found, True, study).verdict) == verdicts
    assert set(grid_claims(found, False, study).verdict) == {"not decided"}  # a thinned grid
    assert set(grid_claims(found, True, Study(out=str(tmp_path), store=str(tmp_path))).verdict) == {
        "no verdict"
    }


def test_a_profile_asks_for_what_it_can_afford(tmp_path):
    place = dict(store=str(tmp_path), out=str(tmp_path))
    cells = list(grid_specs(Study(**place)))
    asked = lambda study: sum(table5._asked(study, c) for c in cells)
    assert [asked(Study(p, "reference", **place)) for p in ("preview", "fast")] == [12, 432]
    assert 4 <= asked(Study(**place)) <= 10


def test_cost_tells_processor_from_gpu(tmp_path, monkeypatch):
    study = Study("fast", "reference", 1, str(tmp_path), str(tmp_path))
    spec = next(iter(grid_specs(study).values()))[0]
    monkeypatch.setattr(table5, "references", lambda: tmp_path)
    assert grid_cost().minutes.isna().all() and set(grid_cost().machine) == {"GPU"}
    (folder := tmp_path / spec.id).mkdir()
    (folder / "spec.json").write_text(json.dumps(spec.description))
    pd.DataFrame(dict(seconds=[60.0, 120.0])).to_csv(folder / "history.csv")
    for device, kind in (("a card", "GPU"), ("some processor", "processor")):
        (folder / "provenance.json").write_text(
            json.dumps(dict(device=device, processor="some processor"))
        )
        seal(folder)
        cost = grid_cost(2).query("profile == 'fast' and measured == 1")
        assert (
            list(cost.machine) == [kind]
            and cost.minutes.item() == 3
            and cost.hours.item() == pytest.approx(3 * 864 / 60)
        )


def test_cost_is_of_this_network_alone():
    spec = RunSpec("", recipe=PROFILES["fast"].recipe, options=PROFILES["fast"].options)
    assert table5._alike(spec, PROFILES["fast"]) and not table5._alike(
        replace(spec, network="vgg-19"), PROFILES["fast"]
    )


def test_one_weighting_a_row_is_no_choice_and_one_run_no_conclusion():
    line = dict(paper=87.0, seeds=1, triples_done=1, low=84.0, high=88.0)
    one, several = dict(line), dict(line, seeds=3, triples_done=36, low=80.0)
    said = span_sentence(pd.DataFrame([one, dict(one, seeds=3)]))
    assert "none was chosen" in said and "In 1 of them" in said and "In the one row" in said
    said = span_sentence(pd.DataFrame([several, several]))
    assert "chosen" not in said and "no conclusion" not in said and "±4.0" in said
