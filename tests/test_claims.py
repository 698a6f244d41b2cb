"""koa_repro.claims: the rules of the plan written out anew, and the paper's printed numbers
against one another.
"""

import csv
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koa_repro import claims
from koa_repro.paths import manifests
from koa_repro.results import answer, claim_line
from koa_repro.stats import Interval, paired_difference

quick = settings(max_examples=40, deadline=None)


def interval(low, high, seeds=3):
    return Interval((low + high) / 2, low, high, np.nan, 0.95, seeds, "")


@quick
@given(st.floats(-0.1, 0.1), st.floats(0, 0.1), st.sampled_from([0, 0.01, 0.05]))
def test_verdicts_follow_the_plan(low, width, margin):
    # "one seed, or an interval that holds both 0 and the margin: not decided", written out anew
    high, i = low + width, interval(low, low + width)
    inside = lambda x: low <= x <= high
    expected = "holds" if low > 0 else "not decided" if inside(0) and inside(margin) else "fails"
    assert claims.decide(i, "above", margin) == expected
    assert claims.decide(interval(-high, -low), "below", margin) == expected
    expected = (
        "holds"
        if -margin < low and high < margin
        else "fails"
        if low >= margin or high <= -margin
        else "not decided"
    )
    if margin and inside(0) and (inside(margin) or inside(-margin)):
        assert expected == "not decided"
    assert claims.decide(i, "inside", margin) == expected
    assert claims.decide(interval(low + 0.85, high + 0.85), "reaches", 0.85) == (
        "holds" if low + 0.85 >= 0.85 else "not decided" if high + 0.85 >= 0.85 else "fails"
    )
    expected = "holds" if low > -margin else "fails" if high <= -margin else "not decided"
    assert claims.decide(i, "non-inferior", margin) == expected
    for rule in ("above", "inside", "non-inferior", "exceeds", "contains"):
        assert claims.decide(interval(low, high, seeds=1), rule, margin) == "not decided"
        assert claims.decide(i, rule, margin, allowed=False) == "no verdict"


def test_verdict_edges():
    assert (
        claims.decide(interval(-0.012, 0.004), "inside", 0.01)
        == claims.decide(interval(-0.004, 0.012), "inside", 0.01)
        == "not decided"
    )
    assert claims.decide(interval(np.nan, np.nan)) == "not decided"
    assert claims.together([]) == "not decided" and claims.together(["holds", "holds"]) == "holds"
    assert (
        claims.together(["holds", "not decided", "fails"]) == "fails"
        and claims.together(["holds", "no verdict"]) == "no verdict"
    )
    assert claims.decide(interval(0.88, 0.93), "contains", reference=0.90) == "holds"
    assert claims.decide(interval(0.91, 0.93), "contains", reference=0.90) == "fails"
    with pytest.raises(ValueError, match="Unknown rule"):
        claims.decide(interval(0, 1), "beyond")
    with pytest.raises(ValueError, match="C99"):
        claims.claim("C99")


def test_every_claim_has_its_rule_or_is_known_to_need_several():
    ids = pd.read_csv(manifests() / "claims.csv").id
    assert set(ids) - set(claims.RULES) == {"C19", "C20", "C22"} and set(claims.RULES) <= set(ids)
    for id in claims.RULES:
        assert claims.verdict(id, interval(-9, 9)) == "not decided"
    assert claims.claim("C04").margin == 0.01


