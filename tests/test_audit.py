"""The audit of printed numbers: what really exists must be found possible, and what cannot exist must not."""
import itertools, json, math
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import cohen_kappa_score, f1_score as sklearn_f1, roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar

from koa_repro import audit
from koa_repro.audit import BETWEEN, FINDINGS, HOW, ON, ROUNDING, Printed, Reading
from koa_repro.house import manifests, repository

def printed(x, decimals): return Printed(f"{x:.{decimals}f}")


# a printed number, a finding

def test_a_printed_number_keeps_its_decimals():
    assert Printed("0.80").unit == pytest.approx(.01) and Printed("150").unit == 1 and Printed("0.80").off(.806) == .6
    for text in ("", "a", "1.2.3", "-1", "1e-3"):
        with pytest.raises(ValueError, match="no printed number"): Printed(text)

def test_the_finding_follows_from_the_readings():
    fits, misses, left_open, unknown = Reading("a", .5), Reading("b", .6), Reading("c", .1, False), Reading("d", np.nan, False)
    found = {audit.finding(list(r)): r for n in (1, 2, 3) for r in itertools.permutations((fits, misses, left_open, unknown), n)}
    assert set(found) == set(FINDINGS)
    for n in (1, 2, 3, 4):
        for r in itertools.permutations((fits, misses, left_open, unknown), n):
            assert audit.finding(r) == ("can be" if fits in r else "cannot be decided" if left_open in r or unknown in r else "cannot be")
    with pytest.raises(ValueError, match="at least one"): audit.finding([])
    twice = [audit.item("x", "y", "1", [fits])] * 2
    with pytest.raises(ValueError, match="checked twice"): audit.audit_tables(twice)


# counts

def test_test_sizes_hold_what_splitters_give():
    from sklearn.model_selection import train_test_split
    y = np.repeat([0, 2], (3185, 2126))
    rest, test = train_test_split(y, test_size=.2, stratify=y, random_state=0)
    train, held = train_test_split(y, test_size=.3, stratify=y, random_state=0)
    for part in (test, train_test_split(held, test_size=2 / 3, stratify=held, random_state=0)[1]):
        for grade, n in ((0, 3185), (2, 2126)): assert (part == grade).sum() in audit.test_sizes(n)
    for n in range(1, 300):
        sizes = audit.test_sizes(n)
        assert {math.floor(n / 5), math.ceil(n / 5), n - int(.7 * n + 1e-9) - int(.1 * n + 1e-9)} <= set(sizes) and max(abs(s - n / 5) for s in sizes) < 2
    assert audit.test_sizes(100) == [20] and audit.test_sizes(6, (1, 1, 1)) == [2]

@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 6), st.integers(0, 3), st.data())
def test_every_count_is_possible(n, runs, decimals, data):
    k = data.draw(st.integers(0, n * runs))
    assert audit.grim(printed(100 * k / (n * runs), decimals), n, runs) <= ROUNDING

def test_grim_against_brute_force():
    for n, runs, decimals in itertools.product((1, 3, 7, 28, 60), (1, 2, 5), (0, 1, 2)):
        exact = 100 * np.arange(n * runs + 1) / (n * runs) * 10 ** decimals
        values = np.arange(100 * 10 ** decimals + 1)
        ok = (np.abs(values[:, None] - exact) <= .5 + 1e-9).any(1)
        assert audit.grim_chance(decimals, n, runs) == pytest.approx(ok.mean())
        for v in values[::37]: assert (audit.grim(printed(v / 10 ** decimals, decimals), n, runs) <= ROUNDING) == ok[v]
    assert audit.grim_chance(1, [3, 7]) < audit.grim_chance(1, 3) + audit.grim_chance(1, 7)  # 0 and 100 are counted once
    assert audit.grim(Printed("0.19"), 28, scale=1) > ROUNDING and audit.grim(Printed("0.18"), 28, scale=1) <= ROUNDING  # means of 28 whole numbers
    for n, runs in ((0, 1), (3, 0)):
        with pytest.raises(ValueError, match="at least one"): audit.grim(Printed("50.0"), n, runs)

