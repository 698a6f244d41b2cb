"""Table VI on predictions whose truth is known: one loss alone is shown, all seven are needed."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from made_up import Made

from koa_repro.paper.table6 import (
    applied,
    applied_specs,
    draw,
    draw_training,
    gains,
    gains_claims,
    gains_table,
    hybrid_table,
    show,
)
from koa_repro.results import ATTENTION, hybrid_specs, training_table
from koa_repro.study import Study


class Known(Made):
    "A run with this history."

    @property
    def history(self):
        return pd.DataFrame(
            dict(train_accuracy=[0.6, 0.7, 0.8, 0.85, 0.9], val_accuracy=[0.4, 0.5, 0.6, 0.7, 0.6])
        )


@pytest.fixture
def study(tmp_path):
    return Study("fast", "reference", out=str(tmp_path), store=str(tmp_path))


def both_losses(study, **found):
    specs = hybrid_specs(study) | applied_specs(study)
    return {row: [found.get(row.replace("-", "_").replace(", ", "__"))] for row in specs}


def test_one_side_alone_is_shown(study):
    rows = both_losses(
        study, Tiulpin__ce=Known(0.8), Ours__ce=Known(0.9), Ours__hybrid=Known(0.85, 1)
    )
    table = hybrid_table(rows).set_index("row", drop=False)
    assert (
        table.ce["Tiulpin"] == pytest.approx(80)
        and np.isnan(table.hybrid["Tiulpin"])
        and np.isnan(table.difference["Tiulpin"])
    )
    assert (table.runs_ce["Tiulpin"], table.runs_hybrid["Tiulpin"], table.runs_done["Tiulpin"]) == (
        1,
        0,
        0,
    ) and table.difference["Ours"] == pytest.approx(-5)
    shown = show(table.reset_index(drop=True), {"VGG-11, hybrid": 0.7}).set_index("model")
    line = shown.loc["Tiulpin"]
    assert line["cross-entropy, ours"].startswith("80.00")
    assert line["hybrid, ours"] == line["difference, ours"] == "not run"
    assert shown.loc["VGG-11", "cross-entropy, ours"] == "not run"
    assert shown.loc["VGG-11", "hybrid, ours"] == "built, one step"
    assert list(table.row) == [*applied(), ATTENTION]
    plt.close(draw(table.reset_index(drop=True), "some runs"))


def test_nothing_run_is_a_table_too(study):
    rows = both_losses(study)
    table = hybrid_table(rows)
    assert table[["ce", "hybrid", "difference"]].isna().all(axis=None)
    assert (table.runs_wanted == 1).all() and table.runs_done.sum() == 0
    assert gains(rows) == {} and gains_table({}).empty and training_table(rows).empty
    assert gains_claims({}, study).verdict.tolist() == ["not decided"]
    plt.close(draw(table, "nothing was run"))
    plt.close(draw_training(rows, "nothing was run"))


def test_how_far_a_row_was_trained(study):
    rows = both_losses(study, Tiulpin__ce=Known(0.8))
    line = training_table(rows).set_index("row").loc["Tiulpin, cross-entropy"]
    assert (line.runs, line.epochs) == (1, 5) and line.training == pytest.approx(90)
    assert line["validation at 4/5"] == pytest.approx(70)
    assert line["validation at the end"] == pytest.approx(60)


def verdict(found, study):
    return gains_claims(found, study).verdict[0]


def test_all_seven_are_needed_and_each_must_gain(study):
    def seven(**hybrid):
        return {
            f"{name}, {loss}": [
                Known(0.7 if loss == "ce" else hybrid.get(name, 0.85), 10 * i + s) for s in range(2)
            ]
            for i, name in enumerate([*applied(), ATTENTION])
            for loss in ("ce", "hybrid")
        }

    found = gains(seven())
    assert (
        len(found) == 7
        and verdict(found, study) == "holds"
        and (gains_table(found).p_holm < 0.05).all()
    )
    assert verdict(gains(seven(Antony=0.5)), study) == "fails"
    assert gains_claims(found, study).ours[0].endswith("7 gain (95% intervals)")
    doubtful = {n: replace(i, trained="under-trained") for n, i in found.items()}
    single = {n: replace(i, seeds=1) for n, i in found.items()}
    for none in (doubtful, single):
        assert gains_claims(none, study).ours[0].endswith("0 gain (95% intervals)")
    del found["Ours"]
    assert verdict(found, study) == "not decided"
