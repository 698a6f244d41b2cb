"""Table III: rows with different numbers of seeds, with some runs, and with none."""

from types import SimpleNamespace

import numpy as np
import pytest
from made_up import said

from koa_repro.paper.table3 import (
    DEPTHS,
    PLACEMENTS,
    differences_beside,
    draw,
    pooling_claims,
    pooling_differences,
    pooling_specs,
    pooling_table,
    show,
)
from koa_repro.rows import shared_runs
from koa_repro.study import Study


def run(seed, right):
    "A run that classifies 60 test knees correctly with that probability."
    rng, label = np.random.default_rng(seed), np.arange(60) % 2
    p1 = np.where((rng.random(60) < right) == (label == 1), 0.9, 0.1)
    file, participant = [f"{i}.png" for i in range(60)], [f"p{i // 2}" for i in range(60)]
    frame = said(file, participant, label, p1)
    return SimpleNamespace(predictions=lambda weights="reported": frame)


def rows(seeds):
    return {
        f"{pool} {p}": [run(10 * i + s, 0.8 if pool == "gap" else 0.6) for s in range(seeds)]
        for i, p in enumerate(PLACEMENTS)
        for pool in ("gap", "gmp")
    }


def test_the_mean_is_over_the_seeds_that_all_rows_have():
    three, uneven = rows(3), rows(3)
    uneven["gap P4"][2] = None
    two = {name: runs[:2] for name, runs in three.items()}
    a, b = (pooling_differences(r, n=200) for r in (uneven, two))
    assert (a["mean"].estimate, a["mean"].low, a["mean"].seeds) == (
        b["mean"].estimate,
        b["mean"].low,
        2,
    )
    assert (a["P4"].seeds, a["P1+P4"].seeds) == (2, 3)
    assert pooling_differences(three, n=200)["mean"].seeds == 3
    uneven["gmp P1+P4"][:2] = [None, None]
    assert "mean" not in pooling_differences(uneven, n=200), "no seed has every row"
    assert shared_runs(uneven, "gap P4", "gmp P1+P4") == []


def test_twelve_rows_of_distinct_runs():
    specs = pooling_specs(Study(seeds=2))
    assert len(specs) == 12 and len({s.id for row in specs.values() for s in row}) == 24


def test_the_mean_is_that_of_the_six():
    found = pooling_differences(rows(2), n=400)
    six = [found[p].estimate for p in PLACEMENTS]
    assert found["mean"].estimate == pytest.approx(np.mean(six))
    table = differences_beside(found).set_index("difference")
    assert table.ours["mean"] == pytest.approx(100 * np.mean(six))
    assert table.paper["mean"] == pytest.approx(table.paper[list(PLACEMENTS)].mean())
    assert table.paper["P1+P2+P3+P4"] == pytest.approx(88.38 - 86.95)
    assert table.p_holm.notna().sum() == 6 and (table.p_holm >= table.p).sum() == 6


@pytest.mark.parametrize("done", [[], ["gap P4"], ["gap P4", "gmp P4", "gap P1+P2+P3+P4"]])
def test_what_was_not_run_stays_empty(done, tmp_path):
    study = Study("fast", "reference", 2, out=str(tmp_path), store=str(tmp_path))
    some = {name: runs if name in done else [None, None] for name, runs in rows(2).items()}
    table, found = pooling_table(some, n=200), pooling_differences(some, n=400)
    assert table.row[table.accuracy.notna()].tolist() == done
    assert table.runs_done.sum() == 2 * len(done) and (table.runs_wanted == 2).all()
    assert set(found) == ({"P4", DEPTHS} if len(done) == 3 else set())
    beside = differences_beside(found).set_index("difference")
    if found:  # one that was not run counts as one of the six, too
        assert beside.p_holm["P4"] == pytest.approx(min(1, 6 * beside.p["P4"]))
    assert (show(table).xs("ours", axis=1, level=1) == "not run").sum().sum() == 12 - len(done)
    claims = pooling_claims(found, study).set_index("id")
    assert claims.verdict.C01 == claims.verdict.C02 == "not decided"
    draw(table, found, "some rows")


def test_the_claims_follow_their_rules(tmp_path):
    study = Study("fast", "reference", 3, out=str(tmp_path), store=str(tmp_path))
    verdicts = lambda found: pooling_claims(found, study).set_index("id").verdict
    good = {name: [run(s, 0.95 if "gap" in name else 0.3) for s in range(3)] for name in rows(1)}
    found = pooling_differences(good, n=500)
    assert (verdicts(found).C01, verdicts(found).C02) == ("holds", "holds")
    assert verdicts(found).C03 == "not decided", "the same runs"
    bad = good | {"gmp P3+P4": good["gap P4"], "gap P3+P4": good["gmp P4"]}
    assert verdicts(pooling_differences(bad, n=500)).C02 == "fails"
    preview = Study("preview", "reference", 3, out=str(tmp_path), store=str(tmp_path))
    assert set(pooling_claims(found, preview).verdict) == {"no verdict"}
