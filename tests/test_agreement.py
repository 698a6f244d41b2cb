"""Agreement in koa_repro.stats: against other libraries, all cases enumerated, and limits."""

from dataclasses import replace
from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from scipy.optimize import brentq
from sklearn import metrics as sk
from statsmodels.stats import contingency_tables, inter_rater
from statsmodels.stats.proportion import proportion_confint

from koa_repro import stats
from koa_repro.claims import verdict

quick = settings(max_examples=40, deadline=None)


def calls(both, only_a, only_b, neither):
    "Calls of a and b where the truth is 0 throughout."
    return np.repeat([[0, 0, 1, 1], [0, 1, 0, 1]], [both, only_a, only_b, neither], axis=1)


def same(a, b):
    return a == pytest.approx(b, abs=1e-10, nan_ok=True)


# kappa


@quick
@given(
    st.integers(2, 60),
    st.integers(2, 5),
    st.sampled_from([None, "linear", "quadratic"]),
    st.integers(0, 10_000),
)
def test_kappa_agrees_with_scikit_learn_and_with_copied_knees(n, k, weights, seed):
    rng = np.random.default_rng(seed)
    a = rng.integers(0, k, n)
    b = np.where(rng.random(n) < 0.6, a, rng.integers(0, k, n))
    theirs = lambda a, b: sk.cohen_kappa_score(a, b, weights=weights, labels=range(k))
    of = stats.kappa_of(a, b, weights, grades=range(k))
    with np.errstate(all="ignore"):
        assert same(of(np.ones((1, n)))[0, 0], theirs(a, b))
        w = rng.integers(0, 3, n)
        if w.any():
            assert same(of(w[None].astype(float))[0, 0], theirs(np.repeat(a, w), np.repeat(b, w)))


def test_kappa_over_trainings_is_their_mean():
    rng = np.random.default_rng(0)
    reader = rng.integers(0, 2, 90)
    network = np.where(rng.random((3, 90)) < 0.8, reader, 1 - reader)
    found = stats.cohen_kappa(network, reader, np.repeat(np.arange(45), 2), n=500)
    assert found.kappa == pytest.approx(np.mean([sk.cohen_kappa_score(x, reader) for x in network]))
    assert found.seeds == 3 and found.table.to_numpy().sum() == 270 and "seeds" in found.over
    assert verdict("C16", found) == "fails"  # the interval ends below 0.85
    assert verdict("C16", found, allowed=False) == "no verdict"
    alone = stats.cohen_kappa(network[0], reader, n=500)
    assert verdict("C16", alone) == "not decided"  # one run


