"""Table IV where the truth is known: what is not run stays empty, the family is sixteen."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from made_up import Made
from scipy.stats import norm
from scipy.stats import t as t_dist

from koa_repro.paper.table4 import (
    against_table,
    comparison_claims,
    comparison_table,
    draw,
    leads,
    lightness,
    ours_against_each,
    show,
    show_costs,
)
from koa_repro.phantom import make_knees
from koa_repro.results import (
    ATTENTION,
    RELEASED,
    comparison_specs,
    detectable,
    difference_table,
    one_step,
    others,
    rows_of,
    would_show,
)
from koa_repro.stats import TRAINED, Interval, paired_difference
from koa_repro.study import Study, study_spec


class Known(Made):
    "A run with this history."

    @property
    def history(self):
        return pd.DataFrame(
            dict(epoch=[1, 2], knees_a_second=[50.0, 100.0], val_accuracy=[0.5, 0.6])
        )

    @property
    def provenance(self):
        return dict(device="a device")


@pytest.fixture
def study(tmp_path):
    return Study("fast", "reference", out=str(tmp_path), store=str(tmp_path))


@pytest.fixture
def specs(study):
    return comparison_specs(study)


def flat(found):
    "A table in which every row has the same accuracy."
    return pd.DataFrame(dict(row=["Ours", *found], accuracy=80.0))


def rows_with(specs, **found):
    return {row: [found.get(row.replace("-", "_"))] for row in specs}


def test_seventeen_and_two(specs):
    assert (
        len(others()) == 16
        and set(specs) == {"Ours", ATTENTION, RELEASED, *others()}
        and others()[0] == "Tiulpin"
        and others()[-1] == "VGG-19"
    )
    assert len({s.id for row in specs.values() for s in row}) == 19 and all(
        s.loss == "ce" for row in specs.values() for s in row
    )


def test_a_row_without_a_run_stays_empty(specs):
    rows = rows_with(specs, Ours=Known(0.9), Antony=Known(0.8, 1))
    table = comparison_table(rows, specs, {"VGG-19": 0.7}, n=500).set_index("row", drop=False)
    assert table.accuracy["Ours"] == pytest.approx(90) and table.accuracy[
        "Antony"
    ] == pytest.approx(80)
    assert table.accuracy.notna().sum() == table.train_ms.notna().sum() == 2 and table.train_ms[
        "Ours"
    ] == pytest.approx(1000 / 75)
    assert (
        table.state["VGG-19"] == "built, one step"
        and table.state["VGG-16"] == "not run"
        and table.state["Ours"] == "1 of 1"
    )
    shown = show(table.reset_index(drop=True)).set_index("model")
    assert (shown["accuracy, ours"] == "not run").sum() == 17
    assert shown.loc[["VGG-16", "VGG-19"], "runs"].tolist() == ["not run", "built, one step"]
    costs = show_costs(table.reset_index(drop=True)).set_index("model")
    assert costs["why the size differs"]["Nasser (DRAE-like)"]
    assert not costs["why the size differs"]["Resnet-18"]
    assert costs["training on"].tolist().count("a device") == 2
    assert costs["one knee, ms"].str.fullmatch(r"\d+").all()


def test_nothing_run_is_a_table_too(specs, study):
    rows = rows_of(study, {k: [replace(s, seed=10**6) for s in v] for k, v in specs.items()})
    table = comparison_table(rows, specs)
    assert (
        (table.state == "not run").all()
        and table.accuracy.isna().all()
        and table.parameters.gt(0).all()
    )
    assert ours_against_each(rows) == {} and against_table({}, flat({})).empty
    assert comparison_claims({}, table, study).verdict.tolist() == [
        "not decided",
        "not decided",
        "counted",
    ]
    assert {"train_ms", "device"} < set(table), "the columns do not depend on the runs"
    assert leads(against_table({}, flat({}))).startswith("Of the sixteen others 0 ")
    plt.close(draw(table, "nothing was run"))


def test_the_family_is_sixteen_whoever_was_run(specs):
    rows = rows_with(specs, Ours=Known(0.9), Antony=Known(0.84, 1), Tiulpin_64=Known(0.8, 2))
    found = ours_against_each(rows, n=1000)
    table = against_table(found, flat(found)).set_index("row")
    assert table.ours["Antony"] == pytest.approx(6) and set(table.index) == {"Antony", RELEASED}
    assert table[["p_holm", "detectable"]].isna().all(axis=None)  # single runs
    assert table.p.notna().all() and np.isnan(table.paper[RELEASED])


def test_ours_is_best_only_if_all_sixteen_are_below(study, specs):
    def verdicts(**changed):
        some = {
            row: [
                Known(changed.get(row.replace("-", "_"), 0.6), 2 * i),
                Known(changed.get(row.replace("-", "_"), 0.6), 2 * i + 1),
            ]
            for i, row in enumerate(specs)
        }
        some |= {"Ours": [Known(0.9, 100), Known(0.9, 101)]}
        table = comparison_table(rows_with(specs), specs)
        return (
            comparison_claims(ours_against_each(some, n=1000), table, study).set_index("id").verdict
        )

    assert verdicts().C05 == verdicts().C06 == "holds"
    assert verdicts(VGG_16=0.95).C05 == "fails" and verdicts(VGG_16=0.95).C06 == "holds"
    assert verdicts(Tiulpin=0.9).C06 == "not decided"


def test_detectable_has_its_power():
    "A difference of this size, with the interval's own error, is found in four of five."
    rng = np.random.default_rng(0)
    found = Interval(0, 0, 0, 1, 0.95, 3, "", replicates=rng.normal(0, 0.02, 200_000))
    z = rng.normal(detectable(found, 16), 0.02, 200_000) / 0.02
    assert abs((z > norm.ppf(1 - 0.05 / 32)).mean() - 0.8) < 0.01
    assert np.isnan(detectable(replace(found, seeds=1)))  # a single run cannot tell


@pytest.mark.parametrize("seeds", [3, 20])
def test_detectable_is_students(seeds):
    "Its size is (t + t') SD / sqrt(S) where only the seeds vary, t of both with S - 1 degrees."
    x = np.linspace(-0.02, 0.02, seeds)[:, None] * np.ones((1, 60))
    found = paired_difference(x, 0 * x)
    error = x[:, 0].std(ddof=1) / seeds**0.5
    expected = (t_dist.ppf(0.975, seeds - 1) + t_dist.ppf(0.8, seeds - 1)) * error
    assert detectable(found) == pytest.approx(expected, rel=0.1)
    assert detectable(found, 16) > 1.2 * detectable(found)
    table = difference_table(dict(a=found, b=found), dict(a=1.0), ["a", *map(str, range(15))])
    table = table.set_index("row")
    assert table.detectable["a"] == pytest.approx(100 * detectable(found, 16))
    assert table.detectable["b"] == pytest.approx(100 * detectable(found))


def test_one_run_among_three_seeds_is_counted(specs):
    three = [
        [Known(0.9 - 0.1 * (row != "Ours"), 10 * i + s) for s in range(3)]
        for i, row in enumerate(("Ours", "Antony", "Nasser"))
    ]
    rows = rows_with(specs) | dict(zip(("Ours", "Antony"), three))
    rows |= {"Nasser": [three[2][0], None, None]}
    found = ours_against_each(rows, n=1000)
    assert against_table(found, flat(found)).set_index("row").seeds.to_dict() == dict(
        Antony=3, Nasser=1
    )
    assert "single run" in would_show(found["Nasser"], 1.05)
    assert f"{100 * detectable(found['Antony']):.1f}" in would_show(found["Antony"], 1.05)
    table = against_table(found, flat(found)).set_index("row")
    assert table[["p_holm", "detectable"]].notna().all(axis=1).to_dict() == dict(
        Antony=True, Nasser=False
    )
    assert table.p_holm["Antony"] == pytest.approx(min(1, 16 * table.p["Antony"]))
    assert would_show(None, 1.05) == ""


def test_two_seeds_that_agree_hold_by_resampling_and_not_by_student(study, specs):
    rows = {row: [Known(0.88, 2 * i), Known(0.86, 2 * i + 1)] for i, row in enumerate(specs)} | {
        "Ours": [Known(0.93, 100), Known(0.93, 101)]
    }
    table, found = comparison_table(rows_with(specs), specs), ours_against_each(rows, n=1000)
    resampled = {row: i.resampled for row, i in found.items()}
    both, lenient = (
        comparison_claims(f, table, study).set_index("id").verdict for f in (found, resampled)
    )
    assert lenient.C06 == "holds" and both.C06 == "not decided" and both.C22 == "counted"


def test_counted_lightness():
    table = pd.DataFrame(
        dict(
            row=["Ours", *others()],
            parameters=[5] + [6] * 15 + [4],
            multiply_adds=[5] + [6] * 8 + [5] * 8,
        )
    )
    assert lightness(table) == "fewer parameters than 15 of 16, fewer multiply-adds than 8 of 16"


class NoNumber(torch.nn.Module):
    def forward(self, logits, labels):
        return logits.sum() * float("nan")


def test_one_step_is_refused_where_it_is_no_number(tmp_path, monkeypatch):
    knees, spec = (
        make_knees(40, seed=0),
        study_spec(Study(out=str(tmp_path), store=str(tmp_path)), network="antony"),
    )
    assert np.isfinite(one_step(spec, knees))
    monkeypatch.setattr("koa_repro.specs.build_loss", lambda spec: NoNumber())
    with pytest.raises(ValueError, match="at the first step"):
        one_step(spec, knees)


def test_published_is_by_content_not_by_being_real(tmp_path, knees_folder):
    "A folder with a part of the public knees is real, and is not the public set."
    import shutil

    for part in ("train", "val", "test"):
        for kl in "02":
            (tmp_path / "some" / part / kl).mkdir(parents=True)
            for f in sorted((knees_folder / part / kl).glob("*.png"))[:4]:
                shutil.copy(f, tmp_path / "some" / part / kl)
    places = dict(out=str(tmp_path / "o"), store=str(tmp_path / "s"))
    some = Study("short", str(tmp_path / "some"), **places)
    assert (
        some.real
        and not some.published
        and not Study("short", **places).published
        and Study("short", "reference", **places).published
    )


@pytest.mark.parametrize("trained", TRAINED)
def test_a_lead_that_is_not_trained_out_says_so(trained):
    columns = dict(low=2.0, high=6.0, p_holm=0.01, seeds=3, trained=trained)
    said = leads(pd.DataFrame([dict(row="Antony", **columns)]))
    assert said.count(trained) == (0 if trained == TRAINED[0] else 2) and "Antony" in said
