"""koa_repro.beyond.audit: where Table VII's kappa and p can come from, and all other checks."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from koa_repro import printed
from koa_repro.beyond import audit
from koa_repro.beyond.audit import COMPARED, READERS
from koa_repro.paths import manifests, repository
from koa_repro.printed import FINDINGS, HOW, ON, Printed, Reading

# Table VII

NUMBER = printed.printed_numbers()


@pytest.fixture(scope="module")
def origins():
    return audit.search(*audit.table7(NUMBER))


def test_the_printed_pairs_are_those_of_reader_and_reference(origins):
    named = origins[origins.together > 0]
    assert named[["compared", "on", "form"]].to_numpy().tolist() == [
        ["reader and reference", "decisions", "chi-square"]
    ]
    assert audit.solved(origins) == dict(zip(READERS, ((13, 10), (12, 8), (12, 9))))
    assert (named[[*READERS]] == 1).all(axis=None)
    others = origins[origins.compared == "model and reader"]
    assert len(others) == 8 and (others[[*READERS]] == 0).all(axis=None)


def test_with_a_second_knee_other_origins_come_in():
    found = audit.search(*audit.table7(NUMBER), knees=2)
    named = found[found.together > 0]
    assert named.compared.tolist() == ["reader and reference", "model and reader"]
    assert named.chance.is_monotonic_increasing


def as_printed(x, decimals=2):
    return Printed(f"{max(x, 0):.{decimals}f}")


def made_up(rng, n=150):
    "Grades of three readers, a model and the reference, who find the same knees hard."
    truth, hard = np.repeat([1, 0], n), rng.random(2 * n)
    said = {"reference": truth}
    for who in (*READERS, "Model"):
        order = np.argsort(hard + rng.normal(0, 0.3, 2 * n))
        said[who] = truth.copy()
        for grade in (0, 1):
            wrong = order[truth[order] == grade][: rng.integers(5, 30)]
            said[who][wrong] = 1 - grade
    return said


def printed_rates(said):
    truth = said["reference"]
    return {
        who: dict(
            accuracy=as_printed(100 * (x == truth).mean(), 1),
            sensitivity=as_printed(100 * x[truth == 1].mean(), 1),
            specificity=as_printed(100 * (1 - x[truth == 0]).mean(), 1),
        )
        for who, x in said.items()
        if who != "reference"
    }


def printed_pair(truth, a, b, on, how):
    x, y = (a == truth, b == truth) if on == "correctness" else (a == 1, b == 1)
    p = float(printed.mcnemar_p((x & ~y).sum(), (~x & y).sum(), how))
    return as_printed(cohen_kappa_score(a, b)), as_printed(p)


def test_made_up_tables_are_traced_to_where_they_come_from():
    rng, first, form = np.random.default_rng(0), [], []
    for compared, ways in COMPARED.items():
        for on, how in ((on, how) for on in ON for how in HOW):
            if compared == "reader and reference" and on == "correctness":
                continue
            said = made_up(rng)
            pairs = {
                r: printed_pair(said["reference"], said[r], said[o], on, how)
                for r, o in zip(READERS, ways[0])
            }
            kappa, p = ({r: pair[i] for r, pair in pairs.items()} for i in (0, 1))
            found = audit.search(printed_rates(said), kappa, p, 150, 150)
            named = found[found.together > 0]
            own = (named.compared == compared) & (named.on == on) & (named.form == how)
            assert own.any()  # whatever else has the same numbers
            first.append(named.compared.iloc[0] == compared)
            form.append(own.iloc[0])
    # the forms often print the same p, and so do decisions and correctness
    assert np.mean(first) >= 0.9 and np.mean(form) >= 0.4


def test_random_numbers_are_traced_to_nothing(origins):
    rates, *_, positives, negatives = audit.table7(NUMBER)
    promised = origins.chance.sum()  # at most this share finds an origin
    rng, named, tries = np.random.default_rng(1), 0, 40
    for _ in range(tries):
        kappa, p = (
            {r: as_printed(rng.integers(low, 101) / 100) for r in READERS} for low in (61, 0)
        )
        named += (audit.search(rates, kappa, p, positives, negatives).together > 0).any()
    assert promised < 0.005 and named <= 1


def test_the_chance_is_the_share_of_pairs_that_find_a_table():
    "Two knees of either grade and no rates: every pair of two decimals is tried."
    who, n = dict.fromkeys((*READERS, "Model"), {}), 2
    one, some = audit.READERS[0], {r: Printed("0.50") for r in READERS}
    pairs = audit.pair_tables(who, n, n)
    t = pairs[one, "reference"]
    k, q = printed.kappas(t, n, n), printed.mcnemar_p(*printed.discordant(t, "decisions"), HOW[2])
    grid = audit.pair_counts(k, q)
    for i, j in np.random.default_rng(2).integers(0, 101, (200, 2)).tolist() + [[50, 31], [50, 32]]:
        a, b = (Printed(f"{x / 100:.2f}") for x in (i, j))
        assert grid[i, j] == (audit.shows(a, k) & audit.shows(b, q)).sum()
    found = audit.search(who, some, some, n, n).set_index(["compared", "form"]).chance
    low = 100 * max(0, np.nanmin(np.concatenate([printed.kappas(x, n, n) for x in pairs.values()])))
    share = (grid[round(low) :] > 0).mean()
    assert found["reader and reference", HOW[2]] == pytest.approx(share**3)


def test_rounding_and_cutting():
    p, x = Printed("0.53"), np.array([0.5249, 0.525, 0.53, 0.5399, 0.54])
    assert audit.shows(p, x).tolist() == [False, True, True, True, False]


# one table against another


def test_rates_follow_from_accuracy_and_f1():
    for tp, tn, p, n in ((80, 500, 100, 600), (3, 1, 4, 2), (0, 5, 3, 5)):
        assert audit.implied_rates(
            (tp + tn) / (p + n), float(printed.f1_score(tp, tn, p, n)), p / (p + n)
        ) == pytest.approx((tp / p, tn / n))
    for prevalence, f1 in ((0, 0.5), (1, 0.5), (0.4, 1)):
        with pytest.raises(ValueError, match="both classes"):
            audit.implied_rates(0.8, f1, prevalence)
    for f1 in (0.9, 1):
        with pytest.raises(ValueError, match="accuracy"):
            audit.implied_rates(1, f1, 0.5)


# sentences


def test_sentences_are_tidy_and_name_cells_that_exist():
    number, table = (
        printed.printed_numbers(),
        pd.read_csv(manifests() / "paper_sentences.csv", dtype=str, keep_default_na=False),
    )
    assert (
        table.id.is_unique
        and (table[["section", "sentence", "meaning", "asks"]] != "").all(axis=None)
        and not table.duplicated(["sentence", "meaning"]).any()
    )
    found = {
        r.id: (printed.finding(audit.sentence_readings(r, number)[0]), r.meaning)
        for r in table.itertuples()
    }
    says = {meaning: finding for finding, meaning in found.values()}
    assert (
        says["GAP above GMP in every row"]
        == says["each reader's specificity above the model's"]
        == says["7:2:1 above both other ratios at every smoothing level"]
        == "cannot be"
    )
    assert (
        says["7:2:1 above both in the mean over the smoothing levels"]
        == says["accuracy above the sixteen others"]
        == says["each reader's sensitivity above the model's"]
        == "can be"
    )
    assert says["every printed kappa is above 0.85"] == "cannot be decided" and {
        f for f, _ in found.values()
    } == set(FINDINGS)


def test_a_clause_counts_once_whatever_it_may_mean():
    number, table = (
        printed.printed_numbers(),
        pd.read_csv(manifests() / "paper_sentences.csv", dtype=str, keep_default_na=False),
    )
    assert (
        table.stated.isin(["yes", "no"]).all()
        and (table.groupby("clause").stated.first() == "yes").all()
        and (table.groupby("clause").sentence.nunique() == 1).all()
    )
    assert table.clause.isin(table.id).all() and table[table.clause == table.id].clause.is_unique
    says = {
        clause: printed.finding(audit.clause_readings(list(rows.itertuples()), number)[0])
        for clause, rows in table.groupby("clause")
    }
    assert len(says) == 38 and {c: says[c] for c in ("S10", "S28", "S31", "S45")} == dict(
        S10="can be", S28="cannot be decided", S31="can be", S45="cannot be decided"
    )
    assert {c for c, f in says.items() if f == "cannot be"} == {"S04"}
    rows = list(table[table.clause == "S45"].assign(stated="no").itertuples())
    with pytest.raises(ValueError, match="no meaning is stated"):
        audit.clause_readings(rows, number)
    worse = audit.clause_readings(
        list(table[table.id == "S32"].assign(stated="yes").itertuples()), number
    )[0]
    assert (
        printed.finding(worse) == "cannot be"
    )  # alone, every level at every ratio is not borne out


def test_questions_by_hand():
    number = {f"T/{r}/x": Printed(v) for r, v in dict(a="1.0", b="1.0", c="0.9", d="1.1").items()}

    def ask(asks, left, right="", value=""):
        return printed.finding(
            audit.sentence_readings(
                pd.Series(dict(asks=asks, left=left, right=right, value=value)), number
            )[0]
        )

    assert [
        ask("above all", "T/d/x", "T/*/x"),
        ask("above all", "T/a/x", "T/*/x"),
        ask("above all", "T/a/x", "T/[bc]/x"),
    ] == ["can be", "cannot be", "cannot be decided"]
    assert [
        ask("above in pairs", "T/d/x|T/a/x", "T/a/x|T/c/x"),
        ask("above in pairs", "T/d/x|T/c/x", "T/a/x|T/b/x"),
    ] == ["can be", "cannot be"]
    assert [
        ask("mean above", "T/[ad]/x", "T/[bc]/x"),
        ask("mean above", "T/[bc]/x", "T/[ad]/x"),
        ask("mean above", "T/a/x", "T/b/x|T/c/x"),
    ] == ["can be", "cannot be", "cannot be decided"]
    assert [ask("at least", "T/*/x", value="0.9"), ask("at least", "T/*/x", value="1.0")] == [
        "can be",
        "cannot be",
    ]
    assert ask("nothing printed", "") == "cannot be decided"
    with pytest.raises(ValueError, match="No printed number is called 'T/e/x'"):
        ask("above all", "T/a/x|T/e/x", "T/b/x")
    with pytest.raises(ValueError, match="not known"):
        ask("beneath", "T/a/x")
    with pytest.raises(ValueError):
        ask("above in pairs", "T/a/x|T/b/x", "T/c/x")


# the checks together


def failing(origins, **other):
    "Names of what fails with some numbers printed otherwise."
    number = NUMBER | {k: Printed(v) for k, v in other.items()}
    return audit.audit_tables(audit.all_checks(number, origins))[1]


def test_five_contradictions_each_once_and_each_can_go(origins):
    found = failing(origins).set_index("name")
    assert found.index.tolist() == list(audit.NAMES.values()) and (found.says != "").all()
    assert "474.7" in found.says["F1 of Nasser's network"]
    repaired = failing(
        origins.assign(together=1),
        **{
            "IV/Nasser/f1": "80.00",
            "text/gap P4/accuracy": "87.51",
            "III/gmp P3+P4/accuracy": "87.10",
            "VII/Model/accuracy": "89.0",
            "text/Model/accuracy": "89.0",
        },
    )
    assert repaired.empty


def test_new_contradictions_are_found(origins):
    other = {
        "VI/Ours/difference": "0.90",
        "text/weights searched/sum": "1.1",
        "text/Ours/auc": "0.50",
        "IV/VGG-11/parameters": "132.86",
        "VII/Rad 2/sensitivity": "90.0",
        "V/8:1:1 eps 0.2/f1": "40.00",
    }
    fails = set(failing(origins, **other).name)
    assert {
        "Table VI, Ours, difference",
        "Table V, 7:2:1 eps 0.1, weights",
        "binary AUC of Ours, with accuracy and F1",
        "Table IV, VGG-11, parameters",
        "Table VII, Rad 2, rates",
        "Table V, 8:1:1 eps 0.2",
    } <= fails


# the tables, the notebook


def test_nothing_is_checked_twice():
    twice = [printed.item("x", "y", "1", [Reading("a", 0)])] * 2
    with pytest.raises(ValueError, match="checked twice"):
        audit.audit_tables(twice)


def test_the_audit_reads_no_knee_and_no_run():
    """So it is the same for every profile and set of knees: `study` names the folder and its
    title, nothing else."""
    code = "\n".join(
        "".join(c["source"])
        for c in json.loads((repository() / "nbs" / "beyond/audit.ipynb").read_text())["cells"]
        if c["cell_type"] == "code"
    )
    assert set(re.findall(r"study\.(\w+)", code)) <= {"target", "says"} and not re.search(
        r"rows_of|study_runs|load_knees|study_knees|\bfit\(", code
    )