def test_kappa_interval_covers():
    "Of 200 studies of known kappa, the interval holds it about nineteen times in twenty."
    rng, p = np.random.default_rng(1), np.array([0.45, 0.05, 0.08, 0.42])
    agree, first, second = p[0] + p[3], p[0] + p[1], p[0] + p[2]
    chance = first * second + (1 - first) * (1 - second)
    true, held = (agree - chance) / (1 - chance), 0
    for i in range(200):
        cell = rng.choice(4, 150, p=p)
        k = stats.cohen_kappa(cell // 2, cell % 2, n=400, seed=i)
        held += k.low <= true <= k.high
    assert 178 <= held <= 199


def test_kappa_at_the_edges():
    always, some = np.zeros(30, int), np.arange(30) % 2
    assert stats.cohen_kappa(always, some).kappa == 0
    assert np.isnan(
        [stats.cohen_kappa(always, always).kappa, stats.cohen_kappa(always, always).low]
    ).all()
    sizes = [stats.cohen_kappa(np.arange(n) % 2, np.arange(n) % 2, n=200).low for n in (6, 20, 300)]
    assert sizes == sorted(sizes) and sizes[0] < 0.4 and 0.95 < sizes[-1] < 1
    people = stats.cohen_kappa(some, some, clusters=np.repeat(np.arange(15), 2), n=200)
    assert people.low < stats.cohen_kappa(some, some, n=200).low
    assert stats.cohen_kappa(1 - some, some).kappa == -1
    with pytest.raises(ValueError, match="participant"):
        stats.cohen_kappa(some, some, clusters=np.zeros(30))


@pytest.mark.parametrize(
    "weights, far", [(None, 1), ("linear", 1), ("quadratic", 1), ("quadratic", 4)]
)
def test_a_disagreement_more_gives_no_better_bound(weights, far):
    "The lower end falls with every disagreement, from none on."
    truth = np.arange(100) % 5 if weights else np.arange(100) % 2
    lows = []
    for misses in range(6):
        read = truth.copy()
        at = np.flatnonzero(truth == 0)[:misses]
        read[at] = far
        if not weights and misses > 1:
            read[np.flatnonzero(truth == 1)[: misses // 2]], read[at[misses - misses // 2 :]] = 0, 0
        lows.append(
            [
                stats.cohen_kappa(read, truth, who, weights, n=999).low
                for who in (None, np.arange(100) // 5 % 10 * 5 + np.arange(100) % 5)
            ]
        )
    assert (np.diff(lows, axis=0) < 0).all(), lows
    assert (np.diff(lows, axis=1) < 0).all()  # fifty participants know less than a hundred


def test_kappas_lower_end_keeps_its_level_with_few_disagreements():
    rng, n = np.random.default_rng(11), 150
    for apart in (0.005, 0.03):
        true, drawn, above = 1 - apart / 0.5, stats.draws(n, 499), 0
        for _ in range(300):
            a = rng.integers(0, 2, n)
            above += (
                stats.cohen_kappa(np.where(rng.random(n) < apart, 1 - a, a), a, drawn=drawn).low
                > true
            )
        assert above <= 16, (apart, above)  # 2.5% of 300 are 7.5


def test_a_reader_of_one_grade_is_not_sure_to_agree_by_chance_alone():
    some = np.arange(300) % 2
    always = stats.cohen_kappa(np.zeros(300, int), some)
    assert always.kappa == 0 and -0.1 < always.low < 0 < always.high < 0.1 and always.high > 0.01
    assert (
        always.at(0.99).low < always.low
        and stats.cohen_kappa(some, some).at(0.99).low < stats.cohen_kappa(some, some).low
    )
    nothing = stats.cohen_kappa(some * 0, some * 0)
    assert (
        not nothing.defined
        and str(nothing) == "undefined: all reads are of one grade"
        and str(always).startswith("0.00 [-0.0")
    )
    assert not stats.cohen_kappa(np.stack([some * 0, some]), some * 0).defined


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(a=[0, 1]), "a has 2, b has 3"),
        (dict(a=[0, None, 1]), "a: .* row 1"),
        (dict(a=[], b=[]), "a, b"),
        (dict(weights="cubic"), "weights='cubic'"),
        (dict(grades=(0, 2)), "a holds 1, .* 0, 2"),
        (dict(clusters=["p", "q"]), "clusters has 2"),
    ],
)
def test_bad_reads_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        stats.cohen_kappa(**(dict(a=[0, 1, 1], b=[0, 1, 0]) | change))


# McNemar


@quick
@given(st.integers(0, 20), st.integers(0, 40), st.integers(0, 40), st.integers(0, 20))
def test_mcnemar_agrees_with_statsmodels(both, only_a, only_b, neither):
    if not both + only_a + only_b + neither:
        return
    y = np.zeros(both + only_a + only_b + neither)
    got = stats.mcnemar(y, *calls(both, only_a, only_b, neither))
    exact = contingency_tables.mcnemar([[both, only_a], [only_b, neither]], exact=True).pvalue
    assert got.p == pytest.approx(min(exact, 1)) and (
        got.both,
        got.only_a,
        got.only_b,
        got.neither,
    ) == (both, only_a, only_b, neither)
    assert got.discordant == only_a + only_b and got.difference == pytest.approx(
        (only_a - only_b) / len(y)
    )
    alone = stats.mcnemar(y, *calls(both, only_a, only_b, neither), clusters=np.arange(len(y)))
    assert alone.p == pytest.approx(got.p)


@quick
@given(st.integers(1, 9), st.integers(0, 10_000))
def test_clustered_mcnemar_counts_every_pattern(people, seed):
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), rng.integers(1, 4, people))
    y, a, b = rng.integers(0, 2, (3, len(who)))
    net = np.bincount(who, (a == y).astype(int) - (b == y), people)
    patterns = [
        abs(np.dot(net, signs)) >= abs(net.sum()) - 1e-9
        for signs in product((-1, 1), repeat=people)
    ]
    assert stats.mcnemar(y, a, b, who).p == pytest.approx(np.mean(patterns))


def test_clustered_mcnemar_is_close_to_durkalski():
    "Durkalski et al. 2003: sum of the participants' differences over the root of their squares."
    rng = np.random.default_rng(3)
    who = np.repeat(np.arange(400), 2)
    easy = rng.standard_normal(400)[who]
    a, b = ((easy + shift + rng.standard_normal(800) > -1).astype(int) for shift in (0.12, 0))
    net = np.bincount(who, a - b)
    z = net.sum() / np.sqrt((net**2).sum())
    assert stats.mcnemar(np.ones(800), a, b, who).p == pytest.approx(
        2 * scipy_stats.norm.sf(abs(z)), abs=0.02
    )


def test_clustered_mcnemar_keeps_its_level():
    rng, low = np.random.default_rng(4), []
    who = np.repeat(np.arange(60), 2)
    for _ in range(600):
        persons = rng.integers(0, 2, (2, 60))[
            :, who
        ]  # both knees of a person alike: the plain test would find too much
        low.append([stats.mcnemar(np.ones(120), *persons, c).p < 0.05 for c in (who, None)])
    clustered, plain = np.mean(low, 0)
    assert clustered < 0.07 and plain > 0.1


# Wilson


@quick
@given(st.integers(1, 300), st.floats(0, 1), st.sampled_from([0.9, 0.95]))
def test_wilson_is_statsmodels(n, share, level):
    k = int(share * n)
    got = stats.wilson(np.arange(n) < k, level=level)
    assert (got.low, got.high) == pytest.approx(proportion_confint(k, n, 1 - level, "wilson")) and (
        got.hits,
        got.knees,
        got.worth,
    ) == (k, n, n)


def test_wilson_counts_participants():
    rng, who = np.random.default_rng(0), np.repeat(np.arange(100), 2)
    twins = np.repeat(rng.random(100) < 0.8, 2)
    assert 99 < stats.wilson(twins, who).worth < 100
    assert (
        stats.wilson(np.ones(200), who).worth == 100
        and stats.wilson(np.ones(200), who).low < stats.wilson(np.ones(200)).low
    )
    opposed = np.tile(
        [True, False], 100
    )  # within a person always one of each: less spread than chance, not counted as more knees
    assert stats.wilson(opposed, who).worth == 200
    with pytest.raises(ValueError, match="row 1"):
        stats.wilson([0, 2])