@pytest.mark.parametrize(
    "id, ends, expected",
    [
        ("C01", (0.002, 0.02), "holds"),
        ("C01", (-0.01, 0.02), "not decided"),
        ("C01", (-0.02, -0.001), "fails"),
        ("C15", (0.001, 0.02), "holds"),
        ("C15", (-0.004, 0.012), "not decided"),
        ("C15", (-0.006, 0.004), "not decided"),
        ("C15", (-0.006, -0.004), "fails"),
        ("C04", (-0.006, 0.007), "holds"),
        ("C04", (-0.004, 0.012), "not decided"),
        ("C04", (0.012, 0.03), "fails"),
        ("C04", (-0.03, -0.012), "fails"),
        ("C04", (0.002, 0.015), "not decided"),
        ("C04", (0.005, 0.02), "not decided"),
        ("C04", (-0.02, -0.005), "not decided"),
        ("C17", (-0.03, 0.01), "holds"),
        ("C17", (-0.06, 0.01), "not decided"),
        ("C17", (-0.08, -0.06), "fails"),
        ("C17", (-0.06, -0.01), "not decided"),
        ("C10", (0.83, 0.87), "holds"),
        ("C10", (0.80, 0.86), "not decided"),
        ("C10", (0.90, 0.93), "fails"),
        ("C10", (0.87, 0.89), "not decided"),
        ("C10", (0.81, 0.83), "not decided"),
        ("C11", (-0.02, -0.01), "holds"),
        ("C16", (0.85, 0.9), "holds"),
        ("C16", (0.8, 0.9), "not decided"),
        ("C21", (0.9, 0.94), "fails"),
    ],
)
def test_verdicts_of_the_claims(id, ends, expected):
    assert (
        claims.verdict(id, interval(*ends)) == claims.verdict(id, [interval(*ends)] * 2) == expected
    )
    assert claims.verdict(id, interval(*ends, seeds=1)) == "not decided"
    assert claims.verdict(id, interval(*ends), allowed=False) == "no verdict"


def test_families():
    clear, unclear, worse = (interval(*x) for x in ((0.01, 0.02), (-0.01, 0.02), (-0.02, -0.01)))
    assert (
        claims.verdict("C02", dict(a=clear, b=clear)) == "holds"
        and claims.verdict("C02", []) == "not decided"
    )
    assert (
        claims.verdict("C02", [clear, unclear]) == "not decided"
        and claims.verdict("C02", [clear, unclear, worse]) == "fails"
    )
    for id in ("C19", "C20", "C22"):
        with pytest.raises(ValueError, match=id):
            claims.verdict(id, clear, allowed=False)


def test_a_family_does_not_fail_by_one_member_at_five_percent():
    x, noise = (np.random.default_rng(k).normal(0, 1, (4, 400)) for k in (3, 4))
    moved = lambda by: paired_difference(x + noise + by, x, n=2000)
    none, surely = moved(0), 1 - 0.05 / 3
    just = moved(-(none.high + none.at(surely).high) / 2)  # below 0 at 95%, and not at 98.3%
    clear, far = moved(5), moved(-5)
    assert just.high < 0 < just.at(surely).high and claims.verdict("C09", [just]) == "fails"
    assert claims.verdict("C09", [just, clear, clear]) == "not decided"
    assert claims.verdict("C09", [far, clear, clear]) == "fails"
    assert claims.verdict("C09", [clear, clear, clear]) == "holds"


@quick
@given(
    st.sampled_from(["above", "below", "inside", "non-inferior", "reaches", "exceeds"]),
    st.floats(-0.1, 0.1),
    st.floats(0, 0.1),
    st.sampled_from([0.01, 0.05]),
    st.floats(0, 1),
)
def test_nothing_fails_that_is_still_possible(rule, low, width, margin, share):
    """Where a claim fails, no value of the interval, taken for the truth and known exactly,
    would have it hold."""
    truth = low + share * width
    if claims.decide(interval(low, low + width), rule, margin) == "fails" and rule in (
        "inside",
        "non-inferior",
        "reaches",
        "exceeds",
    ):
        assert claims.decide(interval(truth, truth), rule, margin) != "holds"
    if claims.decide(interval(low, low + width), rule, margin) == "holds":
        assert claims.decide(interval(truth, truth), rule, margin) == "holds"


def test_single_trainings_are_named_among_others():
    said = claims.one_training(
        dict(Antony=interval(0, 1, 3), Nasser=interval(0, 1, 1), Tiulpin=None)
    )
    assert "Nasser" in said and "Antony" not in said and "Tiulpin" not in said
    assert claims.one_training(dict(Antony=interval(0, 1, 2))) == claims.one_training({}) == ""


