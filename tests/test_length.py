"""How long one trains, on made-up runs: the length is chosen on validation, the test is read
after."""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from made_up import entry_of
from sklearn import metrics

from koa_repro.beyond.length import (
    LOSSES,
    STUDIES,
    _sign,
    answer_power,
    chosen_lengths,
    chosen_table,
    difference_rows,
    draw_lengths,
    length_claim,
    length_specs,
    length_table,
    lengths,
    most_telling,
    power_table,
    show_chosen,
)
from koa_repro.results import Result
from koa_repro.stats import Spreads, seeds_power
from koa_repro.study import Study

N = 400


@dataclass
class Known:
    "A run with these final accuracies; only its reported weights are as good as it says."

    test: float
    val: float
    train: float = 0.9
    reported: str = "last"

    def predictions(self, weights="reported"):
        label = np.arange(N) % 2
        hit = np.arange(N) < round((self.test if weights == "reported" else 0.5) * N)
        p1 = np.where(hit == (label == 1), 0.9, 0.1)
        facts = dict(participant=np.arange(N).astype(str), side="R", kl=2 * label, label=label)
        return pd.DataFrame(
            dict(file=np.arange(N).astype(str), split="test", p0=1 - p1, p1=p1, **facts)
        )

    @property
    def history(self):
        return pd.DataFrame(dict(train_accuracy=[0.5, self.train], val_accuracy=[0.99, self.val]))


@pytest.fixture
def study(tmp_path):
    return Study("fast", "reference", 2, str(tmp_path), str(tmp_path))


def rows(study, **found):
    "Rows of two seeds; `hybrid_60=[run, run]` and so on, all others not run."
    short = {"cross-entropy": "ce", "hybrid": "hybrid", "label smoothing alone": "smoothing"}
    return {
        (loss, epochs): found.get(f"{short[loss]}_{epochs}", [None, None])
        for loss, epochs in length_specs(study)
    }


def test_every_length_is_another_run(study):
    specs = [s for row in length_specs(study).values() for s in row]
    assert len({s.id for s in specs}) == len(specs) == 2 * len(LOSSES) * len(lengths(study))
    assert {s.recipe.epochs for s in specs} == {60, 120, 180, 360, 720}


def test_the_length_is_chosen_on_validation_alone(study):
    "Each loss has the best test accuracy at the other length."
    found = rows(
        study,
        ce_60=[Known(0.80, 0.70), Known(0.80, 0.70)],
        ce_180=[Known(0.60, 0.75), Known(0.60, 0.75)],
        hybrid_60=[Known(0.75, 0.80), Known(0.75, 0.80)],
        hybrid_180=[Known(0.95, 0.79), Known(0.95, 0.79)],
    )
    assert chosen_lengths(found) == {"cross-entropy": 180, "hybrid": 60}
    (line,) = length_claim(found, study).to_dict("records")
    assert line["estimate"] == pytest.approx(15) and line["verdict"] == "holds"
    assert (line["epochs hybrid"], line["epochs cross-entropy"]) == (60, 180)
    saved = dict(length_claims=length_claim(found, study), length_chosen=chosen_table(found))
    told = {h.what: h for h in entry_of("length").headlines(lambda n: Result(saved[n], "a study"))}
    gain = told["Hybrid - cross-entropy"]
    assert gain.estimate == pytest.approx(15) and gain.verdict == "holds"
    assert {h.epochs for h in told.values()} == {
        "60 epochs",  # the hybrid loss by itself
        "60 epochs (hybrid) and 180 epochs (cross-entropy)",
    }
    right_by = dict(hybrid=0.75, ce=0.60)
    brier = {loss: 100 * (right * 0.01 + (1 - right) * 0.81) for loss, right in right_by.items()}
    apart = told["Brier score, hybrid - cross-entropy"]
    assert apart.estimate == pytest.approx(brier["hybrid"] - brier["ce"])
    hybrid = found["hybrid", 60][0].predictions()
    area = metrics.roc_auc_score(hybrid.label, hybrid.p1)
    assert told["AUC, two grades"].estimate == pytest.approx(area)