def test_clustered_wilson_covers():
    rng, who, held = np.random.default_rng(5), np.repeat(np.arange(75), 2), []
    for _ in range(1000):
        hits = rng.random(150) < 0.9
        alike = rng.random(75) < 0.6
        hits[1::2] = np.where(alike, hits[::2], hits[1::2])
        held.append([i.low <= 0.9 <= i.high for i in (stats.wilson(hits, who), stats.wilson(hits))])
    clustered, plain = np.mean(held, 0)
    assert 0.925 < clustered < 0.975 and plain < clustered


@quick
@given(st.integers(1, 300), st.floats(0, 1), st.sampled_from([0.9, 0.95]))
def test_one_knee_a_participant_is_wilsons_interval(n, share, level):
    hits = np.arange(n) < int(share * n)
    assert stats.wilson(hits, np.arange(n)[::-1], level) == replace(
        stats.wilson(hits, level=level), over="participants (Wilson)"
    )


@pytest.mark.parametrize("knees", [2, 3, 5])
def test_one_hit_more_moves_wilsons_ends_by_little_and_upwards(knees):
    who = np.repeat(np.arange(100), knees)
    ends = np.array(
        [
            [i.low, i.high]
            for i in (
                stats.wilson(np.arange(100 * knees) % 100 < k, np.tile(np.arange(100), knees))
                for k in range(6)
            )
        ]
    )
    assert (np.diff(ends[:, 1]) > 0).all() and (np.diff(ends[:, 0]) >= 0).all()
    assert np.diff(ends[:, 1]).max() < 0.02 and stats.wilson(
        np.zeros(100 * knees), who
    ).worth == pytest.approx(100)


# DeLong


def slow_delong(y, a, b, who):
    "Obuchowski 1997, eqs. for clusters, from all pairs; DeLong's where all are alone."
    up, down = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    v = [
        (
            np.mean([[(s[i] > s[j]) + 0.5 * (s[i] == s[j]) for j in down] for i in up], 1),
            np.mean([[(s[i] > s[j]) + 0.5 * (s[i] == s[j]) for i in up] for j in down], 1),
        )
        for s in (a, b)
    ]
    auc, people = [x[0].mean() for x in v], sorted(set(who))
    sums = [
        [
            [
                sum(x[part][k] - t for k, i in enumerate((up, down)[part]) if who[i] == g)
                for g in people
            ]
            for part in (0, 1)
        ]
        for x, t in zip(v, auc)
    ]
    m, n, i10, i01 = len(up), len(down), len(set(who[up])), len(set(who[down]))

    def cov(r, s):
        s10, s01 = (
            np.dot(sums[r][0], sums[s][0]) * i10 / ((i10 - 1) * m),
            np.dot(sums[r][1], sums[s][1]) * i01 / ((i01 - 1) * n),
        )
        s11 = (
            len(people)
            / (len(people) - 1)
            * (np.dot(sums[r][0], sums[s][1]) + np.dot(sums[s][0], sums[r][1]))
        )
        return s10 / m + s01 / n + s11 / (m * n)

    return auc, cov(0, 0), cov(0, 0) + cov(1, 1) - 2 * cov(0, 1)


