"""koa_repro.beyond.audit: Table VII of the paper, its sentences, and the parameter counts of its
networks.
"""

import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from koa_repro import printed
from koa_repro.beyond import audit
from koa_repro.paths import manifests, repository
from koa_repro.printed import BETWEEN, FINDINGS, HOW, ON, ROUNDING, Printed, Reading

# parameters


def test_counts_are_those_of_the_usual_networks():
    assert [audit.vgg_parameters(d) for d in (11, 13, 16, 19)] == [
        195_887_746,
        196_072_642,
        201_384_898,
        206_697_154,
    ]
    assert [audit.resnet_parameters(d) for d in (18, 34, 50, 101, 152)] == [
        11_171_266,
        21_279_426,
        23_505_858,
        42_497_986,
        58_141_634,
    ]
    assert [audit.densenet_parameters(d) for d in (121, 161, 169, 201)] == [
        6_949_634,
        26_467_010,
        12_481_538,
        18_090_498,
    ]
    # the published ImageNet counts: three channels, a thousand outputs
    assert (
        audit.resnet_parameters(50, 3, 1000) == 25_557_032
        and audit.densenet_parameters(121, 3, 1000) == 7_978_856
        and audit.vgg_parameters(16, 49, 3, 1000) == 138_365_992
    )
    assert audit.tiulpin_parameters() == 593_538 and audit.tiulpin_parameters(128) == 2_366_722
    assert audit.antony_parameters(
        norm=False
    ) == 5_467_234 and audit.antony_parameters() - audit.antony_parameters(norm=False) == 2 * (
        32 + 64 + 96 + 128
    )


def test_own_network_is_the_built_one():
    from koa_repro.model import SiameseGAP, parameters

    assert audit.siamese_parameters() == parameters(
        SiameseGAP()
    ) == 2_688_482 and audit.siamese_parameters(concat=True) == parameters(
        SiameseGAP(fusion="concat")
    )


# Table VII

TABLE7 = {
    r: {
        c: printed.printed_numbers()[f"VII/{r}/{c}"]
        for c in (*printed.RATES, *(("kappa", "p") if r != "Model" else ()))
    }
    for r in ("Rad 1", "Rad 2", "Rad 3", "Model")
}
RATES7 = {r: {c: v[c] for c in printed.RATES} for r, v in TABLE7.items()}


def test_a_knee_is_granted_only_to_a_rate_that_is_no_count():
    counts = {r: printed.error_counts(v, 150, 150, 1).tolist() for r, v in RATES7.items()}
    assert counts == {
        "Rad 1": [[13, 11], [14, 10]],
        "Rad 2": [[12, 8]],
        "Rad 3": [[12, 9], [13, 8]],
        "Model": [[23, 10]],
    }
    assert len(printed.error_counts(RATES7["Rad 2"], 150, 150, 1, every=True)) > 1
    for r, says in (
        ("Rad 1", "cannot be"),
        ("Rad 2", "can be"),
        ("Rad 3", "can be"),
    ):  # kappa against the reference is twice the accuracy less one
        t = printed.joint_tables(
            150, 150, np.array([[23, 10]]), np.array(counts[r])
        ).drop_duplicates(["reader_fn", "reader_fp"])
        assert (
            printed.finding(
                printed.agreement_readings(
                    t, 150, 150, TABLE7[r]["kappa"], TABLE7[r]["p"], BETWEEN[1], ON[2:]
                )
            )
            == says
        )
        assert printed.kappas(t, 150, 150, BETWEEN[1]) == pytest.approx(
            1 - 2 * (t.reader_fn + t.reader_fp) / 300
        )