def test_fewest_runs():
    assert audit.first_runs([Printed("33.3"), Printed("50.0")], 3) == 2 and audit.first_runs([Printed("10.0")], 3, most=9) is None
    single, several = audit.grim_readings([Printed("50.0")], [3, 5])
    assert not single.fits and several.fits and several.name == "mean of 2 runs of 3 knees" and not several.stated
    assert len(audit.grim_readings([Printed("50.0")], [3, 4])) == 1


# accuracy and F1

def test_f1_is_the_usual_one():
    rng = np.random.default_rng(0)
    for _ in range(40):
        y, said = (rng.random((2, 30)) < rng.random((2, 1))).astype(int)
        y[:2] = 0, 1
        tp, tn, p, n = (y & said).sum(), ((1 - y) & (1 - said)).sum(), y.sum(), (1 - y).sum()
        for ours, theirs in (("positive", dict(pos_label=1)), ("negative", dict(pos_label=0)), ("macro", dict(average="macro")), ("weighted", dict(average="weighted"))):
            assert float(audit.f1_score(tp, tn, p, n, ours)) == pytest.approx(sklearn_f1(y, said, zero_division=0, **theirs))

@pytest.mark.parametrize("average", ["positive", "negative", "macro", "weighted"])
def test_every_pair_of_counts_is_possible_and_no_other(average):
    p, n = 5, 7
    tp, tn = (x.ravel() for x in np.mgrid[0:p + 1, 0:n + 1])
    accuracy, f1 = 100 * (tp + tn) / (p + n), 100 * audit.f1_score(tp, tn, p, n, average)
    for a, f in zip(accuracy, f1): assert audit.f1_counts(printed(a, 1), printed(f, 1), p, n, average)[0] <= ROUNDING
    rng = np.random.default_rng(1)
    for a, f in zip(rng.choice(accuracy, 60), rng.uniform(0, 100, 60)):
        a, f = printed(a, 1), printed(f, 1)
        brute = np.maximum(a.off(accuracy), f.off(f1)).min()
        slack, x, y = audit.f1_counts(a, f, p, n, average)
        assert slack == brute and np.maximum(a.off(100 * (x + y) / (p + n)), f.off(100 * audit.f1_score(x, y, p, n, average))) == brute

def test_f1_where_there_is_little():
    assert audit.f1_counts(Printed("100.0"), Printed("100.0"), 4, 0) == (0, 4, 0) and audit.f1_counts(Printed("60.0"), Printed("0.0"), 0, 5)[0] == 0
    assert audit.f1_counts(Printed("75.0"), Printed("90.0"), 2, 2, most=ROUNDING)[0] > ROUNDING and audit.f1_counts(Printed("74.0"), Printed("90.0"), 2, 2, most=ROUNDING) == (np.inf, -1, -1)
    with pytest.raises(ValueError, match="both 0"): audit.f1_counts(Printed("50.0"), Printed("50.0"), 0, 0)

def test_unlike_runs_are_found():
    p, n = 8, 12
    for one, two in (((8, 12), (8, 0)), ((3, 10), (7, 9)), ((4, 6), (4, 6))):
        a = [100 * sum(x) / (p + n) for x in (one, two)]
        f = [100 * float(audit.f1_score(*x, p, n)) for x in (one, two)]
        assert audit.least_spread(printed(np.mean(a), 2), printed(np.mean(f), 2), p, n) <= abs(a[0] - a[1]) + 1e-9
    assert audit.least_spread(Printed("65.00"), Printed("72.00"), p, n) > 0  # one run reaches 69.57 at most
    assert np.isnan(audit.least_spread(Printed("100.00"), Printed("90.00"), p, n))
    readings = audit.f1_readings(Printed("83.40"), Printed("84.34"), [425], [637], most=3)
    assert audit.finding(readings) == "cannot be decided" and not any(r.fits for r in readings[:-1])


# differences, twice the same

@given(st.floats(0, 100), st.floats(0, 100), st.integers(0, 3))
def test_every_difference_is_possible(a, b, decimals):
    a, b = max(a, b), min(a, b)
    assert audit.difference_slack(printed(a, 2), printed(b, 2), printed(a - b, decimals), unrounded=True) <= ROUNDING + 1e-6
    x, y = printed(a, 2), printed(b, 2)
    assert audit.difference_slack(x, y, printed(round(x.value - y.value, 2), 2)) == 0

