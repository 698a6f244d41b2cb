"""koa_repro.beyond.first_day: what is told of made-up networks is what was put into them."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from koa_repro.beyond.first_day import (
    SHIPPED,
    draw_strata,
    draw_unseen,
    findings,
    graded_table,
    shipped_grades,
    show_grades,
    strata_sentence,
    worth,
)
from koa_repro.data import GRADES
from koa_repro.discrimination import THRESHOLDS, AllGrades
from koa_repro.privacy import published_knees


def graded(*called):
    "A network that calls these of 40 knees of each grade KL-2."
    kl = np.repeat(GRADES, 40)
    up = np.concatenate([np.arange(40) < k for k in called])
    return AllGrades(np.array([f"p{i}" for i in range(200)]), kl, np.where(up, 0.9, 0.1)[None])


def test_shares_and_place_are_told():
    every = {"Ours, ce": graded(8, 14, 32, 40, 40), "Ours, hybrid": graded(10, 20, 10, 40, 40)}
    table = graded_table(every)
    text = findings(table).split("\n\n")
    assert "35 [" in text[0] and "25 [" in text[0]  # (14 - 8) / (32 - 8) of the way
    assert "50 [" in text[1] and "of the way" not in text[1]  # KL-0 and KL-2 not told apart
    shown = show_grades(table)
    assert list(shown) == ["Siamese-GAP, cross-entropy", "Siamese-GAP, hybrid"]
    assert "not told apart" in shown.loc["place of KL-1", "Siamese-GAP, hybrid"]
    fig = draw_unseen(every, table, "made up")
    assert [len(ax.get_legend_handles_labels()[1]) for ax in fig.axes] == [5, 2]
    assert len(draw_unseen({SHIPPED: every["Ours, ce"]}, table, "one").axes) == 2
    assert graded_table({}).empty and findings(graded_table({})) == ""
    assert (show_grades(graded_table({})) == "not run").all(axis=None)
    plt.close("all")


def test_the_shipped_networks_met_no_one_of_the_test_knees():
    g, listed = shipped_grades(), published_knees()
    test = listed[listed.split == "test"]
    assert sorted(np.bincount(g.kl)) == sorted(test.kl.value_counts())
    assert set(g.participant) == set(test.participant)
    assert not set(g.participant) & set(listed.participant[listed.split != "test"])
    assert g.score.shape == (1, len(test)) and ((g.score > 0) & (g.score < 1)).all()


@pytest.mark.parametrize(
    "good, told", [(slice(2, 5), "every threshold from 0.15 to 0.25"), (slice(0, 0), "none")]
)
def test_thresholds_worth_acting_on(good, told):
    low = np.full(len(THRESHOLDS), -0.1)
    low[good] = 0.1
    acted = pd.DataFrame(dict(row="Ours, ce", threshold=THRESHOLDS, low=low, everybody=0.05))
    assert worth(acted).endswith(f"Siamese-GAP, cross-entropy, {told}.")
    low[[2, 7]] = 0.1
    if told == "none":
        assert worth(acted.assign(low=low)).endswith("0.15, 0.40.")


def test_strata_count_what_has_a_difference():
    ends = dict(auc=0.9, low=0.88, high=0.92, task="two grades", row="Ours, ce")
    layers = pd.DataFrame(
        [
            dict(stratum="left knees", against="right knees", difference=0.1, difference_low=0.02),
            dict(stratum="right knees", against=""),
            dict(stratum="darkest quarter", against="the other quarters", difference=0.0)
            | dict(difference_low=-0.1),
            dict(stratum="second quarter", against="the other quarters"),
        ]
    ).assign(difference_high=0.2, **ends)
    assert strata_sentence(layers).endswith("Siamese-GAP, cross-entropy (two grades) 1 of 2.")
    assert len(draw_strata(layers, "made up").axes) == 1
    plt.close("all")