def test_nothing_run_has_no_headline(study):
    found = rows(study)
    saved = dict(length_claims=length_claim(found, study), length_chosen=chosen_table(found))
    assert not entry_of("length").headlines(lambda n: Result(saved[n], "a study"))
    assert show_chosen(chosen_table(found)).size == 1  # says so


def test_a_length_that_one_loss_alone_has_is_no_choice(study):
    found = rows(
        study,
        ce_60=[Known(0.8, 0.7), None],
        hybrid_60=[Known(0.7, 0.7), Known(0.1, 0.1)],
        ce_180=[Known(0.99, 0.99), Known(0.99, 0.99)],
    )
    assert chosen_lengths(found) == {"hybrid": 60, "cross-entropy": 60}
    (line,) = length_claim(found, study).to_dict("records")
    assert line["seeds"] == 1 and line["verdict"] == "not decided"
    assert line["estimate"] == pytest.approx(-10)


@pytest.mark.parametrize(
    "ce, hybrid, longer_ce, longer_hybrid, epochs_hybrid",
    [
        # three times the epochs were run with the luckier seed alone: no choice
        ((0.6, 0.5), (0.6, 0.5), (0.9,), (0.9,), 60),
        # the hybrid loss's second seed has no partner, and would be the luckier one
        ((0.6,), (0.6, 0.99), (0.5,), (0.7,), 180),
    ],
)
def test_lengths_are_compared_by_the_same_seeds(
    study, ce, hybrid, longer_ce, longer_hybrid, epochs_hybrid
):
    made = dict(ce_60=ce, hybrid_60=hybrid, ce_180=longer_ce, hybrid_180=longer_hybrid)
    two = lambda vals: [*(Known(0.8, v) for v in vals), None][:2]
    found = rows(study, **{name: two(vals) for name, vals in made.items()})
    assert chosen_lengths(found) == {"hybrid": epochs_hybrid, "cross-entropy": 60}


def test_other_seeds_at_every_length_are_no_reason_for_no_choice(study):
    one, two = [Known(0.8, 0.6), None], [None, Known(0.8, 0.9)]
    found = rows(study, ce_60=one, hybrid_60=one, ce_180=two, hybrid_180=two)
    assert chosen_lengths(found) == {"hybrid": 60, "cross-entropy": 60}


def test_a_share_stays_between_0_and_1(study):
    found = rows(study, ce_60=[Known(1.0, 0.9), Known(0.7, 0.9)])
    table = length_table(found).dropna(subset=["low"])
    assert len(table) == 3 and table.low.min() >= 0 and table.high.max() <= 100


def test_a_length_without_its_double_is_no_choice(study):
    "Whether 120 or 720 epochs were enough, nobody could say."
    both = [Known(0.8, 0.6), Known(0.8, 0.5)]
    longer = [Known(0.8, 0.9), Known(0.8, 0.9)]
    lone = {f"{loss}_{epochs}": longer for loss in ("ce", "hybrid") for epochs in (120, 720)}
    found = rows(study, ce_60=both, hybrid_60=both, **lone)
    assert chosen_lengths(found) == {"hybrid": 60, "cross-entropy": 60}