def test_differences_and_sums_that_are_not():
    assert audit.difference_slack(Printed("89.14"), Printed("88.38"), Printed("0.78"), True) == 1
    assert audit.finding(audit.difference_readings(Printed("89.14"), Printed("88.38"), Printed("0.78"))) == "cannot be"
    assert audit.sum_slack([Printed("0.4"), Printed("0.5"), Printed("0.1")], Printed("1")) == 0 and audit.sum_slack([Printed("0.4"), Printed("0.5"), Printed("0.2")], Printed("1")) == 1

@pytest.mark.parametrize("a, b, says", [("0.80", "0.80", "can be"), ("0.80", "0.8", "can be"), ("89.14", "89.15", "cannot be decided"), ("89.14", "89.16", "cannot be"), ("89.1", "89.15", "cannot be decided")])
def test_one_number_printed_twice(a, b, says):
    assert audit.finding(audit.same_readings(Printed(a), Printed(b))) == says


# parameters

def test_counts_are_those_of_the_usual_networks():
    assert [audit.vgg_parameters(d) for d in (11, 13, 16, 19)] == [195_887_746, 196_072_642, 201_384_898, 206_697_154]
    assert [audit.resnet_parameters(d) for d in (18, 34, 50, 101, 152)] == [11_171_266, 21_279_426, 23_505_858, 42_497_986, 58_141_634]
    assert [audit.densenet_parameters(d) for d in (121, 161, 169, 201)] == [6_949_634, 26_467_010, 12_481_538, 18_090_498]
    # the published ImageNet counts: three channels, a thousand outputs
    assert audit.resnet_parameters(50, 3, 1000) == 25_557_032 and audit.densenet_parameters(121, 3, 1000) == 7_978_856 and audit.vgg_parameters(16, 49, 3, 1000) == 138_365_992
    assert audit.tiulpin_parameters() == 593_538 and audit.tiulpin_parameters(128) == 2_366_722
    assert audit.antony_parameters(norm=False) == 5_467_234 and audit.antony_parameters() - audit.antony_parameters(norm=False) == 2 * (32 + 64 + 96 + 128)

def test_own_network_is_the_built_one():
    from koa_repro.model import SiameseGAP, parameters
    assert audit.siamese_parameters() == parameters(SiameseGAP()) == 2_688_482 and audit.siamese_parameters(concat=True) == parameters(SiameseGAP(fusion="concat"))


# model, reader and truth

def all_tables(p, n):
    "Every table of truth x model x reader, as labels."
    four = lambda k: [c for c in itertools.product(range(k + 1), repeat=4) if sum(c) == k]
    for two, zero in itertools.product(four(p), four(n)):
        said = [(m, r) for (m, r), k in zip(itertools.product((0, 1), repeat=2), two) for _ in range(k)] + [(m, r) for (m, r), k in zip(itertools.product((0, 1), repeat=2), zero) for _ in range(k)]
        yield np.repeat([1, 0], (p, n)), *np.array(said).T

def test_every_table_that_exists_is_found_possible():
    P, N, seen = 3, 3, set()
    for truth, model, reader in all_tables(P, N):
        seen.add(tuple(np.bincount(4 * truth + 2 * model + reader, minlength=8)))
        rates = [dict(accuracy=printed(100 * (x == truth).mean(), 1), sensitivity=printed(100 * x[truth == 1].mean(), 1), specificity=printed(100 * (1 - x[truth == 0]).mean(), 1)) for x in (model, reader)]
        t = audit.joint_tables(P, N, *(audit.error_counts(r, P, N) for r in rates))
        wrong, b2, b0 = [(x[truth == k] != k).sum() for k in (1, 0) for x in (model, reader)], ((model == 0) & (reader == 0) & (truth == 1)).sum(), ((model == 1) & (reader == 1) & (truth == 0)).sum()
        at = (t[["model_fn", "reader_fn", "model_fp", "reader_fp", "both_fn", "both_fp"]] == [*wrong, b2, b0]).all(axis=1)
        assert at.sum() == 1
        row = t[at]
        kappa = float(audit.kappas(row, P, N)[0])
        constant = len(set(model) | set(reader)) == 1
        assert np.isnan(kappa) if constant else kappa == pytest.approx(cohen_kappa_score(model, reader))
        assert audit.kappas(row, P, N, BETWEEN[1])[0] == pytest.approx(cohen_kappa_score(truth, reader))
        for on, x, y in ((ON[0], model == truth, reader == truth), (ON[1], model == 1, reader == 0)):
            b, c = ((x & ~y).sum(), (~x & y).sum()) if on == ON[0] else ((x & y).sum(), (~x & ~y).sum())
            assert sorted((b, c)) == sorted(int(d[0]) for d in audit.discordant(row, on))
            if constant: continue
            p = float(mcnemar([[0, b], [c, 0]], exact=True).pvalue) if b + c else 1.
            readings = audit.agreement_readings(t, P, N, printed(max(kappa, 0), 2), printed(p, 2), on=[on])
            if kappa >= 0: assert readings[0].fits  # the exact one
    assert len(seen) == math.comb(P + 3, 3) * math.comb(N + 3, 3)