@quick
@given(st.integers(0, 10_000), st.booleans(), st.integers(0, 2))
def test_delong_against_all_pairs(seed, clustered, decimals):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(8, 40))
    y = np.r_[0, 0, 1, 1, rng.integers(0, 2, n - 4)]
    who = np.r_[0, 1, 2, 3, rng.integers(0, n // 2, n - 4)] if clustered else np.arange(n)
    a, b = np.round(y * [[1.0], [0.5]] + rng.standard_normal((2, n)), decimals)
    auc, single, variance = slow_delong(y, a, b, who)
    got, alone = (
        stats.delong(y, a, b, who if clustered else None),
        stats.delong_interval(y, a, who if clustered else None),
    )
    assert (got.auc_a, got.auc_b, got.error**2) == pytest.approx(
        (*auc, max(variance, 0)), abs=1e-10
    )
    assert (got.auc_a, alone.estimate) == pytest.approx((sk.roc_auc_score(y, a),) * 2)
    reach = 1.959964 * np.sqrt(max(single, 0))  # the outer of DeLong's ends and Wilson's
    assert (
        max(auc[0] - reach, 0) + 1e-6 >= alone.low >= 0
        and min(auc[0] + reach, 1) - 1e-6 <= alone.high <= 1
    )
    if got.error > 1e-6:
        assert (got.p < 0.05) == (not got.low <= 0 <= got.high)


def test_clustered_delong_keeps_its_level():
    rng, low, who = np.random.default_rng(6), [], np.repeat(np.arange(80), 2)
    for _ in range(600):
        y = np.repeat(rng.integers(0, 2, 80), 2)
        a, b = (
            y
            + np.repeat(rng.standard_normal((2, 80)), 2, axis=1)
            + 0.3 * rng.standard_normal((2, 160))
        )
        low.append([stats.delong(y, a, b, c).p < 0.05 for c in (who, None)])
    clustered, plain = np.mean(low, 0)
    assert 0.02 < clustered < 0.085 and plain > 0.1


def test_delong_is_close_to_swapping_the_scores_at_random():
    rng = np.random.default_rng(7)
    y = rng.integers(0, 2, 150)
    a, b = (scipy_stats.rankdata(y * s + rng.standard_normal(150)) for s in (1.3, 0.9))
    seen, moved = abs(sk.roc_auc_score(y, a) - sk.roc_auc_score(y, b)), []
    for _ in range(1500):
        swap = rng.random(150) < 0.5
        moved.append(
            abs(
                sk.roc_auc_score(y, np.where(swap, b, a))
                - sk.roc_auc_score(y, np.where(swap, a, b))
            )
            >= seen
        )
    assert stats.delong(y, a, b).p == pytest.approx(np.mean(moved), abs=0.03)


def test_delong_at_the_edges():
    y = np.arange(20) % 2
    assert (stats.delong(y, y, y).p, stats.delong(y, y, y).low) == (1, 0)
    assert stats.delong_interval(y, np.zeros(20)).estimate == 0.5
    assert stats.delong_interval(y, y).estimate == 1 == stats.delong_interval(y, y).high
    assert stats.delong_interval(y, y).low == pytest.approx(
        10 / (10 + 3.841459)
    )  # ten knees of each grade say no more
    assert stats.delong_interval(y, y, clusters=np.repeat(np.arange(5), 4)).low == pytest.approx(
        5 / (5 + 3.841459)
    )
    many = (np.arange(300) % 2).astype(float)
    lows = [
        stats.delong_interval(
            many, np.r_[many[: 300 - wrong], 1 - many[300 - wrong :]] + np.linspace(0, 0.1, 300)
        ).low
        for wrong in range(5)
    ]
    assert lows == sorted(lows, reverse=True)  # a worse score has no better bound
    some = many + np.random.default_rng(0).standard_normal(300)
    assert stats.delong_interval(many, some).high == pytest.approx(
        stats.delong_interval(many, some).estimate
        + 1.959964 * np.sqrt(slow_delong(many, some, some, np.arange(300))[1])
    )
    flawless = stats.delong(y, y, np.zeros(20))
    assert flawless.difference == 0.5 and np.isnan([flawless.p, flawless.low, flawless.high]).all()
    for bad, words in (
        (np.zeros(20), r"20 \(label 0\) and 0"),
        (np.r_[1, np.zeros(19)], r"19 \(label 0\) and 1"),
        (2 * y, "y: row 1"),
    ):
        with pytest.raises(ValueError, match=words):
            stats.delong(bad, y, y)
    with pytest.raises(ValueError, match="participants"):
        stats.delong_interval(y, y, clusters=y)  # all of a grade one person


# many readers


@quick
@given(st.integers(2, 40), st.integers(2, 5), st.integers(2, 4), st.integers(0, 10_000))
def test_fleiss_agrees_with_statsmodels(n, readers, k, seed):
    reads = np.random.default_rng(seed).integers(0, k, (n, readers))
    with np.errstate(all="ignore"):
        theirs = inter_rater.fleiss_kappa(inter_rater.aggregate_raters(reads)[0])
    assert same(stats.fleiss_kappa(reads, n=100).estimate, theirs)


@quick
@given(st.integers(3, 30), st.integers(2, 5), st.sampled_from(stats.SCALES), st.integers(0, 10_000))
def test_alpha_agrees_with_the_package(n, readers, scale, seed):
    krippendorff = pytest.importorskip("krippendorff")
    rng = np.random.default_rng(seed)
    reads = rng.choice([0.0, 1.0, 2.0, 4.0], (n, readers))
    reads[rng.random((n, readers)) < 0.3] = np.nan
    reads[0, :2] = 0, 1  # at least one pair, and two grades
    assert same(
        stats.krippendorff_alpha(reads, scale, n=100).estimate,
        krippendorff.alpha(reads.T, level_of_measurement=scale, value_domain=[0, 1, 2, 4]),
    )


def test_alpha_of_copied_knees():
    "A weight is a repetition here, too."
    rng = np.random.default_rng(8)
    reads = rng.integers(0, 3, (12, 3)).astype(float)
    reads[3, 1] = np.nan
    drawn = stats.draws(12, n=30)
    for scale in stats.SCALES:
        fast = stats.krippendorff_alpha(reads, scale, n=30, seed=0, level=0.5).replicates
        slow = [
            stats.krippendorff_alpha(np.repeat(reads, c, axis=0), scale, n=30, level=0.5).estimate
            for c in drawn.counts[:5]
        ]
        assert fast[:5] == pytest.approx(slow)


def test_many_readers_at_the_edges():
    same_grade = np.zeros((10, 3))
    assert np.isnan(stats.fleiss_kappa(same_grade).estimate) and np.isnan(
        stats.krippendorff_alpha(same_grade).estimate
    )
    perfect = np.repeat(np.arange(10)[:, None] % 2, 3, axis=1)
    two = stats.cohen_kappa(*perfect[:, :2].T)
    for many in (stats.fleiss_kappa(perfect), stats.krippendorff_alpha(perfect)):
        assert many.low == pytest.approx(two.low) and many.low < 0.8 and many.high == 1
    for scale in stats.SCALES:
        assert stats.krippendorff_alpha(perfect, scale).low == pytest.approx(two.low)
    assert stats.fleiss_kappa(perfect).estimate == stats.krippendorff_alpha(perfect).estimate == 1
    gap = perfect.astype(float)
    gap[4, 1] = np.nan
    with pytest.raises(ValueError, match="row 4 .*krippendorff_alpha"):
        stats.fleiss_kappa(gap)
    with pytest.raises(ValueError, match="reads"):
        stats.krippendorff_alpha([[0, np.nan], [np.nan, 1]])
    with pytest.raises(ValueError, match="reads: .* 5 by 1"):
        stats.fleiss_kappa(np.zeros((5, 1)))
    with pytest.raises(ValueError, match="scale='ratio'"):
        stats.krippendorff_alpha(perfect, "ratio")


# non-inferiority and size


def tango(only_a, only_b, n, level=0.95):
    "Tango's score interval (1998) of the difference of two paired rates, by root finding."
    seen, z = (only_a - only_b) / n, scipy_stats.norm.ppf((1 + level) / 2)

    def score(d):
        b = (2 * n - only_a + only_b) * d - only_a - only_b
        q = (np.sqrt(b * b - 8 * n * only_b * d * (d - 1)) - b) / (4 * n)
        return (only_a - only_b - n * d) / np.sqrt(max(n * (2 * q + d * (1 - d)), 1e-300))

    return brentq(lambda d: score(d) - z, -1 + 1e-9, seen - 1e-12), brentq(
        lambda d: score(d) + z, seen + 1e-12, 1 - 1e-9
    )


@pytest.mark.parametrize(
    "only_a, only_b, at", [(3, 9, -0.1), (0, 4, -0.05), (20, 2, 0.05), (5, 5, 0.2), (30, 0, 0.5)]
)
def test_tangos_score_has_the_likeliest_share(only_a, only_b, at):
    "The share of b alone that maximises the likelihood where a - b is `at`, searched on a grid."
    n, q = 60, np.linspace(max(0, -at), (1 - at) / 2, 400_001)[1:-1]
    q = q[
        np.argmax(
            only_a * np.log(q + at)
            + only_b * np.log(q)
            + (n - only_a - only_b) * np.log(1 - 2 * q - at)
        )
    ]
    assert stats._paired_score(only_a, only_b, n, at) == pytest.approx(
        (only_a - only_b - n * at) / np.sqrt(n * (2 * q + at - at**2)), rel=1e-3
    )


def test_noninferiority_where_one_is_always_right():
    one, none = np.ones(20), np.zeros(20)
    assert (
        stats.noninferiority(one, none, 0.05, n=200).shown
        and stats.noninferiority(one, none, 0.05, n=200).high == 1
    )
    lost = stats.noninferiority(none, one, 0.05, n=200)
    assert lost.low == -1 < lost.high < -0.6 and lost.p > 0.99 and not lost.shown


@pytest.mark.parametrize(
    "both, only_a, only_b, neither", [(250, 12, 18, 20), (900, 30, 40, 30), (150, 10, 9, 10)]
)
def test_noninferiority_is_close_to_tango(both, only_a, only_b, neither):
    a, b = calls(both, only_a, only_b, neither) == 0
    got, n = stats.noninferiority(a, b, 0.05), len(a)
    assert (got.low, got.high) == pytest.approx(tango(only_a, only_b, n), abs=0.006)
    assert got.shown == (got.low > -0.05) == (got.p <= 0.025) and got.margin == 0.05
    assert got.shown == (
        verdict("C17", stats.noninferiority(np.tile(a, (2, 1)), b, 0.05)) == "holds"
    )  # two trainings that say the same


def test_noninferiority_without_a_discordant_knee():
    for n in (20, 73, 74, 400):
        same_calls = np.arange(n) % 5 > 0
        got = stats.noninferiority(same_calls, same_calls, 0.05)
        assert (got.low, got.high) == pytest.approx(
            (-3.841459 / (n + 3.841459), 3.841459 / (n + 3.841459))
        )
        assert got.shown == (n >= 73) == (got.p <= 0.025)
    clustered = stats.noninferiority(
        same_calls, same_calls, 0.05, clusters=np.repeat(np.arange(200), 2)
    )
    assert clustered.high == pytest.approx(3.841459 / 203.841459)


@pytest.mark.parametrize("n", [70, 75, 150, 300])
def test_a_worse_model_is_not_shown_sooner(n):
    for who in (None, np.arange(n) // 2):
        found = [
            stats.noninferiority(*(calls(n - k - 5, 0, k, 5) == 0), 0.05, who, n=999)
            for k in range(5)
        ]
        assert (np.diff([f.low for f in found]) < 0).all() and (
            np.diff([f.p for f in found]) >= 0
        ).all()
        assert all(f.shown == (f.p <= 0.025) for f in found)
    if n == 70:
        assert not any(f.shown for f in found)
    assert found[0].at(0.99).low < found[0].low


@pytest.mark.parametrize(
    "n, only_a", [(75, 0), (75, 0.02), (150, 0), (150, 0.02), (300, 0), (300, 0.02)]
)
def test_noninferiority_keeps_its_level(n, only_a):
    """At the true margin it may be shown in one study of forty. Tango's end is exact; the
    bootstrap's can only lower it."""
    chance = scipy_stats.multinomial(n, [only_a, only_a + 0.05, 0.95 - 2 * only_a])
    z = scipy_stats.norm.ppf(0.975)
    exact = sum(
        chance.pmf([i, j, n - i - j])
        for i in range(25 if only_a else 1)
        for j in range(60)
        if i + j <= n and stats._paired_score(i, j, n, -0.05) > z
    )
    assert 0.01 < exact < 0.025
    rng, drawn, shown = np.random.default_rng(n), stats.draws(n, 499), 0
    for _ in range(400):
        i, j, both = rng.multinomial(n, [only_a, only_a + 0.05, 0.95 - 2 * only_a])
        a, b = calls(both, i, j, 0) == 0
        found = stats.noninferiority(a, b, 0.05, drawn=drawn)
        assert found.low <= stats._tango(i, j, n, 0.95)[0] + 1e-9
        shown += found.shown
    assert shown <= 20  # 2.5% of 400 are 10; of the bootstrap alone 8.8% were


def test_noninferiority_over_trainings_and_bad_margins():
    rng = np.random.default_rng(9)
    reader, network = rng.random(200) < 0.9, rng.random((3, 200)) < 0.85
    got = stats.noninferiority(network, reader, 0.05, n=500)
    assert got.seeds == 3 and got.estimate == pytest.approx(network.mean() - reader.mean())
    for margin in (0, -0.05, 5):
        with pytest.raises(ValueError, match="margin="):
            stats.noninferiority(network, reader, margin)


@quick
@given(st.integers(1, 40), st.floats(0, 0.5), st.floats(0, 0.5))
@example(20, 1e-308, 1e-308)
def test_power_is_the_sum_over_all_tables(n, only_a, only_b):
    total = 0.0
    for i in range(n + 1):
        for j in range(n + 1 - i):
            if i + j and scipy_stats.binomtest(i, i + j, 0.5).pvalue <= 0.05:
                total += (
                    comb(n, i)
                    * comb(n - i, j)
                    * only_a**i
                    * only_b**j
                    * (1 - only_a - only_b) ** (n - i - j)
                )
    assert stats.mcnemar_power(n, only_a, only_b) == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize(
    "difference, discordant, power",
    [(0.05, 0.1, 0.8), (0.05, 0.05, 0.9), (0.1, 0.3, 0.8), (0.02, 0.05, 0.8)],
)
def test_size_is_the_smallest(difference, discordant, power):
    n = stats.study_size(difference, discordant, power)
    shares = (discordant + difference) / 2, (discordant - difference) / 2
    assert (
        all(stats.mcnemar_power(m, *shares) >= power for m in range(n, n + 25))
        and stats.mcnemar_power(n - 1, *shares) < power
    )
    z = scipy_stats.norm.ppf(0.975) * np.sqrt(discordant) + scipy_stats.norm.ppf(power) * np.sqrt(
        discordant - difference**2
    )
    assert n == pytest.approx((z / difference) ** 2, rel=0.15)  # Connor 1987, which is not exact


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: stats.study_size(0, 0.1), "difference=0,"),
        (lambda: stats.study_size(0.2, 0.1), "difference=0.2, discordant=0.1"),
        (lambda: stats.study_size(0.05, 0.1, 1), "power=1"),
        (lambda: stats.mcnemar_power(10, -0.1, 0.2), "only_a=-0.1"),
        (lambda: stats.mcnemar_power(10, 0.6, 0.6), "only_a=0.6, only_b=0.6"),
    ],
)
def test_impossible_studies_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
    assert stats.mcnemar_power(50, 0, 0) == 0


