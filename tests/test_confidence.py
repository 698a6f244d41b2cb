"""Planted overconfidence is found and nothing else, weights mean knees, and what was not run is
said: koa_repro.calibration and koa_repro.paper.fig5."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from koa_repro.beyond.targets import draw_targets, show_targets, stretches, target_table
from koa_repro.calibration import (
    MEASURES,
    calibration_error,
    fit_temperature,
    own_shares,
    recalibration,
    reliability,
    risk_area,
    statistic_of,
    tempered,
)
from koa_repro.losses import HybridLoss
from koa_repro.paper.fig5 import (
    ELEVEN,
    beside_paper,
    both_versions,
    confidence_claims,
    confidence_parts,
    confidence_table,
    draw_calibration,
    draw_confidence,
    force_table,
    late_medium,
    row_names,
    show_claims,
    show_confidence,
    temperatures,
    trained_longer,
)
from koa_repro.phantom import make_knees
from koa_repro.results import (
    ATTENTION,
    EVEN,
    TARGETED,
    confidence_specs,
    grade_difference,
    in_force,
    loss_specs,
    measure_table,
)
from koa_repro.results import CONFIDENCE_ROWS as ROWS
from koa_repro.rows import by_seed, convergence, joined
from koa_repro.runs import Run, find, references
from koa_repro.specs import read_spec
from koa_repro.stats import TRAINED, bootstrap_interval, seed_interval
from koa_repro.study import OWN_SPLITS, Study, study_frame
from koa_repro.training import set_aside

UNIT = st.floats(0.01, 0.99)


def two(p):
    return np.stack([1 - np.asarray(p), np.asarray(p)], -1)


class Made:
    "An untrained run: logits of the true grade spread about `skill`, then multiplied by `heat`."

    def __init__(self, seed, heat=1.0, skill=1.0, n=300, lean=0.0, medium=0.85):
        rng, facts = np.random.default_rng([seed, int(10 * skill)]), np.random.default_rng(7)
        split, kl = (
            np.repeat(["val", "test"], [n, 2 * n]),
            facts.choice([0, 2], 3 * n, p=(0.6, 0.4)),
        )
        z = rng.normal(skill * (kl - 1), 1)  # log odds at equal shares are 2 skill z
        p = two(1 / (1 + np.exp(-heat * 2 * skill * (z + lean))))
        self.frame = pd.DataFrame(
            dict(
                file=[f"k{i}" for i in range(3 * n)],
                participant=[f"p{i // 2}" for i in range(3 * n)],
                kl=kl,
                label=kl // 2,
                split=split,
                p0=p[:, 0],
                p1=p[:, 1],
            )
        )
        self.spec, self.provenance = (
            SimpleNamespace(grades=(0, 2), loss_options=()),
            dict(best_epoch=20),
        )
        self.history = pd.DataFrame(
            dict(
                epoch=range(1, 21),
                c_medium=[0.5] * 18 + [medium] * 2,
                val_accuracy=np.linspace(0.5, 0.8, 20),
                target_0=0.6,
                target_1=0.7,
                val_c_0=np.linspace(0.3, 0.8, 20),
                val_c_1=np.linspace(0.52, 0.7, 20),
            )
        )

    reported = "best"

    def predictions(self, weights="reported"):
        return self.frame


def made(seeds=3, **rows):
    return {
        name: [Made(s, **how) if how is not None else None for s in range(seeds)]
        for name, how in rows.items()
    }


SHARES = pd.DataFrame(dict(kl=[0] * 6 + [2] * 4, split="train"))  # 0.6 and 0.4


def judged(rows, study=SimpleNamespace(verdict=True), n=999):
    versions = both_versions(by_seed(rows), by_seed(rows, "val"), SHARES)
    table, differences = confidence_table(versions, rows, n=n)
    found = confidence_parts({**dict.fromkeys(ROWS, []), **rows}, versions, differences)
    return SimpleNamespace(
        versions=versions,
        table=table,
        differences=differences,
        found=found,
        claims=confidence_claims(found, study),
    )


def verdicts(claims):
    return claims[claims.verdict != ""].groupby("id").verdict.first().to_dict()


@given(st.lists(UNIT, min_size=2, max_size=20), st.floats(0.2, 5), UNIT)
def test_a_temperature_can_be_undone_and_calls_the_same(p, T, share):
    p, prior = two(p), np.array([share, 1 - share])
    np.testing.assert_allclose(tempered(tempered(p, T), 1 / T), p, atol=1e-6)
    np.testing.assert_allclose(tempered(tempered(p, prior=prior), prior=1 / prior), p, atol=1e-6)
    np.testing.assert_allclose(tempered(p, prior=np.array([0.5, 0.5])), p, atol=1e-9)
    assert ((tempered(p, T)[:, 1] > 0.5) == (p[:, 1] > 0.5))[abs(p[:, 1] - 0.5) > 1e-6].all()
    assert np.isfinite(
        tempered(np.array([[1.0, 0.0]]), T)
    ).all()  # a softmax that ran full in single precision


@pytest.mark.parametrize(
    "values", [dict(temperature=-1), dict(temperature=0), dict(prior=[0.0, 1.0])]
)
def test_a_temperature_or_prior_that_cannot_be_is_refused(values):
    with pytest.raises(ValueError, match="above 0"):
        tempered([[0.5, 0.5]], **values)


def test_recalibration_gives_what_is_asked_for():
    with pytest.raises(ValueError, match="'Slope'"):
        recalibration([0.1, -0.2], [1, 0], "Slope")


@pytest.mark.parametrize("heat", [0.5, 1.0, 4.0])
def test_the_temperature_that_was_planted_is_found(heat):
    frame = Made(1, heat=heat, n=4000).frame
    assert fit_temperature(
        frame[["p0", "p1"]].to_numpy(), frame.label.to_numpy(), np.array([0.6, 0.4])
    ) == pytest.approx(heat, rel=0.1)


def naive(called, right, bin_of):
    return sum(
        abs(called[bin_of == b].mean() - right[bin_of == b].mean()) * (bin_of == b).mean()
        for b in set(bin_of)
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(20, 60))
def test_weights_are_knees(seed, n):
    "A knee of weight w counts as w knees in calibration error and risk area; ties included."
    rng = np.random.default_rng(seed)
    called, right, w = (
        rng.choice(np.linspace(0.5, 1, 8), n),
        rng.random(n) < 0.8,
        rng.integers(0, 4, n),
    )
    if w.sum() == 0:
        w[0] = 1
    bin_of, many = np.minimum(called * 15, 14).astype(int), np.repeat(np.arange(n), w)
    got = calibration_error(called, right)(w[None].astype(float))[0]
    assert got == pytest.approx(naive(called[many], right[many], bin_of[many]))
    share, sure, kept = (x[0] for x in reliability(called, right)(w[None].astype(float)))
    assert share.sum() == pytest.approx(1) and np.array_equal(share > 0, np.isfinite(sure))
    assert np.nansum(share * kept) == pytest.approx(right[many].mean())
    one = np.ones((1, len(many)))
    assert risk_area(called, right)(w[None].astype(float))[0] == pytest.approx(
        risk_area(called[many], right[many])(one)[0]
    )
    shuffled = rng.permutation(n)  # the order of the knees means nothing
    assert risk_area(called[shuffled], right[shuffled])(np.ones((1, n)))[0] == pytest.approx(
        risk_area(called, right)(np.ones((1, n)))[0]
    )


def best_slope(logit, y, w, offset=False):
    "Slope, or intercept at a slope of 1, of the greatest likelihood, by plain search."

    def cost(beta):
        eta = beta[0] + (logit if offset else beta[1] * logit)
        return (w * np.logaddexp(0, np.where(y, -eta, eta))).sum()

    start = np.zeros(1 if offset else 2)
    options = dict(xatol=1e-9, fatol=1e-12, maxiter=10_000, maxfev=10_000)
    found = minimize(cost, start, method="Nelder-Mead", options=options)
    assert found.success
    return found.x[-1]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.3, 8))
@example(17063, 7.9375)  # a plain search takes 626 steps
def test_slope_and_intercept_have_the_greatest_likelihood(seed, heat):
    rng = np.random.default_rng(seed)
    logit, w = heat * rng.normal(0, 1.5, 80), rng.integers(0, 4, 80).astype(float)
    y = rng.random(80) < 1 / (1 + np.exp(-0.5 - logit / heat))
    many = np.repeat(np.arange(80), w.astype(int))
    for what in ("slope", "intercept"):
        got = recalibration(logit, y, what)(w[None])[0]
        assert got == pytest.approx(best_slope(logit, y, w, what == "intercept"), abs=1e-4)
        assert got == pytest.approx(
            recalibration(logit[many], y[many], what)(np.ones((1, len(many))))[0]
        )


def test_a_slope_without_a_maximum_is_no_number():
    logit, y, ones = np.array([-3.0, -1, 1, 2, 4]), np.array([0, 0, 0, 1, 1]), np.ones((1, 5))
    assert np.isnan(recalibration(logit, y)(ones))  # no error: it grows without end
    assert np.isfinite(recalibration(logit, y, "intercept")(ones))
    assert np.isnan(recalibration(np.zeros(5), y)(ones))
    assert recalibration(np.zeros(5), y, "intercept")(ones) == pytest.approx(np.log(2 / 3))
    far = recalibration(np.full(3, -2.7), np.array([1, 0, 0]), "intercept")(np.ones((1, 3)))
    assert far == pytest.approx(2.7 - np.log(2))  # Newton's own steps would go to and fro
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    steep = rng.random(200) < 1 / (1 + np.exp(-4 * x))
    known = recalibration(x, steep)(np.ones((1, 200)))
    sure = recalibration(np.append(x, 87), np.append(steep, True))(np.ones((1, 201)))
    assert known == pytest.approx(sure)  # a knee that is as certain as can be adds nothing
    alone = np.array([[1.0, 1, 1, 0, 0]])  # knees of one grade
    for what in ("slope", "intercept"):
        assert np.isnan(recalibration(logit, y, what)(alone))
    mixed = np.vstack([alone, np.array([[1.0, 1, 1, 1, 1]])])
    assert np.isfinite(recalibration(logit, [0, 1, 0, 1, 1])(mixed)).tolist() == [True, True]


def test_planted_slope_and_prior_are_found_with_their_intervals():
    rows = by_seed(made(1, ce=dict(heat=2.0, n=3000)))["ce"]
    p = joined(rows)
    slope, intercept = (
        bootstrap_interval(statistic_of(p, m), p.participant, n=199)
        for m in ("slope", "intercept")
    )
    assert slope.low < 0.5 < slope.high and slope.high - slope.low < 0.06
    assert intercept.high < 0  # KL-2 is 0.4 of the knees, and half in training
    fixed = replace(p, probability=tempered(p.probability, 2.0, np.array([0.6, 0.4])))
    for m, truth in (("slope", 1), ("intercept", 0)):
        i = bootstrap_interval(statistic_of(fixed, m), p.participant, n=199)
        assert i.low < truth < i.high


def test_measures_of_a_network_that_is_known():
    p = joined(by_seed(made(1, ce=dict(n=6000)))["ce"])
    of = lambda q, m: statistic_of(q, m)(np.ones((1, len(q.label))))[0, 0]
    fixed = replace(p, probability=tempered(p.probability, prior=np.array([0.6, 0.4])))
    assert abs(of(fixed, "intercept")) < 0.1 < -of(p, "intercept")
    assert abs(of(fixed, "overconfidence")) < 0.01
    assert of(fixed, "ece") < 0.03 and of(fixed, "slope") == pytest.approx(1, abs=0.05)
    assert of(fixed, "brier") < of(p, "brier")
    assert of(p, "brier") == pytest.approx(np.mean((p.score[0] - p.positive) ** 2))
    assert of(p, "own_below") == pytest.approx(1 - of(p, "accuracy"))
    flat = replace(p, probability=np.full_like(p.probability, 0.5))
    assert of(flat, "aurc") == pytest.approx(
        1 - of(flat, "accuracy")
    )  # one tie: all knees are passed on together
    assert of(p, "auc") == pytest.approx(p.measure("auc")(np.ones((1, len(p.label))))[0, 0])
    with pytest.raises(ValueError, match="Unknown measure 'kappa'"):
        statistic_of(p, "kappa")


def test_statistics_of_one_column_have_an_interval_as_they_are():
    called, right = np.linspace(0.5, 1, 60), np.arange(60) % 3 > 0
    people = np.arange(60) // 2
    for of in (
        calibration_error(called, right),
        risk_area(called, right),
        recalibration(np.linspace(-2, 2, 60), right),
    ):
        i = bootstrap_interval(of, people, n=199)
        assert i.estimate == pytest.approx(of(np.ones((1, 60)))[0]) and i.low < i.high
    for of in (calibration_error(called, right), risk_area(called, right)):
        for others in (people[1:], [*people, 30]):
            with pytest.raises(ValueError, match="clusters"):
                bootstrap_interval(of, others, n=199)


def test_columns_that_do_not_belong_together_are_refused():
    two = np.array([[0.2, 0.8], [0.6, 0.4]])
    for wrong, said in (
        (lambda: risk_area([0.6, 0.9], [True]), "called has 2, right has 1"),
        (lambda: reliability([0.6, 0.9], [True]), "called has 2, right has 1"),
        (lambda: recalibration([0.6, 0.9], [True]), "logit has 2, positive has 1"),
        (lambda: tempered(two, prior=[0.2, 0.3, 0.5]), "each of the 2 grades"),
        (lambda: tempered(two, prior=[0.5]), "each of the 2 grades"),
        (lambda: tempered(two[:, 1]), "sum to 1"),
        (lambda: tempered(two * [[1], [0.5]]), "row 1 does not sum to 1"),
        (lambda: fit_temperature(two, [0.2, 0.7]), "row 0 holds 0.2"),
        (lambda: fit_temperature(two, [0, 2]), "row 1 holds 2"),
        (lambda: fit_temperature(two[:0], []), "one knee or more"),
        (lambda: fit_temperature(two[:, 1], [0, 1]), "one knee or more"),
    ):
        with pytest.raises(ValueError, match=said):
            wrong()
    assert np.allclose(tempered(two[None], prior=[0.5, 0.5]), two[None])


def test_planted_overconfidence_decides_c11_and_only_where_it_may(tmp_path):
    cured = judged(made(ce=dict(heat=4), hybrid=dict(heat=1), random=dict(heat=1)))
    for fig in (
        draw_confidence(cured.versions["raw"], "made up"),
        draw_calibration(cured.versions, cured.table, "made up"),
    ):
        fig.savefig(tmp_path / "f.png")
    assert verdicts(cured.claims)["C11"] == "holds" and set(verdicts(cured.claims)) == {
        "C10",
        "C11",
        "C12",
        "C18",
    }
    worse = judged(made(ce=dict(heat=1), hybrid=dict(heat=4)))
    assert (
        verdicts(worse.claims)["C11"] == "fails" and verdicts(worse.claims)["C12"] == "not decided"
    )  # the control was not run
    alone = judged(made(1, ce=dict(heat=4), hybrid=dict(heat=1)))
    assert verdicts(alone.claims)["C11"] == "not decided"  # one training
    assert set(
        verdicts(
            judged(
                made(ce=dict(heat=4), hybrid=dict(heat=1)), SimpleNamespace(verdict=False)
            ).claims
        ).values()
    ) == {"no verdict"}


def test_less_sure_is_not_better_calibrated():
    "A loss that only flattens the confidences lowers the share above 0.95; C11 does not hold."
    flat = judged(made(ce=dict(heat=1), hybrid=dict(heat=0.3)))
    beside = flat.claims[flat.claims.part.str.contains("above 0.95")].iloc[0]
    assert beside.high < 0 and verdicts(flat.claims)["C11"] == "fails" and beside.verdict == ""


def test_c12_wants_accuracy_and_brier():
    both = judged(made(ce={}, hybrid=dict(skill=2.0), random=dict(skill=1.0)))
    assert verdicts(both.claims)["C12"] == "holds"
    assert (
        verdicts(judged(made(ce={}, hybrid=dict(skill=1.0), random=dict(skill=2.0))).claims)["C12"]
        == "fails"
    )
    only_brier = judged(made(ce={}, hybrid=dict(heat=1, skill=1.5), random=dict(heat=4, skill=1.5)))
    assert verdicts(only_brier.claims)["C12"] != "holds"
    part = only_brier.found["C12"]
    assert part["Brier score, raw"].low > 0 and part["accuracy, raw"].low <= 0


def test_c18_and_c10():
    kl2 = judged(made(ce={}, hybrid=dict(lean=0.5, medium=0.85)))
    assert (
        verdicts(kl2.claims)["C18"] == "holds"
        and verdicts(judged(made(ce={}, hybrid=dict(lean=-0.5))).claims)["C18"] == "fails"
    )
    assert (
        late_medium(made(hybrid=dict(medium=0.85))["hybrid"]) == [0.85] * 3
    )  # two of twenty epochs
    assert (
        verdicts(kl2.claims)["C10"] == "holds"
        and verdicts(judged(made(ce={}, hybrid=dict(medium=0.7))).claims)["C10"] == "fails"
    )
    a = seed_interval([0.80, 0.85, 0.90])
    assert (a.estimate, a.high - a.estimate) == (
        pytest.approx(0.85),
        pytest.approx(4.302653 * 0.05 / 3**0.5),
    ) and a.seeds == 3
    assert np.isnan(seed_interval([0.85]).low) and seed_interval([]) is None


def test_the_grades_difference_is_the_plain_one():
    p = joined(by_seed(made(2, hybrid=dict(lean=0.3)))["hybrid"])
    ones, c = np.ones((1, len(p.label))), p.confidence
    np.testing.assert_allclose(
        grade_difference(p)(ones)[0], [x[p.kl == 2].mean() - x[p.kl == 0].mean() for x in c]
    )
    np.testing.assert_allclose(
        grade_difference(p, True)(ones)[0],
        [x[(p.kl == 2) & (x > 0.5)].mean() - x[(p.kl == 0) & (x > 0.5)].mean() for x in c],
    )


def test_the_temperature_comes_from_validation_alone():
    rows, prior = made(2, ce=dict(heat=4)), np.array([0.6, 0.4])
    before, fitted = judged(rows), temperatures(by_seed(rows, "val"), prior)
    for run in rows["ce"]:  # other grades for the test knees, of the same participants
        at = run.frame.split == "test"
        run.frame.loc[at, "kl"] = 2 - run.frame.loc[at, "kl"]
        run.frame["label"] = run.frame.kl // 2
    after = judged(rows)
    assert temperatures(by_seed(rows, "val"), prior) == fitted
    assert all(2 < T < 6 for T in fitted.values()) and list(fitted) == [0, 1]
    value = lambda j: j.table.set_index(["correction", "row", "measure"]).estimate[
        "prior-corrected", "temperature", "ece"
    ]
    assert value(before) < 0.05 < value(after)
    raw = before.table[before.table.correction == "raw"].set_index(["row", "measure"]).estimate
    for m in ("accuracy", "aurc", "own_below"):  # the same knees are right, in the same order
        assert raw["ce", m] == pytest.approx(raw["temperature", m], abs=1e-6)
    assert raw["ce", "accuracy"] + raw["ce", "own_below"] == pytest.approx(1)


def test_differences_are_over_shared_seeds():
    rows = made(ce={}, hybrid=dict(heat=2))
    rows["ce"][1] = None
    assert list(by_seed(rows)["ce"]) == [0, 2]
    table, found = measure_table(by_seed(rows), ["ce", "hybrid"], ("brier",), n=199)
    assert found["hybrid", "brier", "ce"].seeds == 2 and table.runs_done.tolist() == [2, 3]
    single = {
        s: measure_table(
            by_seed(made(ce={}, hybrid=dict(heat=2))), ["ce", "hybrid"], ("brier",), n=199
        )[1]["hybrid", "brier", "ce"].per_seed[s]
        for s in (0, 2)
    }
    assert found["hybrid", "brier", "ce"].per_seed == pytest.approx(tuple(single.values()))


def test_what_was_not_run_is_said(tmp_path):
    rows = {name: [None] for name in ROWS if name != "temperature"}
    none = judged(rows)
    assert len(none.table) == len(ROWS) * (len(MEASURES) + len(ELEVEN))
    assert none.table.estimate.isna().all() and (none.table.runs_done == 0).all()
    assert set(verdicts(none.claims).values()) == {"not decided"}
    assert (show_confidence(none.table).iloc[:, :-2] == "not run").all(axis=None)
    assert (show_claims(none.claims).ours == "not run").all()
    assert (beside_paper(none.table, {}).iloc[:, 2:-1] == "not run").all(axis=None)
    assert target_table(rows).empty and show_targets(target_table(rows)).empty
    for fig in (
        draw_confidence({}, "none"),
        draw_calibration(none.versions, none.table, "none"),
        draw_targets(rows, "none"),
    ):
        fig.savefig(tmp_path / "f.png")
    shown = show_confidence(judged(made(ce={}, hybrid=None)).table)
    assert (shown.loc[ROWS["hybrid"]].iloc[:-2] == "not run").all()
    assert (shown.loc[ROWS["ce"]] != "not run").all()
    assert shown.runs[ROWS["ce"]] == "3 of 3" and shown.runs[ROWS["hybrid"]] == "0 of 3"


def watched(c_0, c_1, accuracy=None, seed=0, targets=True, **options):
    "A run with these mean confidences after each epoch, and the targets that follow from them."
    run = Made(seed)
    run.spec = SimpleNamespace(grades=(0, 2), loss_options=tuple(options.items()))
    run.history = pd.DataFrame(
        dict(
            epoch=range(1, len(c_0) + 1),
            c_medium=0.5,
            val_accuracy=accuracy or [0.5] * len(c_0),
            val_c_0=c_0,
            val_c_1=c_1,
        )
    )
    run.provenance = dict(
        best_epoch=1 + max(range(len(c_0)), key=lambda e: (run.history.val_accuracy[e], e))
    )
    if targets:
        run.history = run.history.assign(
            target_0=run.history.val_c_0.shift(), target_1=run.history.val_c_1.shift()
        )
    return run


def test_the_target_is_in_force_in_the_epochs_that_had_it():
    run = watched([0.4, 0.6, 0.6, 0.4, 0.7, 0.8], [0.7, 0.7, 0.6, 0.8, 0.6, 0.9])
    assert in_force(run).tolist() == [
        False,
        False,
        True,
        True,
        False,
        True,
    ]  # each by what was known after the epoch before
    assert (
        in_force(
            watched([0.4, 0.6, 0.6, 0.4, 0.7, 0.8], [0.7, 0.7, 0.6, 0.8, 0.6, 0.9], targets=False)
        ).tolist()
        == in_force(run).tolist()
    )
    assert in_force(watched([0.4] * 4, [0.7] * 4, guard=False)).tolist() == [
        False,
        True,
        True,
        True,
    ]
    assert (
        stretches(in_force(run)) == [(3, 4), (6, 6)]
        and stretches(np.zeros(3, bool)) == []
        and stretches(np.ones(3, bool)) == [(1, 3)]
    )


def test_the_move_is_taken_over_stretches_that_close_again():
    t = target_table(
        dict(
            hybrid=[
                watched(
                    [0.4, 0.6, 0.6, 0.4, 0.7, 0.8],
                    [0.7, 0.7, 0.6, 0.8, 0.6, 0.9],
                    [0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
                )
            ]
        )
    )
    assert t[["first", "last"]].to_numpy().tolist() == [[3, 4], [6, 6]]
    np.testing.assert_allclose(
        t[["c_from", "c_to", "c_rise"]], [[0.65, 0.6, -0.05], [0.65, 0.85, 0.2]]
    )
    np.testing.assert_allclose(t[["accuracy_from", "accuracy_to"]], [[0.6, 0.8], [0.9, 1.0]])


def test_a_target_that_opens_last_never_acted():
    rows = dict(
        kld=[watched([0.4, 0.4, 0.6], [0.7] * 3)],
        ce=[watched([0.4, 0.4, 0.6], [0.7] * 3, targets=False)],
        hybrid=[None],
    )
    assert target_table(rows).empty and force_table(rows)[
        ["row", "in_force", "epochs"]
    ].to_numpy().tolist() == [["kld", 0, 3]]


def test_a_row_that_is_rather_cross_entropy_says_so(tmp_path):
    c = [0.4] * 6 + [
        0.6,
        0.4,
        0.6,
        0.6,
        0.4,
        0.6,
    ]  # in force in epochs 8, 10 and 11; the best is the ninth
    rows = made(ce={}, hybrid={}) | dict(
        kld=[watched(c, [0.7] * 12, [0.5] * 8 + [0.8] + [0.6] * 3), None, None]
    )
    force = force_table(rows).set_index("row")
    assert force.loc["kld", ["reported", "before", "in_force", "epochs"]].tolist() == [9, 1, 3, 12]
    j = judged(rows)
    assert row_names(j.table) == {
        r: ROWS[r] + (" (one run; target in force in 1 of 9 epochs)" if r == "kld" else "")
        for r in ROWS
    }
    shown = show_confidence(j.table).iloc[:, -1]
    assert shown[ROWS["kld"]] == "1 of 9" and shown[ROWS["ce"]] == shown[ROWS["slice"]] == ""
    fig = draw_calibration(j.versions, j.table, "made up")
    fig.savefig(tmp_path / "f.png")
    assert "target in force in 1 of 9" in " ".join(
        label.get_text() for label in fig.axes[3].get_yticklabels()
    ).replace("\n", " ")


def test_rows_with_one_training_are_named_where_others_have_three():
    j = judged(made(ce={}, hybrid={}) | dict(smoothing=[None, Made(1), None]))
    assert [row for row, name in row_names(j.table).items() if "one run" in name] == ["smoothing"]
    assert "one run" not in "".join(
        row_names(judged(made(1, ce={}, hybrid={})).table).values()
    )  # there the whole table is of one


def test_the_reported_epoch_is_the_last_of_one_cycle_else_the_best():
    for file in references().glob("*/spec.json"):
        run = Run(read_spec(file.read_text()), file.parent)
        h = run.history.set_index("epoch").val_accuracy
        best = h[h == h.max()].index[-1]  # of equal ones the later
        assert run.provenance["best_epoch"] == best, file
        wanted = len(h) if run.spec.recipe.schedule == "onecycle" else best
        assert force_table(dict(hybrid=[run])).reported.tolist() == [wanted], file


def test_the_slices_participants_and_no_others_are_left_out():
    study = Study("preview", "reference", 2)
    for seed, spec in enumerate(confidence_specs(study)["fewer"]):
        whole, left = study_frame(study), study_frame(study, split=spec.split)
        gone = whole[~whole.file.isin(left.file)]
        assert (
            set(gone.split) == {"train"}
            and 0.08 < len(gone) / (whole.split == "train").sum() < 0.12
        )
        assert not set(gone.participant) & set(left.participant[left.split == "train"])
    knees = make_knees(160, seed=3)
    train = knees.where(split="train")
    part = OWN_SPLITS["slice-1-left-out"](knees.frame())
    assert (
        set(knees.file[part == "train"]) == set(train.file[~set_aside(train, 1)])
        and (part[knees.split != "train"] == knees.split[knees.split != "train"]).all()
    )


def test_the_even_row_has_cross_entropys_weight():
    assert HybridLoss().mean_weight == pytest.approx(0.39) and HybridLoss(
        weights=EVEN
    ).mean_weight == pytest.approx(1, abs=1e-4)
    assert np.ptp(np.divide(EVEN, HybridLoss().weights)) < 1e-3
    spec = confidence_specs(Study("preview", "reference"))["even"][0]
    assert dict(spec.loss_options) == dict(weights=EVEN) and set(TARGETED) < set(
        confidence_specs(Study("preview", "reference"))
    )


def test_the_longer_training_is_read_and_never_made(tmp_path):
    study = Study("preview", "reference", 3, store=str(tmp_path / "runs"), out=str(tmp_path))
    longer, specs, rows = trained_longer(study)
    assert longer.target == study.target and set(rows) == set(specs)
    for loss in ("ce", "hybrid"):
        runs = rows[loss]
        assert all(r.spec == s and r.spec.recipe.epochs == 36 for r, s in zip(runs, specs[loss]))
        assert convergence(runs) == TRAINED[0]  # that is what this length is for
    other = Study("smoke", "phantom", 1, store=str(tmp_path / "runs"), out=str(tmp_path))
    assert trained_longer(other)[0] == other and not list(tmp_path.glob("runs/*"))


def test_rows_are_the_runs_of_the_other_tables():
    study = Study("short", "reference")
    specs = confidence_specs(study)
    assert find(specs["ce"][0]) and find(specs["hybrid"][0])  # those of Table VI are kept
    assert (
        loss_specs(study) == {k: specs[k] for k in ("ce", "hybrid")}
        and dict(loss_specs(study, ATTENTION)["ce"][0].options)["attention"] == "ca8"
    )
    assert (
        dict(specs["slice"][0].recipe.__dict__) | dict(targets="epoch")
        == specs["hybrid"][0].recipe.__dict__
        and specs["slice"][0].id != specs["hybrid"][0].id
    )
    np.testing.assert_allclose(own_shares(study_frame(study)), np.array([2286, 1516]) / 3802)


@pytest.mark.parametrize("bad", [np.nan, 1.2, -0.1])
def test_a_probability_that_is_none_is_refused_by_row(bad):
    right, called = np.array([True, False, True, False]), np.array([0.9, bad, 0.8, 0.7])
    for call in (
        lambda: calibration_error(called, right),
        lambda: risk_area(called, right),
        lambda: tempered(np.stack([1 - called, called], 1)),
        lambda: fit_temperature(np.stack([1 - called, called], 1), right),
    ):
        with pytest.raises(ValueError, match="row 1"):
            call()
    with pytest.raises(ValueError, match="right: row 2"):
        calibration_error(np.full(4, 0.9), [1, 0, 2, 0])
    with pytest.raises(ValueError, match="logit: row 1"):
        recalibration([0.1, bad - np.inf], [0, 1])
    with pytest.raises(ValueError, match="label: row 0"):
        fit_temperature(np.full((2, 2), 0.5), [2, 0])