def test_tables_are_all_there_and_none_twice():
    P, N = 4, 3
    t = audit.joint_tables(P, N, audit.error_counts({}, P, N), audit.error_counts({}, P, N))
    assert len(t) == math.comb(P + 3, 3) * math.comb(N + 3, 3) and not t.duplicated().any()
    assert len(audit.joint_tables(P, N, np.empty((0, 2), int), audit.error_counts({}, P, N))) == 0

def test_leaving_out_like_tables_changes_nothing():
    t = audit.joint_tables(6, 6, *(audit.error_counts({"accuracy": Printed(a)}, 6, 6, 1) for a in ("75.0", "83.3")))
    few = audit._distinct(t)
    assert len(few) < len(t)
    for between, on in ((BETWEEN[0], ON[0]), (BETWEEN[0], ON[1]), (BETWEEN[1], ON[2])):
        pairs = [{(round(k, 9), round(p, 9)) for k, p in zip(audit.kappas(x, 6, 6, between), audit.mcnemar_p(*audit.discordant(x, on), HOW[0]))} for x in (t, few)]
        assert pairs[0] == pairs[1]

def test_mcnemar_is_the_usual_one():
    rng = np.random.default_rng(0)
    b, c = rng.integers(0, 40, (2, 200))
    for how, kwargs in zip(HOW, (dict(exact=True), dict(exact=False, correction=False), dict(exact=False, correction=True))):
        ours = audit.mcnemar_p(b, c, how)
        for x, y, p in zip(b, c, ours):
            if x != y: assert p == pytest.approx(mcnemar([[0, x], [y, 0]], **kwargs).pvalue)
    for how in HOW: assert audit.mcnemar_p([0, 7], [0, 7], how).tolist() == [1, 1]  # nothing discordant, and as much one way as the other

def test_what_no_table_has():
    rates = {"accuracy": Printed("90.0")}, {"accuracy": Printed("96.0")}
    t = audit.joint_tables(50, 50, *(audit.error_counts(r, 50, 50) for r in rates))
    assert audit.finding(audit.agreement_readings(t, 50, 50, Printed("0.99"), None)) == "cannot be"  # six errors more, and nearly always the same word
    assert audit.finding(audit.agreement_readings(t, 50, 50, Printed("0.88"), None)) == "can be"
    assert audit.finding(audit.agreement_readings(t, 50, 50, Printed("0.88"), Printed("0.90"), on=[ON[0]])) == "cannot be"
    assert audit.knees_needed(*rates, 50, 50, Printed("0.99"), Printed("1.00"), most=1) is None
    empty = audit.agreement_readings(t[:0], 50, 50, Printed("0.85"), Printed("0.50"))
    assert {r.slack for r in empty} == {np.inf} and audit.finding(empty) == "cannot be"

TABLE7 = {r: {c: audit.printed_numbers()[f"VII/{r}/{c}"] for c in (*audit.RATES, *(("kappa", "p") if r != "Model" else ()))} for r in ("Rad 1", "Rad 2", "Rad 3", "Model")}
RATES7 = {r: {c: v[c] for c in audit.RATES} for r, v in TABLE7.items()}