# similar confidence, and the number of resamples


@quick
@given(st.integers(3, 60), st.integers(0, 2), st.integers(0, 10_000))
def test_spearman_and_wasserstein_of_copied_knees(n, decimals, seed):
    rng = np.random.default_rng(seed)
    x, y, w = (
        np.round(rng.random((2, n)), decimals),
        np.round(rng.random(n), 1),
        rng.integers(0, 3, n),
    )
    if w.sum() < 3:
        return
    for a, got, gap in zip(
        x,
        stats.spearman_of(x, y)(w[None].astype(float))[0],
        stats.wasserstein_of(x, y)(w[None].astype(float))[0],
    ):
        one, other = np.repeat(a, w), np.repeat(y, w)
        assert gap == pytest.approx(scipy_stats.wasserstein_distance(one, other), abs=1e-12)
        if len(set(one)) > 1 and len(set(other)) > 1:
            assert got == pytest.approx(scipy_stats.spearmanr(one, other).statistic, abs=1e-9)
        else:
            assert np.isnan(got)


def test_ten_thousand_resamples_unless_told_otherwise():
    rng, who = np.random.default_rng(0), np.repeat(np.arange(600), 2)[:1000]
    reads = rng.integers(0, 5, (1000, 4))
    for f in (
        lambda: stats.cohen_kappa(reads[:, 0], reads[:, 1], who),
        lambda: stats.cohen_kappa(reads[:, 0], reads[:, 1], who, weights="quadratic"),
        lambda: stats.fleiss_kappa(reads, who),
        lambda: stats.krippendorff_alpha(reads, "ordinal", who),
        lambda: stats.noninferiority(reads[:, 0] < 4, reads[:, 1] < 4, 0.05, who),
    ):
        assert len(f().replicates) == 10_000