def test_differences_are_of_the_reported_weights_and_shared_seeds(study):
    found = rows(
        study,
        ce_60=[Known(0.8, 0.7, 1.0), Known(0.8, 0.7, 1.0)],
        hybrid_60=[Known(0.7, 0.7), None],
    )
    table = length_table(found).set_index(["loss", "epochs", "measure"])
    assert table.estimate["cross-entropy", 60, "accuracy"] == pytest.approx(80)
    assert table.training["cross-entropy", 60, "accuracy"] == pytest.approx(100)
    assert table.estimate["cross-entropy", 60, "brier"] == pytest.approx(
        100 * (0.8 * 0.01 + 0.2 * 0.81)
    )
    assert np.isnan(table.estimate["hybrid", 120, "auc"])
    part = difference_rows(found).set_index(["epochs", "against", "measure"])
    assert part.estimate[60, "cross-entropy", "accuracy"] == pytest.approx(-10)
    assert part.seeds[60, "cross-entropy", "accuracy"] == 1
    assert part.seeds[60, "label smoothing alone", "accuracy"] == 0


def test_the_length_that_tells_most_was_trained_to_the_end_with_most_seeds():
    state = ["under-trained", "trained to the end", "trained to the end", "convergence not shown"]
    found = pd.DataFrame(dict(epochs=[12, 24, 36, 72], seeds=[3, 3, 2, 3], trained=state))
    assert most_telling(found).epochs.tolist() == [24]
    assert most_telling(found[found.epochs.isin((12, 72))]).epochs.tolist() == [72]
    assert most_telling(found[found.epochs > 24]).epochs.tolist() == [36]


def test_nothing_run_is_a_picture_and_a_line_too(study):
    found = rows(study)
    plt.close(draw_lengths(found, length_table(found), "nothing was run"))
    assert chosen_lengths(found) == {} and difference_rows(found).seeds.sum() == 0
    assert length_claim(found, study).verdict.tolist() == ["not decided"]


def test_what_more_seeds_would_show(study):
    a, b = (0.85, 0.84), (0.83, 0.80)
    found = rows(study, hybrid_60=[Known(x, 0.8) for x in a], ce_60=[Known(x, 0.8) for x in b])
    table = power_table(found)
    assert table.seeds.tolist() == list(STUDIES) and set(table.seeds_here) == {2}
    sd = np.std(np.subtract(a, b), ddof=1)
    assert table.sd.to_numpy() == pytest.approx(100 * sd)
    # one degree of freedom: the deviation squared over 5.024 and over 0.000982
    assert table.sd_low_sd.to_numpy() == pytest.approx(100 * sd / 5.0239**0.5, rel=1e-3)
    assert table.sd_high_sd.to_numpy() == pytest.approx(100 * sd / 0.00098207**0.5, rel=1e-3)
    assert table.power.is_monotonic_increasing and table.least.is_monotonic_decreasing
    # each participant has one knee; those between the two accuracies differ, the same in both runs
    apart = np.zeros((2, N))
    for s in range(2):
        apart[s, round(b[s] * N) : round(a[s] * N)] = 1
    left = apart - apart.mean(1, keepdims=True)
    lasting = (left[0] * left[1]).mean()
    parts = lasting, (left**2).mean() - lasting
    of = Spreads(sd, *np.sqrt(parts), (apart != 0).mean())
    for r in table.itertuples():
        assert r.power == pytest.approx(seeds_power(r.seeds, N, 0.0077, of))
        assert seeds_power(r.seeds, N, r.least / 100, of) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize("runs", [[None, None], [Known(0.8, 0.8), None], [Known(0.8, 0.8)] * 2])
def test_runs_that_do_not_vary_say_nothing_of_more_seeds(study, runs):
    table = power_table(rows(study, hybrid_60=runs, ce_60=runs))
    assert table.empty and "%" not in answer_power(table)


@pytest.mark.parametrize(
    "ends, word",
    [
        ([(1, 3), (-1, 5)], "same sign"),
        ([(-5, 2), (-1, 4)], "is not shown"),
        ([(-5, 2), (1, 4)], "is not shown"),
        ([(-5, -2), (1, 4)], "changes with"),
    ],
)
def test_a_sign_changes_only_where_intervals_show_it(ends, word):
    lines = pd.DataFrame(ends, columns=["low", "high"])
    assert word in _sign(lines.assign(estimate=lines.mean(axis=1)))