def test_means_over_unlike_trainings_are_found():
    """Three trainings of 23 FN and 10 FP in the mean, whose kappa and p have the printed
    means though no single table has them."""
    for r, reader, trainings in (
        ("Rad 1", (14, 10), ((14, 8), (38, 7), (17, 15))),
        ("Rad 2", (12, 8), ((18, 14), (32, 8), (19, 8))),
        ("Rad 3", (13, 8), ((16, 13), (38, 9), (15, 8))),
    ):
        assert np.mean(trainings, axis=0).tolist() == [23, 10]
        args = {r: reader}, RATES7["Model"], {r: TABLE7[r]["kappa"]}, {r: TABLE7[r]["p"]}, 150, 150
        away = max(abs(100 * (1 - sum(x) / 300) - 89.2) for x in trainings)
        tables = [
            printed.joint_tables(150, 150, np.array([x]), np.array([reader])).query(
                "both_fp == both_fp.max() or both_fn == both_fn.max()"
            )
            for x in trainings
        ]
        k, p = (
            sum(np.meshgrid(*(f(x) for x in tables))) / 3
            for f in (
                lambda x: printed.kappas(x, 150, 150),
                lambda x: printed.mcnemar_p(*printed.discordant(x, ON[1]), HOW[0]),
            )
        )
        assert (
            (TABLE7[r]["kappa"].off(k) <= ROUNDING) & (TABLE7[r]["p"].off(p) <= ROUNDING)
        ).any()  # these very trainings
        assert any(printed.means_fit(*args, ON[1], how, away) for how in HOW)
        for on in ON[:2]:
            assert any(printed.means_fit(*args, on, how, 5) for how in HOW) and not any(
                printed.means_fit(*args, on, how, 0.1) for how in HOW
            )
        d = printed.training_spread({r: [reader]}, *args[1:], "decisions")
        assert (
            0 < d <= away
            and printed.mean_readings({r: [reader]}, *args[1:])[0].name.endswith("decisions")
            and printed.finding(
                [Reading("one training", 2.0), *printed.mean_readings({r: [reader]}, *args[1:])]
            )
            == "cannot be decided"
        )


# one table against another


def test_rates_follow_from_accuracy_and_f1():
    for tp, tn, p, n in ((80, 500, 100, 600), (3, 1, 4, 2), (0, 5, 3, 5)):
        assert audit.implied_rates(
            (tp + tn) / (p + n), float(printed.f1_score(tp, tn, p, n)), p / (p + n)
        ) == pytest.approx((tp / p, tn / n))
    for prevalence, f1 in ((0, 0.5), (1, 0.5), (0.4, 1)):
        with pytest.raises(ValueError, match="both classes"):
            audit.implied_rates(0.8, f1, prevalence)


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
    for k in range(4):
        assert audit.draw_chance(k, 3, 3, 7) == pytest.approx(
            (abs(draws - 9 / 7) >= abs(k - 9 / 7) - 1e-9).mean()
        )
    assert audit.draw_chance(3, 3, 2, 7) == 0
    with pytest.raises(ValueError, match="exceed"):
        audit.draw_chance(2, 3, 8, 7)


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
    assert len(says) == 49 and {c: says[c] for c in ("S10", "S28", "S31", "S45")} == dict(
        S10="can be", S28="cannot be decided", S31="can be", S45="cannot be decided"
    )
    assert {c for c, f in says.items() if f == "cannot be"} == {"S04", "S08"}
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
    assert [
        ask("sum", "T/a/x|T/b/x|T/c/x", value="2.9"),
        ask("sum", "T/a/x|T/b/x", value="2.5"),
        ask("difference", "T/d/x", "T/c/x", "0.2"),
        ask("difference", "T/d/x", "T/c/x", "0.5"),
    ] == ["can be", "cannot be"] * 2
    assert [
        ask("range", "T/*/x", value="0.9 1.1"),
        ask("range", "T/*/x", value="0.7 1.1"),
        ask("nothing printed", ""),
    ] == ["can be", "cannot be", "cannot be decided"]
    with pytest.raises(ValueError, match="No printed number is called 'T/e/x'"):
        ask("above all", "T/a/x|T/e/x", "T/b/x")
    with pytest.raises(ValueError, match="not known"):
        ask("beneath", "T/a/x")
    for bad in (
        ("equal", "T/a/x|T/c/x", "1.0"),
        ("equal", "T/a/x", "1.0 9.9"),
        ("range", "T/*/x", "0.9"),
    ):
        with pytest.raises(ValueError, match="give one each"):
            ask(bad[0], bad[1], value=bad[2])
    with pytest.raises(ValueError):
        ask("above in pairs", "T/a/x|T/b/x", "T/c/x")


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
    assert audit.audit_tables([printed.item("x", "y", "1", [Reading("a", 0)])])[
        0
    ].columns.tolist() == [
        "check",
        "what",
        "printed",
        "finding",
        "reading",
        "units",
        "chance",
        "note",
    ]