def test_a_knee_is_granted_only_to_a_rate_that_is_no_count():
    counts = {r: audit.error_counts(v, 150, 150, 1).tolist() for r, v in RATES7.items()}
    assert counts == {"Rad 1": [[13, 11], [14, 10]], "Rad 2": [[12, 8]], "Rad 3": [[12, 9], [13, 8]], "Model": [[23, 10]]}
    assert len(audit.error_counts(RATES7["Rad 2"], 150, 150, 1, every=True)) > 1
    for r, says in (("Rad 1", "cannot be"), ("Rad 2", "can be"), ("Rad 3", "can be")): # kappa against the reference is twice the accuracy less one
        t = audit.joint_tables(150, 150, np.array([[23, 10]]), np.array(counts[r])).drop_duplicates(["reader_fn", "reader_fp"])
        assert audit.finding(audit.agreement_readings(t, 150, 150, TABLE7[r]["kappa"], TABLE7[r]["p"], BETWEEN[1], ON[2:])) == says
        assert audit.kappas(t, 150, 150, BETWEEN[1]) == pytest.approx(1 - 2 * (t.reader_fn + t.reader_fp) / 300)

def test_means_over_unlike_trainings_are_found():
    "Three trainings of 23 FN and 10 FP in the mean, whose kappa and p have the printed means though no single table has them."
    for r, reader, trainings in (("Rad 1", (14, 10), ((14, 8), (38, 7), (17, 15))), ("Rad 2", (12, 8), ((18, 14), (32, 8), (19, 8))), ("Rad 3", (13, 8), ((16, 13), (38, 9), (15, 8)))):
        assert np.mean(trainings, axis=0).tolist() == [23, 10]
        args = {r: reader}, RATES7["Model"], {r: TABLE7[r]["kappa"]}, {r: TABLE7[r]["p"]}, 150, 150
        away = max(abs(100 * (1 - sum(x) / 300) - 89.2) for x in trainings)
        tables = [audit.joint_tables(150, 150, np.array([x]), np.array([reader])).query("both_fp == both_fp.max() or both_fn == both_fn.max()") for x in trainings]
        k, p = (sum(np.meshgrid(*(f(x) for x in tables))) / 3 for f in (lambda x: audit.kappas(x, 150, 150), lambda x: audit.mcnemar_p(*audit.discordant(x, ON[1]), HOW[0])))
        assert ((TABLE7[r]["kappa"].off(k) <= ROUNDING) & (TABLE7[r]["p"].off(p) <= ROUNDING)).any() # these very trainings
        assert any(audit.means_fit(*args, ON[1], how, away) for how in HOW)
        for on in ON[:2]: assert any(audit.means_fit(*args, on, how, 5) for how in HOW) and not any(audit.means_fit(*args, on, how, .1) for how in HOW)
        d = audit.training_spread({r: [reader]}, *args[1:], "decisions")
        assert 0 < d <= away and audit.mean_readings({r: [reader]}, *args[1:])[0].name.endswith("decisions") and audit.finding([Reading("one training", 2.), *audit.mean_readings({r: [reader]}, *args[1:])]) == "cannot be decided"

def test_means_against_every_mix_of_two_trainings():
    P, N, reader, rng = 3, 3, (1, 1), np.random.default_rng(0)
    t = audit.joint_tables(P, N, audit.error_counts({}, P, N), np.array([reader]))
    x = np.column_stack([100 * (1 - (t.model_fn + t.model_fp) / 6), audit.kappas(t, P, N), audit.mcnemar_p(*audit.discordant(t, ON[0]), HOW[0])])
    for i, j in rng.integers(0, len(t), (40, 2)):
        accuracy, kappa, p = (x[i] + x[j]) / 2
        if kappa < 0: continue
        accuracy, kappa, p = printed(accuracy, 1), printed(kappa, 2), printed(p, 2)
        away = max(abs(x[k, 0] - accuracy.value) for k in (i, j))
        assert audit.means_fit({"r": reader}, {"accuracy": accuracy}, {"r": kappa}, {"r": p}, P, N, ON[0], HOW[0], away)
    perfect = {"r": (0, 0)}, {"accuracy": Printed("50.0")} # kappa is then twice the accuracy less one, in every mean
    assert [audit.means_fit(*perfect, {"r": Printed(k)}, {}, P, N, ON[0], HOW[0], 50) for k in ("0.00", "0.25")] == [True, False]
    assert audit.training_spread({"r": [(0, 0)]}, perfect[1], {"r": Printed("0.25")}, {}, P, N, ON[0]) == np.inf
    assert not audit.means_fit(*perfect, {}, {}, P, N, ON[0], HOW[0], -1)