# what is no read, and of what kind reads are

TEXT = np.array(["0", "2", "0", "2"])


@pytest.mark.parametrize(
    "call, named",
    [
        (lambda: stats.mcnemar(TEXT, [0, 2, 0, 2], [0, 2, 0, 2]), "Text in y, .* a and b"),
        (lambda: stats.cohen_kappa(TEXT, [0.0, 2.0, 0.0, 2.0], n=100), "Text in a, .* b"),
        (lambda: stats.cohen_kappa(["0", "", "2", "0"], TEXT, n=100), "a: .* row 1"),
        (lambda: stats.cohen_kappa(TEXT, ["0", "2", "0", " "], n=100), "b: .* row 3"),
        (lambda: stats.cohen_kappa(np.array([0, "2", 0, 2], object), TEXT, n=100), "a: row 1"),
        (lambda: stats.cohen_kappa(TEXT, TEXT, weights="linear", n=100), "weights='linear'"),
        (lambda: stats.fleiss_kappa([["1", "2"], ["1", ""]]), "row 1"),
        (lambda: stats.krippendorff_alpha([[1, 2], [1, "2"]]), "reads: row"),
        (lambda: stats.krippendorff_alpha([["1", "1"], ["2", "2"]], "ordinal"), "scale='ordinal'"),
        (lambda: stats.mcnemar([0, 0], [0, 1], [0, 0], clusters=["a", ""]), "clusters: .* row 1"),
        (lambda: stats.wilson(["1", "0"]), "hits: row 0"),
        (lambda: stats.wilson([0, 1, 2]), "hits: row 2"),
        (lambda: stats.delong([0, 1, 0, 1], TEXT, TEXT), "a|Text"),
        (lambda: stats.delong([0, 1, 0, 1], [0, 1, np.inf, 1], [0, 1, 0, 1]), "a: row 2"),
        (lambda: stats.delong_interval([0, 1, 0, 2], [0, 1, 0, 1]), "y: row 3"),
        (lambda: stats.noninferiority([0, 1, 2], [0, 1, 1], 0.05), "a: row 2"),
        (lambda: stats.mcnemar([0, 1], [[0, 1], [1, 1]], [0, 1]), r"a has shape \(2, 2\)"),
        (lambda: stats.wilson([[0, 1]]), "hits has shape"),
        (lambda: stats.wilson([0, 1], level=95), "level"),
        (lambda: stats.delong([0, 1], [[0, 1]], [0, 1]), "a has shape"),
        (lambda: stats.delong_interval([0, 1], [[0, 1]]), "score has shape"),
        (lambda: stats.mcnemar([0, 2, 2], [0, 2, 2], [0, 1, 1]), "b holds 1"),
        (
            lambda: stats.mcnemar([0, 2, 2], np.array([False, True, True]), [0, 2, 2]),
            "a holds True",
        ),
        (lambda: stats.mcnemar([0, 1, 1], [0.1, 0.9, 0.7], [0, 1, 1]), "a holds 0.1"),
        (lambda: stats.mcnemar([0, 0], [0, 2], [0, 1], grades=(0, 2)), "b holds 1"),
        (lambda: stats.cohen_kappa([0, 2, 2], [0, 1, 1]), "b holds 1"),
        (lambda: stats.cohen_kappa([0.2, 0.8, 0.6], [0, 1, 1]), "b holds 0"),
        (lambda: stats.cohen_kappa([0, 2], [0, 2], grades=(0, 1)), "a holds 2"),
    ],
)
def test_reads_that_are_none_are_refused_by_name(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def test_a_grade_that_one_reader_never_gives_is_allowed_where_all_are_named():
    a, b = [0, 1, 3, 0], [0, 2, 3, 0]
    with pytest.raises(ValueError, match="grades"):
        stats.cohen_kappa(a, b)
    assert stats.cohen_kappa(a, b, grades=range(5), n=100).kappa < 1
    seen = stats.mcnemar([0, 1, 1, 0], a, [0, 1, 1, 0], grades=range(5))
    assert (seen.both, seen.only_b) == (3, 1)


def test_text_on_both_sides_is_as_good_as_numbers():
    number = TEXT.astype(int)
    wrong = np.roll(number, 1)
    assert stats.mcnemar(TEXT, TEXT, wrong.astype(str)) == stats.mcnemar(number, number, wrong)
    assert stats.cohen_kappa(TEXT, TEXT).kappa == 1


def test_a_blank_read_is_no_grade():
    sheet = [["1", ""], ["1", "1"], ["2", "2"]]
    assert stats.krippendorff_alpha(sheet, n=200).estimate == 1
    number = [[1, np.nan], [1, 1], [2, 2]]
    assert stats.krippendorff_alpha(number, n=200).estimate == 1


def test_a_kappa_that_most_resamples_leave_undefined_has_no_interval():
    read = [2] + [0] * 19
    found = stats.cohen_kappa(read, read, n=60)  # so many were asked for, and are enough
    assert found.kappa == 1 and found.undefined == pytest.approx(23 / 60)
    assert np.isnan([found.low, found.high]).all() and "undefined" in str(found)


@quick
@given(st.integers(0, 12), st.integers(0, 12))
def test_mid_p_counts_the_seen_outcome_by_half(only_a, only_b):
    a, b = calls(3, only_a, only_b, 2)
    n = only_a + only_b
    got = stats.mcnemar(np.zeros(len(a)), a, b)
    seen = scipy_stats.binom.pmf(only_a, n, 0.5)  # of one tail; both hold it where they are even
    half = seen / 2 if only_a == only_b else seen
    assert got.mid_p == pytest.approx(got.p - half if n else 1)
    twice = stats.mcnemar(
        *(np.repeat(x, 2) for x in (np.zeros(len(a)), a, b)),
        clusters=np.repeat(np.arange(len(a)), 2),
    )
    assert (twice.p, twice.mid_p) == pytest.approx((got.p, got.mid_p))


def test_mid_p_of_ten_against_twenty():
    y = np.zeros(300, int)
    a, b = y.copy(), y.copy()
    a[:10], b[10:30] = 2, 2
    found = stats.mcnemar(y, a, b)
    assert (found.p, found.mid_p) == pytest.approx((0.0987371, 0.0707555), abs=1e-6)


# how many training runs


@pytest.mark.parametrize(
    "lasting, once, seed_sd", [(0.1, 0.0, 0.02), (0.04, 0.1, 0.0), (0.0, 0.1, 0.03)]
)
def test_planted_spreads_are_found(lasting, once, seed_sd):
    rng, knees, seeds = np.random.default_rng(0), 2000, 60
    kind = rng.normal(0, lasting**0.5, knees)
    apart = kind + rng.normal(0, once**0.5, (seeds, knees)) + rng.normal(0, seed_sd, (seeds, 1))
    got = stats.spreads(apart, np.arange(knees))
    assert got.knee**2 == pytest.approx(lasting, abs=0.01)
    assert got.run**2 == pytest.approx(once, abs=0.01)
    assert got.seed**2 == pytest.approx(seed_sd**2 + once / knees, rel=0.6, abs=1e-12)
    one = stats.spreads(apart[0], np.arange(knees))
    assert np.isnan(one.seed) and one.run == 0
    assert one.knee**2 == pytest.approx(lasting + once, abs=0.02)
    twice = stats.spreads(np.repeat(apart, 2, axis=1), np.repeat(np.arange(knees), 2))
    assert twice.knee == pytest.approx(2**0.5 * got.knee)  # no knee more than before
    assert stats.spreads([[1, 0, -1, 0]] * 2, range(4)).discordant == 0.5


@pytest.mark.parametrize("seeds, knees", [(3, 500), (8, 2000), (20, 1000)])
def test_power_of_seeds_by_simulation(seeds, knees):
    of, rng = stats.Spreads(0.02, 0.3, 0.0, 0.1), np.random.default_rng(seeds)
    mean = 0.025 + rng.normal(0, (of.seed**2 / seeds + of.knee**2 / knees) ** 0.5, 20_000)
    sd = of.seed * np.sqrt(rng.chisquare(seeds - 1, 20_000) / (seeds - 1))
    # the ends of the printed interval: a normal part and Student's, by simulation
    part = rng.normal(0, of.knee / knees**0.5, (4000, 1))
    t = rng.standard_t(seeds - 1, (4000, 1)) * np.linspace(0.2, 3, 60) * of.seed / seeds**0.5
    reach = np.interp(sd / of.seed, np.linspace(0.2, 3, 60), np.quantile(part + t, 0.975, axis=0))
    seen = (abs(mean) > reach).mean()
    assert stats.seeds_power(seeds, knees, 0.025, of) == pytest.approx(seen, abs=0.04)


def test_seeds_needed_is_the_smallest():
    of = stats.Spreads(0.015, 0.2, 0.15, 0.06)
    for difference, knees in ((0.02, 1086), (-0.02, 1086), (0.01, 20_000), (0.1, 1086)):
        s = stats.seeds_needed(difference, knees, of)
        assert stats.seeds_power(s, knees, difference, of) >= 0.8
        assert s == 2 or stats.seeds_power(s - 1, knees, difference, of) < 0.8
    assert stats.seeds_needed(0.005, 1086, of) == np.inf  # the knees alone vary more than that
    assert stats.seeds_needed(0.005, 10**6, of) < np.inf
    for call in (
        lambda: stats.seeds_needed(0, 1086, of),
        lambda: stats.seeds_needed(0.01, 1086, of, power=1),
        lambda: stats.seeds_power(1, 1086, 0.01, of),
        lambda: stats.seeds_power(3, 1086, 0.01, replace(of, seed=np.nan)),
        lambda: stats.spreads([[1, np.nan]], [0, 1]),
    ):
        with pytest.raises(ValueError):
            call()


def test_reads_and_confidences_of_other_knees_are_refused():
    reads, x, y = [[0, 2], [2, 2], [0, 0]], [[0.2, 0.9, 0.4]], [0.3, 0.8, 0.5]
    for ask, said in (
        (lambda: stats.krippendorff_alpha(reads, clusters=["a", "b"]), "3 rows, and clusters 2"),
        (lambda: stats.fleiss_kappa(reads, clusters=["a", "b"]), "3 rows, and clusters 2"),
        (lambda: stats.wasserstein_of(x, y[1:]), "same knees"),
        (lambda: stats.spearman_of(x, y[1:]), "same knees"),
        (lambda: stats.wasserstein_of(x, ["a", 0.8, 0.5]), "row 0 holds 'a'"),
        (lambda: stats.mcnemar_power(100.5, 0.1, 0.05), "knees=100.5"),
    ):
        with pytest.raises(ValueError, match=said):
            ask()
    for of in (stats.wasserstein_of, stats.spearman_of):
        assert of(x[0], y)(np.ones((1, 3))) == of(x, y)(np.ones((1, 3)))
        with pytest.raises(ValueError, match="4 knees"):
            of(x, y)(np.ones((1, 4)))
