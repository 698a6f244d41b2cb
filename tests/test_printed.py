"""koa_repro.printed: numbers that can be counted are found possible, and no others."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import cohen_kappa_score
from sklearn.metrics import f1_score as sklearn_f1
from statsmodels.stats.contingency_tables import mcnemar

from koa_repro import printed
from koa_repro.printed import FINDINGS, HOW, ON, ROUNDING, Printed, Reading


def as_printed(x, decimals):
    return Printed(f"{x:.{decimals}f}")


# a printed number, a finding


def test_a_printed_number_keeps_its_decimals():
    assert (
        Printed("0.80").unit == pytest.approx(0.01)
        and Printed("150").unit == 1
        and Printed("0.80").off(0.806) == 0.6
    )
    for text in ("", "a", "1.2.3", "-1", "1e-3"):
        with pytest.raises(ValueError, match=repr(text)):
            Printed(text)


def test_the_finding_follows_from_the_readings():
    fits, misses, left_open, unknown = (
        Reading("a", 0.5),
        Reading("b", 0.6),
        Reading("c", 0.1, False),
        Reading("d", np.nan, False),
    )
    found = {
        printed.finding(list(r)): r
        for n in (1, 2, 3)
        for r in itertools.permutations((fits, misses, left_open, unknown), n)
    }
    assert set(found) == set(FINDINGS)
    for n in (1, 2, 3, 4):
        for r in itertools.permutations((fits, misses, left_open, unknown), n):
            assert printed.finding(r) == (
                "can be"
                if fits in r
                else "cannot be decided"
                if left_open in r or unknown in r
                else "cannot be"
            )
    with pytest.raises(ValueError, match="reading"):
        printed.finding([])


# counts


def test_test_sizes_hold_what_splitters_give():
    from sklearn.model_selection import train_test_split

    y = np.repeat([0, 2], (3185, 2126))
    rest, test = train_test_split(y, test_size=0.2, stratify=y, random_state=0)
    train, held = train_test_split(y, test_size=0.3, stratify=y, random_state=0)
    for part in (test, train_test_split(held, test_size=2 / 3, stratify=held, random_state=0)[1]):
        for grade, n in ((0, 3185), (2, 2126)):
            assert (part == grade).sum() in printed.test_sizes(n)
    for n in range(1, 300):
        sizes = printed.test_sizes(n)
        assert {
            math.floor(n / 5),
            math.ceil(n / 5),
            n - int(0.7 * n + 1e-9) - int(0.1 * n + 1e-9),
        } <= set(sizes) and max(abs(s - n / 5) for s in sizes) < 2
        assert min(sizes) >= 0
    assert printed.test_sizes(100) == [20] and printed.test_sizes(6, (1, 1, 1)) == [2]
    with pytest.raises(ValueError, match="at least one knee"):
        printed.test_sizes(0)
    with pytest.raises(ValueError, match="no printed number"):
        Printed("8²")


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 6), st.integers(0, 3), st.data())
def test_every_count_is_possible(n, runs, decimals, data):
    k = data.draw(st.integers(0, n * runs))
    assert printed.grim(as_printed(100 * k / (n * runs), decimals), n, runs) <= ROUNDING


def test_grim_against_brute_force():
    for n, runs, decimals in itertools.product((1, 3, 7, 28, 60), (1, 2, 5), (0, 1, 2)):
        exact = 100 * np.arange(n * runs + 1) / (n * runs) * 10**decimals
        values = np.arange(100 * 10**decimals + 1)
        ok = (np.abs(values[:, None] - exact) <= 0.5 + 1e-9).any(1)
        assert printed.grim_chance(decimals, n, runs) == pytest.approx(ok.mean())
        for v in values[::37]:
            assert (
                printed.grim(as_printed(v / 10**decimals, decimals), n, runs) <= ROUNDING
            ) == ok[v]
    assert printed.grim_chance(1, [3, 7]) < printed.grim_chance(1, 3) + printed.grim_chance(
        1, 7
    )  # 0 and 100 are counted once
    assert (
        printed.grim(Printed("0.19"), 28, scale=1) > ROUNDING
        and printed.grim(Printed("0.18"), 28, scale=1) <= ROUNDING
    )  # means of 28 whole numbers
    for n, runs in ((0, 1), (3, 0)):
        with pytest.raises(ValueError, match=f"n={n}, runs={runs}"):
            printed.grim(Printed("50.0"), n, runs)


def test_fewest_runs():
    assert (
        printed.first_runs([Printed("33.3"), Printed("50.0")], 3) == 2
        and printed.first_runs([Printed("10.0")], 3, most=9) is None
    )
    single, several = printed.grim_readings([Printed("50.0")], [3, 5])
    assert (
        not single.fits
        and several.fits
        and several.name == "mean of 2 runs of 3 knees"
        and not several.stated
    )
    assert len(printed.grim_readings([Printed("50.0")], [3, 4])) == 1


# accuracy and F1


def test_f1_is_the_usual_one():
    rng = np.random.default_rng(0)
    for _ in range(40):
        y, said = (rng.random((2, 30)) < rng.random((2, 1))).astype(int)
        y[:2] = 0, 1
        tp, tn, p, n = (y & said).sum(), ((1 - y) & (1 - said)).sum(), y.sum(), (1 - y).sum()
        for ours, theirs in (
            ("positive", dict(pos_label=1)),
            ("negative", dict(pos_label=0)),
            ("macro", dict(average="macro")),
            ("weighted", dict(average="weighted")),
        ):
            assert float(printed.f1_score(tp, tn, p, n, ours)) == pytest.approx(
                sklearn_f1(y, said, zero_division=0, **theirs)
            )


@pytest.mark.parametrize("average", ["positive", "negative", "macro", "weighted"])
def test_every_pair_of_counts_is_possible_and_no_other(average):
    p, n = 5, 7
    tp, tn = (x.ravel() for x in np.mgrid[0 : p + 1, 0 : n + 1])
    accuracy, f1 = 100 * (tp + tn) / (p + n), 100 * printed.f1_score(tp, tn, p, n, average)
    for a, f in zip(accuracy, f1):
        assert printed.f1_counts(as_printed(a, 1), as_printed(f, 1), p, n, average)[0] <= ROUNDING
    rng = np.random.default_rng(1)
    for a, f in zip(rng.choice(accuracy, 60), rng.uniform(0, 100, 60)):
        a, f = as_printed(a, 1), as_printed(f, 1)
        brute = np.maximum(a.off(accuracy), f.off(f1)).min()
        slack, x, y = printed.f1_counts(a, f, p, n, average)
        assert (
            slack == brute
            and np.maximum(
                a.off(100 * (x + y) / (p + n)), f.off(100 * printed.f1_score(x, y, p, n, average))
            )
            == brute
        )


def test_f1_where_there_is_little():
    assert (
        printed.f1_counts(Printed("100.0"), Printed("100.0"), 4, 0) == (0, 4, 0)
        and printed.f1_counts(Printed("60.0"), Printed("0.0"), 0, 5)[0] == 0
    )
    assert printed.f1_counts(Printed("75.0"), Printed("90.0"), 2, 2, most=ROUNDING)[
        0
    ] > ROUNDING and printed.f1_counts(Printed("74.0"), Printed("90.0"), 2, 2, most=ROUNDING) == (
        np.inf,
        -1,
        -1,
    )
    with pytest.raises(ValueError, match="positives and negatives"):
        printed.f1_counts(Printed("50.0"), Printed("50.0"), 0, 0)


def test_unlike_runs_are_found():
    p, n = 8, 12
    for one, two in (((8, 12), (8, 0)), ((3, 10), (7, 9)), ((4, 6), (4, 6))):
        a = [100 * sum(x) / (p + n) for x in (one, two)]
        f = [100 * float(printed.f1_score(*x, p, n)) for x in (one, two)]
        assert (
            printed.least_spread(as_printed(np.mean(a), 2), as_printed(np.mean(f), 2), p, n)
            <= abs(a[0] - a[1]) + 1e-9
        )
    assert (
        printed.least_spread(Printed("65.00"), Printed("72.00"), p, n) > 0
    )  # one run reaches 69.57 at most
    assert np.isnan(printed.least_spread(Printed("100.00"), Printed("90.00"), p, n))
    readings = printed.f1_readings(Printed("83.40"), Printed("84.34"), [425], [637], most=3)
    assert printed.finding(readings) == "cannot be"


# differences, twice the same


@given(st.floats(0, 100), st.floats(0, 100), st.integers(0, 3))
def test_every_difference_is_possible(a, b, decimals):
    a, b = max(a, b), min(a, b)
    assert (
        printed.difference_slack(
            as_printed(a, 2), as_printed(b, 2), as_printed(a - b, decimals), unrounded=True
        )
        <= ROUNDING + 1e-6
    )
    x, y = as_printed(a, 2), as_printed(b, 2)
    assert printed.difference_slack(x, y, as_printed(round(x.value - y.value, 2), 2)) == 0


def test_differences_and_sums_that_are_not():
    assert printed.difference_slack(Printed("89.14"), Printed("88.38"), Printed("0.78"), True) == 1
    assert (
        printed.finding(
            printed.difference_readings(Printed("89.14"), Printed("88.38"), Printed("0.78"))
        )
        == "cannot be"
    )
    assert (
        printed.sum_slack([Printed("0.4"), Printed("0.5"), Printed("0.1")], Printed("1")) == 0
        and printed.sum_slack([Printed("0.4"), Printed("0.5"), Printed("0.2")], Printed("1")) == 1
    )


@pytest.mark.parametrize(
    "a, b, says",
    [
        ("0.80", "0.80", "can be"),
        ("0.80", "0.8", "can be"),
        ("89.14", "89.15", "cannot be decided"),
        ("89.14", "89.16", "cannot be"),
        ("89.1", "89.15", "can be"),
        ("88.38", "88.4", "can be"),
        ("89.26", "89.2", "cannot be"),
    ],
)
def test_one_number_printed_twice(a, b, says):
    assert printed.finding(printed.same_readings(Printed(a), Printed(b))) == says


# model, reader and truth


def all_tables(p, n):
    "Every table of truth x model x reader, as labels."
    four = lambda k: [c for c in itertools.product(range(k + 1), repeat=4) if sum(c) == k]
    for two, zero in itertools.product(four(p), four(n)):
        said = [
            (m, r) for (m, r), k in zip(itertools.product((0, 1), repeat=2), two) for _ in range(k)
        ] + [
            (m, r) for (m, r), k in zip(itertools.product((0, 1), repeat=2), zero) for _ in range(k)
        ]
        yield np.repeat([1, 0], (p, n)), *np.array(said).T


def test_every_table_that_exists_is_found_possible():
    P, N, seen = 3, 3, set()
    for truth, model, reader in all_tables(P, N):
        seen.add(tuple(np.bincount(4 * truth + 2 * model + reader, minlength=8)))
        rates = [
            dict(
                accuracy=as_printed(100 * (x == truth).mean(), 1),
                sensitivity=as_printed(100 * x[truth == 1].mean(), 1),
                specificity=as_printed(100 * (1 - x[truth == 0]).mean(), 1),
            )
            for x in (model, reader)
        ]
        t = printed.joint_tables(P, N, *(printed.error_counts(r, P, N) for r in rates))
        wrong, b2, b0 = (
            [(x[truth == k] != k).sum() for k in (1, 0) for x in (model, reader)],
            ((model == 0) & (reader == 0) & (truth == 1)).sum(),
            ((model == 1) & (reader == 1) & (truth == 0)).sum(),
        )
        at = (
            t[["model_fn", "reader_fn", "model_fp", "reader_fp", "both_fn", "both_fp"]]
            == [*wrong, b2, b0]
        ).all(axis=1)
        assert at.sum() == 1
        row = t[at]
        kappa = float(printed.kappas(row, P, N)[0])
        constant = len(set(model) | set(reader)) == 1
        assert (
            np.isnan(kappa)
            if constant
            else kappa == pytest.approx(cohen_kappa_score(model, reader))
        )
        reference = printed.joint_tables(
            P, N, np.array([[0, 0]]), row[["reader_fn", "reader_fp"]].to_numpy()
        )
        assert printed.kappas(reference, P, N) == pytest.approx(cohen_kappa_score(truth, reader))
        for on, x, y in (
            (ON[0], model == truth, reader == truth),
            (ON[1], model == 1, reader == 0),
        ):
            b, c = (
                ((x & ~y).sum(), (~x & y).sum())
                if on == ON[0]
                else ((x & y).sum(), (~x & ~y).sum())
            )
            assert sorted((b, c)) == sorted(int(d[0]) for d in printed.discordant(row, on))
    assert len(seen) == math.comb(P + 3, 3) * math.comb(N + 3, 3)


def test_tables_are_all_there_and_none_twice():
    P, N = 4, 3
    t = printed.joint_tables(P, N, printed.error_counts({}, P, N), printed.error_counts({}, P, N))
    assert len(t) == math.comb(P + 3, 3) * math.comb(N + 3, 3) and not t.duplicated().any()
    assert (
        len(printed.joint_tables(P, N, np.empty((0, 2), int), printed.error_counts({}, P, N))) == 0
    )


def test_mcnemar_is_the_usual_one():
    rng = np.random.default_rng(0)
    b, c = rng.integers(0, 40, (2, 200))
    for how, kwargs in {
        HOW[0]: dict(exact=True),
        HOW[2]: dict(exact=False, correction=False),
        HOW[3]: dict(exact=False, correction=True),
    }.items():
        for x, y, p in zip(b, c, printed.mcnemar_p(b, c, how)):
            if x != y:
                assert p == pytest.approx(mcnemar([[0, x], [y, 0]], **kwargs).pvalue)
    for x, y, p in zip(b, c, printed.mcnemar_p(b, c, HOW[1])):
        weight = binom.pmf(np.arange(x + y + 1), x + y, 0.5)  # of each table with as many
        far = np.abs(np.arange(x + y + 1) - (x + y) / 2)
        half = weight[far > abs(x - y) / 2].sum() + weight[far == abs(x - y) / 2].sum() / 2
        assert x + y == 0 or p == pytest.approx(half)
    for how in HOW:
        nothing, even = printed.mcnemar_p([0, 7], [0, 7], how)
        assert nothing == 1 and even == (1 if how != HOW[1] else 1 - binom.pmf(7, 14, 0.5) / 2)


def test_one_class_absent():
    for P, N, name in ((0, 5, "sensitivity"), (5, 0, "specificity")):
        with pytest.raises(ValueError, match=f"positives={P}, negatives={N}"):
            printed.error_counts({name: Printed("80.0")}, P, N)
        with pytest.raises(ValueError, match=f"positives={P}, negatives={N}"):
            printed.rates_slack({name: Printed("80.0")}, P, N)
        assert len(printed.error_counts({"accuracy": Printed("80.0")}, P, N)) == 1
    always = printed.joint_tables(4, 0, np.array([[0, 0]]), np.array([[0, 0]]))
    assert np.isnan(printed.kappas(always, 4, 0)).all()


def test_rates_against_brute_force():
    P, N = 4, 6
    for tp, tn in itertools.product(range(P + 1), range(N + 1)):
        rates = dict(
            accuracy=as_printed(100 * (tp + tn) / 10, 1),
            sensitivity=as_printed(100 * tp / P, 1),
            specificity=as_printed(100 * tn / N, 1),
        )
        assert (
            printed.rates_slack(rates, P, N) <= ROUNDING
            and printed.balance_slack(rates, P, N) <= ROUNDING
        )
        assert printed.error_counts(rates, P, N).tolist() == [[P - tp, N - tn]]
    off = dict(accuracy=Printed("89.2"), sensitivity=Printed("84.7"), specificity=Printed("93.3"))
    assert (
        printed.balance_slack(off, 150, 150) == 1
        and printed.rates_slack(off, 150, 150, 3) > ROUNDING
    )