def test_one_class_absent():
    for P, N, name in ((0, 5, "sensitivity"), (5, 0, "specificity")):
        with pytest.raises(ValueError, match="class without knees"): audit.error_counts({name: Printed("80.0")}, P, N)
        with pytest.raises(ValueError, match="class without knees"): audit.rates_slack({name: Printed("80.0")}, P, N)
        assert len(audit.error_counts({"accuracy": Printed("80.0")}, P, N)) == 1
    always = audit.joint_tables(4, 0, np.array([[0, 0]]), np.array([[0, 0]]))
    assert np.isnan(audit.kappas(always, 4, 0)).all()

def test_rates_against_brute_force():
    P, N = 4, 6
    for tp, tn in itertools.product(range(P + 1), range(N + 1)):
        rates = dict(accuracy=printed(100 * (tp + tn) / 10, 1), sensitivity=printed(100 * tp / P, 1), specificity=printed(100 * tn / N, 1))
        assert audit.rates_slack(rates, P, N) <= ROUNDING and audit.balance_slack(rates, P, N) <= ROUNDING
        assert audit.error_counts(rates, P, N).tolist() == [[P - tp, N - tn]]
    off = dict(accuracy=Printed("89.2"), sensitivity=Printed("84.7"), specificity=Printed("93.3"))
    assert audit.balance_slack(off, 150, 150) == 1 and audit.rates_slack(off, 150, 150, 3) > ROUNDING


# one table against another

def test_rates_follow_from_accuracy_and_f1():
    for tp, tn, p, n in ((80, 500, 100, 600), (3, 1, 4, 2), (0, 5, 3, 5)):
        assert audit.implied_rates((tp + tn) / (p + n), float(audit.f1_score(tp, tn, p, n)), p / (p + n)) == pytest.approx((tp / p, tn / n))
    for prevalence, f1 in ((0, .5), (1, .5), (.4, 1)):
        with pytest.raises(ValueError, match="both classes"): audit.implied_rates(.8, f1, prevalence)

def test_every_curve_lies_in_its_range():
    rng = np.random.default_rng(0)
    for _ in range(200):
        y = np.arange(20) < rng.integers(1, 20)
        score = rng.normal(size=20) + rng.uniform(-1, 3) * y
        cut = np.median(score) + rng.normal() / 2
        least, concave, most = audit.auc_range((score > cut)[y].mean(), (score <= cut)[~y].mean())
        assert least - 1e-9 <= roc_auc_score(y, score) <= most + 1e-9 and least <= concave <= most

def test_chance_of_a_draw_by_enumeration():
    right = np.array([1, 1, 1, 0, 0, 0, 0])
    draws = np.array([right[list(c)].sum() for c in itertools.combinations(range(7), 3)])
    for k in range(4): assert audit.draw_chance(k, 3, 3, 7) == pytest.approx((abs(draws - 9 / 7) >= abs(k - 9 / 7) - 1e-9).mean())
    assert audit.draw_chance(3, 3, 2, 7) == 0
    with pytest.raises(ValueError, match="exceed"): audit.draw_chance(2, 3, 8, 7)


# sentences

def test_sentences_are_tidy_and_name_cells_that_exist():
    number, table = audit.printed_numbers(), pd.read_csv(manifests() / "paper_sentences.csv", dtype=str, keep_default_na=False)
    assert table.id.is_unique and (table[["section", "sentence", "meaning", "asks"]] != "").all(axis=None) and not table.duplicated(["sentence", "meaning"]).any()
    found = {r.id: (audit.finding(audit.sentence_readings(r, number)[0]), r.meaning) for r in table.itertuples()}
    says = {meaning: finding for finding, meaning in found.values()}
    assert says["GAP above GMP in every row"] == says["each reader's specificity above the model's"] == says["7:2:1 above both other ratios at every smoothing level"] == "cannot be"
    assert says["7:2:1 above both in the mean over the smoothing levels"] == says["accuracy above the sixteen others"] == says["each reader's sensitivity above the model's"] == "can be"
    assert says["every printed kappa is above 0.85"] == "cannot be decided" and {f for f, _ in found.values()} == set(FINDINGS)