@quick
@given(
    st.sampled_from(["above", "below", "inside", "non-inferior", "reaches", "exceeds", "contains"]),
    *[st.floats(-0.05, 0.05)] * 4,
    st.sampled_from([0.0, 0.01]),
)
def test_a_verdict_needs_both_intervals(rule, a, b, c, d, margin):
    one, other = interval(*sorted((a, b))), interval(*sorted((c, d)))
    alone = {claims.decide(i, rule, margin) for i in (one, other)}
    expected = alone.pop() if len(alone) == 1 else "not decided"
    for x, y in ((one, other), (other, one)):
        assert claims.decide(replace(x, resampled=y), rule, margin) == expected


def test_a_finding_that_rests_on_two_seeds_is_not_decided():
    "Two seeds that agree well by resampling, and whose Student's interval is wide."
    x = np.random.default_rng(0).random((2, 200))
    found = paired_difference(x + [[0.05], [0.03]], x, n=999)
    assert found.resampled.low > 0 > found.low
    assert claims.verdict("C06", found.resampled) == "holds"
    assert claims.verdict("C06", found) == "not decided"


def test_an_amended_claim_says_so():
    listed = claims.claim("C15")
    assert listed.amended and float(listed.margin) == 0 and claims.claim("C01").amended == ""
    study = SimpleNamespace(verdict=True, published=False, withheld="")
    lines = [claim_line(id, "", interval(0.01, 0.02), study) for id in ("C01", "C15")]
    assert listed.amended in lines[1]["holds_when"] and lines[1]["verdict"] == "holds"
    assert lines[0]["holds_when"] == claims.claim("C01").holds_when
    text = answer(pd.DataFrame(lines), study).data
    assert text.count(listed.amended) == 1 and "C01 was amended" not in text


def test_bootstrapped_intervals_that_decide_nothing():
    x = (np.arange(40) % 5 > 0).astype(float)
    one = paired_difference(x, x[::-1], clusters=np.arange(40) // 2, n=999)  # one seed
    assert one.seeds == 1 and claims.decide(one) == "not decided"
    same = paired_difference(
        np.stack([x, x]), np.stack([x, x]), n=999
    )  # two seeds, and no difference at all
    assert (same.low, same.high) == (0, 0) and claims.decide(same) == "not decided"


# the paper's numbers


def test_paper_numbers_are_tidy_and_fit_one_another():
    table = claims.paper_numbers()
    assert not table.duplicated(["table", "row", "column"]).any() and (
        table[["row", "column", "unit", "section"]] != ""
    ).all(axis=None)
    assert table.groupby("table").size().drop("text").to_dict() == {
        "III": 12,
        "IV": 51,
        "V": 60,
        "VI": 21,
        "VII": 18,
    }
    with open(manifests() / "paper_numbers.csv", newline="") as f:
        assert all(re.fullmatch(r"\d+(\.\d+)?", row["value"]) for row in csv.DictReader(f))
    six = claims.paper_numbers("VI").pivot(index="row", columns="column", values="value")
    assert (six["accuracy hybrid"] - six["accuracy ce"]).to_numpy() == pytest.approx(
        six["difference"].to_numpy(), abs=0.006
    )
    five = claims.paper_numbers("V").pivot(index="row", columns="column", values="value")
    assert (
        five[["alpha", "beta", "gamma"]].sum(axis=1).to_numpy() == pytest.approx(np.ones(12))
        and five.accuracy.idxmax() == "7:2:1 eps 0.15"
    )
    four = claims.paper_numbers("IV").pivot(index="row", columns="column", values="value")
    assert (
        len(four) == 17
        and four.accuracy.idxmax() == "Ours"
        and (four.accuracy[six.index] == six["accuracy ce"]).all()
    )
    with pytest.raises(ValueError, match="No table"):
        claims.paper_numbers("VIII")
