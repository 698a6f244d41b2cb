"""koa_repro.stats against slow, independent implementations, on random cases."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from statsmodels.stats.multitest import multipletests

from koa_repro import stats

quick = settings(max_examples=40, deadline=None)


def auc_by_pairs(y, score, w):
    won = total = 0.0
    for i, j in product(np.flatnonzero(y == 1), np.flatnonzero(y == 0)):
        won += w[i] * w[j] * (1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0)
        total += w[i] * w[j]
    return won / total if total else np.nan


def frames(people=30, seeds=2, seed=0, classes=2):
    rng, world = np.random.default_rng(seed), np.random.default_rng(99)
    who = np.repeat(np.arange(people), 1 + (world.random(people) < 0.5))
    label = np.concatenate([np.arange(classes), world.integers(0, classes, len(who) - classes)])
    out = []
    for _ in range(seeds):
        p = rng.dirichlet(np.ones(classes), len(who)) + 0.5 * np.eye(classes)[label]
        p /= p.sum(1, keepdims=True)
        out.append(
            pd.DataFrame(
                dict(
                    file=[f"{i}.png" for i in range(len(who))],
                    participant=[f"x{i}" for i in who],
                    side="R",
                    kl=label * 2 if classes == 2 else label,
                    label=label,
                    split="test",
                    **{f"p{k}": p[:, k] for k in range(classes)},
                )
            )
        )
    return out


# metrics


@quick
@given(st.integers(2, 60), st.integers(0, 3), st.integers(0, 10_000))
def test_metrics_agree_with_scikit_learn(n, decimals, seed):
    rng = np.random.default_rng(seed)
    y, score = np.r_[0, 1, rng.integers(0, 2, n - 2)], np.round(rng.random(n), decimals)
    got, call = stats.binary_metrics(y, score), score >= 0.5
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(y, call))
    assert got["f1"] == pytest.approx(sk.f1_score(y, call, zero_division=0))
    assert got["sensitivity"] == pytest.approx(sk.recall_score(y, call))
    assert got["specificity"] == pytest.approx(sk.recall_score(1 - y, ~call))
    assert got["auc"] == pytest.approx(sk.roc_auc_score(y, score))


@quick
@given(st.integers(2, 25), st.integers(0, 10_000))
def test_weights_are_repetitions(n, seed):
    rng = np.random.default_rng(seed)
    y, score, w = rng.integers(0, 2, n), np.round(rng.random(n), 1), rng.integers(0, 4, n)
    if not w.sum():
        return
    repeated = stats.binary_metrics(np.repeat(y, w), np.repeat(score, w))
    for m in stats.METRICS:
        got = stats.measure(m, y == 1, score[None])(w[None].astype(float))[0, 0]
        assert got == pytest.approx(repeated[m], nan_ok=True)
    assert stats.measure("auc", y == 1, score[None])(w[None].astype(float))[0, 0] == pytest.approx(
        auc_by_pairs(y, score, w), nan_ok=True
    )


def test_degenerate_metrics():
    assert np.isnan(stats.binary_metrics([1, 1], [0.2, 0.9])["auc"]) and np.isnan(
        stats.binary_metrics([1, 1], [0.2, 0.9])["specificity"]
    )
    assert stats.binary_metrics([1, 0], [0.1, 0.1])["f1"] == 0
    with pytest.raises(ValueError, match="scores"):
        stats.binary_metrics([0, 1, 1], [-3, 2, 0.4])  # logits
    assert stats.binary_metrics([0, 0], [0.1, 0.1])["f1"] == 0
    assert (
        stats.binary_metrics([0, 1], [0.1, 0.5])["sensitivity"] == 1
    )  # a score at the threshold is a positive call
    assert stats.binary_metrics([0, 1], [0.5, 0.5])["auc"] == 0.5
    alone = stats.binary_metrics([0, 0, 0], [0.1, 0.2, 0.9])
    assert (
        np.isnan(alone["sensitivity"])
        and np.isnan(alone["auc"])
        and alone["f1"] == 0
        and alone["specificity"] == pytest.approx(2 / 3)
    )
    assert stats.binary_metrics([1, 0], [0.5, 0.5]) == dict(
        accuracy=0.5, f1=pytest.approx(2 / 3), sensitivity=1, specificity=0, auc=0.5
    )
    with pytest.raises(ValueError, match="'kappa'"):
        stats.measure("kappa", np.array([True]), np.ones((1, 1)))


@pytest.mark.parametrize(
    "y, score, word",
    [
        ([0, 2], [0.1, 0.2], "row 1"),
        ([0, 1], [0.1, np.nan], "row 1"),
        ([0, 1], [0.1], "scores"),
        ([], [], "labels"),
        ([0, 1, 1], [0.1, 0.3, None], "scores: row 2"),
        ([0, 1, np.nan], [0.1, 0.3, 0.4], "labels: row 2"),
        (["0", "1"], [0.1, 0.3], "labels: row 0"),
        ([0, 1], [0.1, "0.3"], "scores: row"),
    ],
)
def test_bad_metrics_input_is_named(y, score, word):
    with pytest.raises(ValueError, match=word):
        stats.binary_metrics(y, score)


# stacking


def test_stack_aligns_by_file_and_keeps_values():
    a, b = frames(seed=1), frames(seed=2)
    runs = stats.stack(dict(a=a, b=[f.sample(frac=1, random_state=3) for f in b]))
    assert np.array_equal(runs["a"].file, runs["b"].file) and np.array_equal(
        runs["a"].label, runs["b"].label
    )
    assert np.array_equal(runs["b"].score, np.stack([f.p1 for f in b])) and runs["b"].seeds == 2
    assert np.array_equal(runs["b"].confidence[1], np.where(b[1].label == 1, b[1].p1, b[1].p0))


def test_stack_five_grades():
    five = frames(seed=4, classes=5)
    p = stats.stack(dict(five=five))["five"]
    assert np.allclose(p.score[0], five[0][["p2", "p3", "p4"]].sum(axis=1)) and np.array_equal(
        p.positive, five[0].kl >= 2
    )
    assert np.array_equal(
        p.right[1], five[1][[f"p{k}" for k in range(5)]].to_numpy().argmax(1) == five[1].label
    )


def broken(change):
    a, b = frames(seed=1), frames(seed=2)
    b[1] = change(b[1].copy())
    return dict(a=a, b=b)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda f: f.iloc[1:], "b, run 1: 0.png"),
        (lambda f: f.assign(file=f.file.replace("5.png", "5000.png")), "b, run 1: 5"),
        (lambda f: pd.concat([f, f.iloc[[7]]]), "b, run 1: 7.png"),
        (lambda f: f.assign(p1=f.p1.mask(f.file == "3.png")), "b, run 1: .*3.png"),
        (
            lambda f: f.assign(participant=f.participant.replace("x2", "y")),
            "b, run 1: .*png",
        ),
        (lambda f: f.drop(columns="kl"), "b, run 1: .*'kl'"),
        (lambda f: f.assign(split="val"), "b, run 1: .*'test'"),
    ],
)
def test_stack_names_run_and_knee(change, words):
    with pytest.raises(ValueError, match=words):
        stats.stack(broken(change))


def test_stack_refuses_labels_that_are_not_the_grades_index():
    bad = frames(seed=1)
    bad[0].loc[0, "label"] = 1 - bad[0].loc[0, "label"]
    with pytest.raises(ValueError, match="^a, run 0: .* 0.png"):
        stats.stack(dict(a=bad))


# resampling


def test_draws_count_participants_and_repeat_with_the_seed():
    who = np.array(list("aabcdde"))
    d, e = stats.draws(who, n=1200, seed=4), stats.draws(who, n=1200, seed=4)
    assert (
        np.array_equal(d.counts, e.counts)
        and d.counts.shape == (1200, 5)
        and (d.counts.sum(1) == 5).all()
    )
    assert not np.array_equal(d.counts, stats.draws(who, n=1200, seed=5).counts)
    w = np.concatenate(list(d.weights()))
    assert np.array_equal(w[:, 0], w[:, 1]) and np.array_equal(w[:, 4], w[:, 5])
    # a participant is drawn once on average, with the variance 1 - 1/G of the multinomial
    assert d.counts.mean(0) == pytest.approx(np.ones(5), abs=5 * np.sqrt(0.8 / 1200))
    assert d.counts.var() == pytest.approx(0.8, abs=0.1)


def test_one_participant_is_refused():
    with pytest.raises(ValueError, match="participant"):
        stats.draws(["a", "a"])


@pytest.mark.parametrize("metric", stats.METRICS)
def test_interval_against_a_loop(metric):
    p = stats.stack(dict(a=frames(seed=1, seeds=3)))["a"]
    drawn = stats.draws(p.participant, n=39, seed=2)
    names, shares = np.unique(p.participant), drawn.of_seeds(3)
    slow = []
    for b in range(39):
        knees = [
            i
            for g, k in enumerate(drawn.counts[b])
            for _ in range(k)
            for i in np.flatnonzero(p.participant == names[g])
        ]
        slow.append(
            sum(
                shares[b, s] * stats.binary_metrics(p.positive[knees], p.score[s, knees])[metric]
                for s in range(3)
            )
        )
    printed = stats.bootstrap_interval(p, metric=metric, drawn=drawn)
    got = printed.resampled
    assert got.replicates == pytest.approx(np.array(slow))
    assert (got.low, got.high) == pytest.approx(
        (min(slow), max(slow))
    )  # (39 + 1) 0.025 = 1: the first and the last
    assert got.estimate == pytest.approx(
        np.mean([stats.binary_metrics(p.positive, s)[metric] for s in p.score])
    )
    assert (
        got.seeds == 3
        and got.over == "participants and seeds, resampled"
        and got.estimate == pytest.approx(np.mean(got.per_seed)) == pytest.approx(printed.estimate)
    )
    each = [stats.binary_metrics(p.positive, s)[metric] for s in p.score]
    people = drawn.replicates(p.measure(metric)).mean(1)
    moved = people + np.std(each, ddof=1) * drawn.student(3)
    assert printed.replicates == pytest.approx(np.clip(moved, 0, 1))
    assert (printed.low, printed.high) == (printed.replicates.min(), printed.replicates.max())
    assert printed.over == "participants and seeds (Student)"


def test_one_seed_says_so():
    x = (np.arange(40) % 5 > 0).astype(float)
    assert stats.bootstrap_interval(x, np.arange(40) // 2).over == "participants"
    assert stats.bootstrap_interval(x).over == "knees"
    one = stats.paired_difference(x, x[::-1], clusters=np.arange(40) // 2)
    assert one.seeds == 1 and len(one.per_seed) == 1


def test_standard_error_is_the_clusters():
    # every participant's two knees agree: the error is that of 60 participants, not of 120 knees
    x = np.random.default_rng(0).random(60)
    both = stats.bootstrap_interval(np.repeat(x, 2), np.repeat(np.arange(60), 2), seed=1)
    assert both.replicates.std() == pytest.approx(x.std() / np.sqrt(60), rel=0.05)
    assert stats.bootstrap_interval(np.repeat(x, 2), seed=1).replicates.std() == pytest.approx(
        x.std() / np.sqrt(120), rel=0.05
    )


def test_student_widens_by_the_seeds_spread():
    shift, x = np.array([-0.1, 0.0, 0.1, 0.2]), np.random.default_rng(0).random(100)
    people = stats.bootstrap_interval(x).replicates
    student = stats.bootstrap_interval(x + shift[:, None])
    t = (student.replicates - 0.05 - people) / (shift.std(ddof=1) / 2)
    # Student's t with 3 degrees of freedom: its quartiles, within 5 standard errors from 10,000
    assert np.quantile(t, [0.25, 0.5, 0.75]) == pytest.approx([-0.765, 0, 0.765], abs=0.08)
    assert student.over.endswith("(Student)") and student.resampled.resampled is None
    assert student.high - student.low > student.resampled.high - student.resampled.low
    other, again = student.at(0.9).resampled, student.resampled.at(0.9)
    assert (other.low, other.high, other.level) == (again.low, again.high, 0.9)


def test_students_part_stays_within_the_metrics_range():
    frame = [f.assign(p0=1 - f.label, p1=f.label.astype(float)) for f in frames(seeds=2)]
    frame[1] = frame[1].assign(p0=0.5, p1=0.5)  # one perfect run, one that calls all positive
    p = stats.stack(dict(a=frame))["a"]
    found = stats.bootstrap_interval(p)
    assert (found.low, found.high) == (0, 1)
    free = stats.bootstrap_interval(p.right.astype(float), p.participant)
    assert free.low < 0 and free.high > 1
    cut = stats.bootstrap_interval(p.right.astype(float), p.participant, bounds=(0.3, 0.9))
    assert (cut.low, cut.high) == (0.3, 0.9)
    assert stats.bootstrap_interval(p.right[:1].astype(float), p.participant).resampled is None


# intervals, differences, families


@quick
@given(st.integers(0, 10_000), st.sampled_from([0.8, 0.9, 0.95, 0.99]), st.integers(0, 2))
def test_interval_and_p_never_contradict(seed, level, decimals):
    rng = np.random.default_rng(seed)
    r = np.round(rng.normal(rng.uniform(-4, 4), 1.5, 999), decimals)  # rounded: many exact zeros
    low, high = stats.percentile(r, level)
    assert (low > 0 or high < 0) == (stats.two_sided(r) <= 1 - level + 1e-12)


def test_percentile_edges():
    r = np.arange(1, 100.0)
    assert stats.percentile(r, 0.9) == (5, 95) and stats.percentile(np.r_[r, np.nan], 0.9) == (
        5,
        95,
    )
    assert np.isnan(stats.percentile(np.full(5, np.nan))).all() and np.isnan(
        stats.two_sided(np.full(5, np.nan))
    )
    with pytest.raises(ValueError, match="200"):  # so many resamples are needed
        stats.percentile(r, 0.99)
    with pytest.raises(ValueError, match="level"):
        stats.percentile(r, 95)


def test_difference_is_antisymmetric_and_paired():
    runs = stats.stack(
        dict(a=frames(seed=1, seeds=3), b=frames(seed=2, seeds=3), c=frames(seed=3, seeds=2))
    )
    for metric in stats.METRICS:
        ab, ba = (stats.paired_difference(runs[x], runs[y], metric, n=999) for x, y in ("ab", "ba"))
        assert (
            np.allclose(ab.replicates, -ba.replicates)
            and ab.p == ba.p
            and np.isclose(ab.low, -ba.high)
        )
        apart = [stats.bootstrap_interval(runs[x], metric=metric, n=999) for x in "ab"]
        # the same participants and seeds
        ab, apart = ab.resampled, [i.resampled for i in apart]
        assert np.allclose(ab.replicates, apart[0].replicates - apart[1].replicates)
    other = stats.paired_difference(runs["a"], runs["c"], n=999)
    assert other.seeds == 2 and other.per_seed == ()
    same = stats.paired_difference(runs["a"], runs["a"], n=999)
    assert (same.low, same.high, same.p) == (0, 0, 1)


def test_mean_difference_is_the_mean_with_the_same_draws():
    runs = list(stats.stack({str(i): frames(seed=i) for i in range(6)}).values())
    pairs = list(zip(runs[:3], runs[3:]))
    mean, each = (
        stats.mean_difference(pairs, "f1", n=500),
        [stats.paired_difference(a, b, "f1", n=500) for a, b in pairs],
    )
    alike = [d.resampled.replicates for d in (mean, *each)]
    assert np.allclose(alike[0], np.mean(alike[1:], axis=0))
    assert mean.estimate == pytest.approx(np.mean([d.estimate for d in each]))


def test_differently_ordered_runs_are_refused():
    a = stats.stack(dict(a=frames(seed=1)))["a"]
    b = stats.stack(dict(b=[f.iloc[::-1] for f in frames(seed=2)]))["b"]
    with pytest.raises(ValueError, match="stack"):
        stats.paired_difference(a, b)


def test_one_score_a_knee_is_one_seed():
    rng = np.random.default_rng(0)
    positive, score, w = rng.random(30) < 0.5, rng.random(30), rng.random((4, 30))
    for metric in stats.METRICS:
        one, many = (stats.measure(metric, positive, s)(w) for s in (score, score[None]))
        assert one.shape == (4, 1) and (one == many).all()
    of = [stats.net_benefit(positive, s, 0.3, 0.2)(w) for s in (score, score[None])]
    assert (of[0] == of[1]).all()


def test_grades_ascend_in_every_seed():
    mine = pd.DataFrame(dict(file=["a", "b"], participant=["1", "2"], kl=[0, 2], label=[0, 1]))
    mine = mine.assign(split="test", p0=[0.9, 0.2], p1=[0.1, 0.8])
    turned = mine.assign(label=1 - mine.label, p0=mine.p1, p1=mine.p0)
    assert stats.stack({"a": mine})["a"].seeds == 1
    for frames in ([mine, turned], [turned], [mine.assign(p2=0.0)]):
        with pytest.raises(ValueError, match="do not ascend"):
            stats.stack({"a": frames})
    with pytest.raises(ValueError, match="name of their row"):
        stats.stack(mine)


def test_a_metric_is_computed_or_refused_never_ignored():
    rng = np.random.default_rng(0)
    score, who = rng.random((2, 40)), np.arange(40) // 2
    for ask in (
        lambda m: stats.paired_difference(*score, m, clusters=who, n=199),
        lambda m: stats.bootstrap_interval(score[0], who, m, n=199),
        lambda m: stats.mean_difference([tuple(score)], m, who, n=199),
    ):
        assert np.isfinite(ask(None).estimate)
        for metric in ("auc", "accuracy"):
            with pytest.raises(ValueError, match=metric):
                ask(metric)


@pytest.mark.parametrize(
    "values, clusters, word",
    [(np.ones(5), np.arange(6), "6 knees"), (np.array([1, np.nan, 0]), None, "row 1")],
)
def test_bad_values_are_named(values, clusters, word):
    with pytest.raises(ValueError, match=word):
        stats.bootstrap_interval(values, clusters, n=99)
    with pytest.raises(ValueError, match="clusters"):
        stats.bootstrap_interval(lambda w: w)


def test_what_has_no_interval_is_refused_and_says_what_is_wanted():
    table = pd.DataFrame(dict(file=["a"], p0=[0.5]))
    who, half = np.arange(4).astype(str), np.full((1, 4, 2), 0.5)
    p = stats.Predictions("a", who, who, np.arange(4) % 2 * 2, np.arange(4) % 2, half, (0, 2))
    for ask, said in (
        (lambda: stats.paired_difference(table, table), "stack"),
        (lambda: stats.bootstrap_interval({"mine": [table]}), "stack"),
        (lambda: stats.bootstrap_interval([]), "shape .0,.: .* two knees"),
        (lambda: stats.bootstrap_interval(np.ones((5, 1))), "shape .5, 1.: .* two knees"),
        (lambda: stats.bootstrap_interval(0.5), "shape .*: .* two knees"),
        (lambda: stats.bootstrap_metrics({}), "by name"),
        (lambda: stats.bootstrap_metrics(p), "by name"),
        (lambda: stats.holm(["x"]), "row 0 holds 'x'"),
        *(
            ((lambda n=n: stats.bootstrap_interval(np.arange(4), n=n)), f"n={n!r}")
            for n in (0, -5, 1e3)
        ),
    ):
        with pytest.raises(ValueError, match=said):
            ask()
    same = stats.bootstrap_metrics({"a": p}, "accuracy", n=199)
    pd.testing.assert_frame_equal(same, stats.bootstrap_metrics({"a": p}, ["accuracy"], n=199))


def holm_by_steps(p, alpha=0.05):
    left, rejected = sorted(range(len(p)), key=lambda i: p[i]), [False] * len(p)
    while left and p[left[0]] <= alpha / len(left):
        rejected[left.pop(0)] = True
    return rejected


@settings(max_examples=10, deadline=None)  # statsmodels takes 0.1 s a call
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_agrees_with_statsmodels(p):
    assert stats.holm(p) == pytest.approx(multipletests(p, method="holm")[1])


@quick
@given(st.integers(0, 10_000), st.integers(1, 16))
def test_holm_intervals_decide_as_holm(seed, m):
    rng = np.random.default_rng(seed)
    found = {}
    for i in range(m):
        r = rng.normal(rng.choice([0, 2, 3, 4]), 1, 1999)
        found[f"c{i}"] = stats.Interval(
            r.mean(), *stats.percentile(r), stats.two_sided(r), 0.95, 3, "", (), r
        )
    got = stats.holm_intervals(found)
    assert [d.low > 0 or d.high < 0 for d in got.values()] == holm_by_steps(
        [d.p for d in found.values()]
    )
    assert [d.p for d in got.values()] == stats.holm(
        [d.p for d in found.values()]
    ).tolist() and list(got) == list(found)
    assert all(g.level >= 0.95 - 1e-12 for g in got.values())
    for wrong in (np.nan, -0.1, 1.2):
        with pytest.raises(ValueError, match=f"p: row 1 holds {wrong}"):
            stats.holm([0.1, wrong])


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_what_was_not_run_counts_in_the_family(seed, m):
    "The same replicates: alone, or in a family whose other comparisons have p = 1."
    rng = np.random.default_rng(seed)

    def interval(r):
        return stats.Interval(
            r.mean(), *stats.percentile(r), stats.two_sided(r), 0.95, 3, "", (), r
        )

    found = {i: interval(rng.normal(rng.choice([0, 2, 3]), 1, 1999)) for i in range(m)}
    absent = replace(interval(np.r_[-1.0, 1, rng.normal(0, 1, 998), 0]), p=1.0)
    whole = stats.holm_intervals(found | {m + i: absent for i in range(3)})
    assert stats.holm_intervals(found, m + 3) == {i: whole[i] for i in range(m)}
    with pytest.raises(ValueError, match="family"):
        stats.holm_intervals(found, m - 1 or -1)


def test_a_missing_participant_is_no_participant():
    with pytest.raises(ValueError, match="row 4"):
        stats.draws(["a", "b", "c", "d", None, float("nan")])
    with pytest.raises(ValueError, match="row 1"):
        stats.draws(["a", " ", "c"])


@pytest.mark.parametrize(
    "low, high, bad",
    [(0, 1, 1.2), (0, 1, -0.1), (-np.inf, np.inf, np.inf), (0, 1, ""), (0, 1, "1")],
)
def test_what_is_no_number_is_refused_by_row(low, high, bad):
    good = [0.2, True, np.int64(1), np.float32(0.5)]
    assert stats.numbers("x", good, low, high).tolist() == [0.2, 1, 1, 0.5]
    with pytest.raises(ValueError, match="x: row 3"):
        stats.numbers("x", np.array([*good[:3], bad], object), low, high)
    with pytest.raises(ValueError, match="x: row 1"):
        stats.numbers("x", np.array([[0.1, 0.2], [bad, 0.3]], object), low, high, axis=-2)


def test_a_metric_is_not_computed_of_what_is_no_number():
    positive, score = np.array([True, False, True]), np.array([[0.2, 0.7, np.nan]])
    with pytest.raises(ValueError, match="score: row 2"):
        stats.measure("accuracy", positive, score)
    y, s = np.array([1, 0, 1]), np.array([[0.2, 0.7, 0.9]])  # 0 and 1 are as good as bool
    ones = np.ones((1, 3))
    for m in stats.METRICS:
        assert stats.measure(m, y, s)(ones) == stats.measure(m, positive, s)(ones)
    with pytest.raises(ValueError, match="positive: row 1"):
        stats.measure("auc", np.array([0, 2, 0]), s)


@pytest.mark.parametrize("positives, kept", [(1, False), (2, False), (4, True)])
def test_undefined_resamples_are_counted_and_beyond_a_share_there_is_no_interval(positives, kept):
    y = np.r_[np.zeros(40), np.ones(positives)]
    of = stats.measure("auc", y, np.linspace(0, 1, len(y))[None])
    found = stats.bootstrap_interval(of, np.arange(len(y)), n=4000)
    expected = (40 / len(y)) ** len(y)  # no positive knee is sampled
    assert found.undefined == pytest.approx(expected, abs=0.03)
    assert (expected < stats.UNDEFINED) == kept == np.isfinite([found.low, found.high]).all()
    assert found.estimate == 1 and found.row()["undefined"] == found.undefined
    assert np.isfinite(found.at(0.5).low) == kept
    few = stats.bootstrap_interval  # the number asked for is not at fault
    if not kept:
        assert np.isnan(few(of, np.arange(len(y)), n=50).low)


def test_single_runs_have_no_adjusted_p_and_count_with_one():
    rng = np.random.default_rng(1)
    r = rng.normal(5, 1, 1999)
    sure = stats.Interval(5, *stats.percentile(r), stats.two_sided(r), 0.95, 3, "", (), r)
    found = stats.holm_intervals(dict(lone=replace(sure, seeds=1), a=sure, b=sure))
    assert np.isnan(found["lone"].p) and found["a"].p == pytest.approx(3 * sure.p)
    # single runs do not loosen the level of the others
    assert (found["a"].level, found["b"].level) == pytest.approx((1 - 0.05 / 3, 1 - 0.05 / 2))
    assert found["lone"].level == pytest.approx(0.95)


def test_a_comparison_without_p_counts_with_one():
    rng = np.random.default_rng(0)
    r = rng.normal(5, 1, 1999)
    sure = stats.Interval(5, *stats.percentile(r), stats.two_sided(r), 0.95, 3, "", (), r)
    none = np.where(rng.random(1999) < 0.5, np.nan, r)
    lost = replace(sure, low=np.nan, high=np.nan, p=stats.two_sided(none), replicates=none)
    found = stats.holm_intervals(dict(lost=lost, sure=sure))
    assert np.isnan([lost.p, found["lost"].low, found["lost"].p]).all()
    assert found["sure"].p == pytest.approx(2 * sure.p) and found["sure"].level == 0.975


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.assign(participant=f.participant.mask(f.file == "3.png", " ")),
        lambda f: f.assign(
            p0=f.p0.where(f.file != "3.png", 1.5), p1=f.p1.where(f.file != "3.png", -0.5)
        ),
        lambda f: f.assign(p0=f.p0.astype(object).where(f.file != "3.png", "x")),
    ],
)
def test_a_table_with_what_is_no_probability_or_person_is_refused(change):
    with pytest.raises(ValueError, match="b, run 1: .*3.png"):
        stats.stack(broken(change))


def test_holm_stops_at_the_first_that_is_not_significant():
    # p values just above 0.025: each would pass alone at 0.05, Holm passes neither
    r = np.r_[np.linspace(-1, -0.01, 30), np.linspace(0.01, 2, 1969)]
    pair = {
        len(x): stats.Interval(1, *stats.percentile(x), stats.two_sided(x), 0.95, 3, "", (), x)
        for x in (r, np.r_[r, -0.5])
    }
    assert all(0.025 < d.p < 0.05 and d.low > 0 for d in pair.values())
    adjusted = stats.holm_intervals(pair).values()
    assert all(d.low <= 0 and d.level == pytest.approx(0.975) for d in adjusted)


# decision curve


@quick
@given(st.integers(0, 10_000), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_net_benefit_is_the_textbooks_at_the_samples_prevalence(seed, threshold, prevalence):
    rng = np.random.default_rng(seed)
    y, score = np.r_[0, 1, rng.integers(0, 2, 30)], np.round(rng.random((2, 32)), 1)
    w = rng.integers(1, 4, 32)
    many, own = np.repeat(y, w), np.repeat(y, w).mean()
    got = stats.net_benefit(y, score, own, threshold)(w[None].astype(float))[0]
    for s, value in zip(score, got):
        act = np.repeat(s, w) >= threshold
        tp, fp = (act & (many == 1)).sum(), (act & (many == 0)).sum()
        odds = threshold / (1 - threshold)
        assert value == pytest.approx(tp / len(many) - fp / len(many) * odds)
    every = stats.net_benefit(y, np.ones((1, 32)), prevalence, threshold)(np.ones((1, 32)))[0, 0]
    assert every == pytest.approx(
        prevalence - (1 - prevalence) * threshold / (1 - threshold), abs=1e-9
    )


def test_net_benefit_by_hand_and_its_limits():
    y, s = np.array([1, 1, 0, 0, 0]), np.array([[0.8, 0.2, 0.6, 0.1, 0.1]])
    # one of two found, one of three false: 0.3 / 2 - 0.7 / 3 at odds of 1
    assert stats.net_benefit(y, s, 0.3, 0.5)(np.ones((1, 5))) == pytest.approx(0.15 - 0.7 / 3)
    assert np.isnan(stats.net_benefit(y, s, 0.3, 0.5)(np.array([[1.0, 1, 0, 0, 0]])))
    for change in (dict(prevalence=0), dict(threshold=1), dict(score=s + 1), dict(positive=y + 1)):
        with pytest.raises(ValueError):
            stats.net_benefit(**(dict(positive=y, score=s, prevalence=0.3, threshold=0.5) | change))