def test_a_clause_counts_once_whatever_it_may_mean():
    number, table = audit.printed_numbers(), pd.read_csv(manifests() / "paper_sentences.csv", dtype=str, keep_default_na=False)
    assert table.stated.isin(["yes", "no"]).all() and (table.groupby("clause").stated.first() == "yes").all() and (table.groupby("clause").sentence.nunique() == 1).all()
    assert table.clause.isin(table.id).all() and table[table.clause == table.id].clause.is_unique
    says = {clause: audit.finding(audit.clause_readings(list(rows.itertuples()), number)[0]) for clause, rows in table.groupby("clause")}
    assert len(says) == 49 and {c: says[c] for c in ("S10", "S28", "S31", "S45")} == dict(S10="can be", S28="cannot be decided", S31="can be", S45="cannot be decided")
    assert {c for c, f in says.items() if f == "cannot be"} == {"S04", "S08"}
    rows = list(table[table.clause == "S45"].assign(stated="no").itertuples())
    with pytest.raises(ValueError, match="no meaning is stated"): audit.clause_readings(rows, number)
    worse = audit.clause_readings(list(table[table.id == "S32"].assign(stated="yes").itertuples()), number)[0]
    assert audit.finding(worse) == "cannot be" # alone, every level at every ratio is not borne out

def test_questions_by_hand():
    number = {f"T/{r}/x": Printed(v) for r, v in dict(a="1.0", b="1.0", c="0.9", d="1.1").items()}
    def ask(asks, left, right="", value=""): return audit.finding(audit.sentence_readings(pd.Series(dict(asks=asks, left=left, right=right, value=value)), number)[0])
    assert [ask("above all", "T/d/x", "T/*/x"), ask("above all", "T/a/x", "T/*/x"), ask("above all", "T/a/x", "T/[bc]/x")] == ["can be", "cannot be", "cannot be decided"]
    assert [ask("above in pairs", "T/d/x|T/a/x", "T/a/x|T/c/x"), ask("above in pairs", "T/d/x|T/c/x", "T/a/x|T/b/x")] == ["can be", "cannot be"]
    assert [ask("mean above", "T/[ad]/x", "T/[bc]/x"), ask("mean above", "T/[bc]/x", "T/[ad]/x"), ask("mean above", "T/a/x", "T/b/x|T/c/x")] == ["can be", "cannot be", "cannot be decided"]
    assert [ask("at least", "T/*/x", value="0.9"), ask("at least", "T/*/x", value="1.0")] == ["can be", "cannot be"]
    assert [ask("sum", "T/a/x|T/b/x|T/c/x", value="2.9"), ask("sum", "T/a/x|T/b/x", value="2.5"), ask("difference", "T/d/x", "T/c/x", "0.2"), ask("difference", "T/d/x", "T/c/x", "0.5")] == ["can be", "cannot be"] * 2
    assert [ask("range", "T/*/x", value="0.9 1.1"), ask("range", "T/*/x", value="0.7 1.1"), ask("nothing printed", "")] == ["can be", "cannot be", "cannot be decided"]
    with pytest.raises(ValueError, match="No printed number is called 'T/e/x'"): ask("above all", "T/a/x|T/e/x", "T/b/x")
    with pytest.raises(ValueError, match="not known"): ask("beneath", "T/a/x")
    with pytest.raises(ValueError): ask("above in pairs", "T/a/x|T/b/x", "T/c/x")


# the notebook

def test_the_audit_reads_no_knee_and_no_run():
    "So it is the same for every profile and set of knees: `study` names the folder and its title, nothing else."
    code = "\n".join("".join(c["source"]) for c in json.loads((repository() / "nbs" / "40_audit.ipynb").read_text())["cells"] if c["cell_type"] == "code")
    import re
    assert set(re.findall(r"study\.(\w+)", code)) <= {"target", "says"} and not re.search(r"rows_of|study_runs|load_knees|study_knees|\bfit\(", code)
    assert audit.audit_tables([audit.item("x", "y", "1", [Reading("a", 0)])])[0].columns.tolist() == ["check", "what", "printed", "finding", "reading", "units", "chance", "note"]
