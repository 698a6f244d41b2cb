"""koa_repro.paper.fig8 and koa_repro.discrimination: curves and bands against scikit-learn and by
brute force, five grades, grades never seen, strata and claims, on made-up and phantom runs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from koa_repro import discrimination, runs
from koa_repro.beyond.first_day import draw_decision
from koa_repro.data import GRADES, load_knees
from koa_repro.discrimination import (
    AllGrades,
    all_grades,
    auc_differences,
    confusion,
    couples,
    decision_curves,
    delong_table,
    exposure,
    five_grades,
    grade_table,
    pair_areas,
    roc_band,
    roc_curve,
    strata,
    strata_table,
)
from koa_repro.paper import fig8 as roc
from koa_repro.paper.fig8 import (
    LEAD,
    auc_table,
    draw_roc,
    roc_rows,
    roc_specs,
    show_auc,
)
from koa_repro.paths import manifests
from koa_repro.privacy import published_knees
from koa_repro.runs import Run, find, make_run, reopen, write_run
from koa_repro.specs import NETWORKS
from koa_repro.stats import (
    TRAINED,
    Interval,
    Predictions,
    cohen_kappa,
    delong_interval,
    draws,
    percentile,
)
from koa_repro.study import PROFILES, Profile, Study, study_frame, study_knees, study_spec
from koa_repro.training import Recipe, predict

OFF = (
    np.linspace(0, 1, 41)[1:-1] + 1e-6
)  # between the corners of a curve, where no rounding decides


def made_up(grades=GRADES, n=300, seeds=2, signal=1.0, seed=0, name="made up"):
    "Predictions of S trainings on n knees of n / 2 participants."
    rng = np.random.default_rng(seed)
    label = rng.integers(0, len(grades), n)
    z = (
        rng.normal(size=(seeds, n, len(grades)))
        - 0.5 * signal * (label[:, None] - np.arange(len(grades))) ** 2
    )
    p = np.exp(z) / np.exp(z).sum(2, keepdims=True)
    files = np.array([f"k{i}" for i in range(n)])
    return Predictions(
        name,
        files,
        np.array([f"p{i // 2}" for i in range(n)]),
        np.array(grades)[label],
        label,
        p,
        tuple(grades),
    )


def write(spec, store, p: Predictions):
    "A run's folder with these test predictions, of the first training."
    frame = pd.DataFrame(
        dict(
            file=p.file,
            participant=p.participant,
            side=np.tile(["L", "R"], len(p.kl))[: len(p.kl)],
            kl=p.kl,
            label=p.label,
            split="test",
        )
    )
    frame = frame.assign(
        **{f"p{j}": p.probability[0][:, j] for j in range(len(p.grades))}, weights="best"
    )
    write_run(
        spec,
        store / spec.id,
        frame,
        [dict(epoch=1, train_accuracy=0.9, val_accuracy=0.8)],
        dict(device="none"),
    )
    return Run(spec, store / spec.id)


# --- curves and bands


def test_points_by_hand():
    y = np.array([1, 1, 0, 1, 0, 0], bool)
    got = roc_curve(
        y, np.array([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]]), np.array([0, 0.2, 1 / 3 + 1e-9, 0.9, 1])
    )(np.ones((1, 6)))[0, 0]
    np.testing.assert_allclose(got, [2 / 3, 2 / 3, 1, 1, 1])
    np.testing.assert_allclose(
        roc_curve(y, np.full((1, 6), 0.5), OFF)(np.ones((1, 6)))[0, 0], OFF
    )  # all tied: the diagonal
    twice = roc_curve(y, np.array([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]]), OFF)(
        np.array([[1, 1, 2, 1, 1, 0]])
    )[0, 0]  # a knee drawn twice, one left out
    x, t, _ = metrics.roc_curve(y[[0, 1, 2, 2, 3, 4]], [0.9, 0.8, 0.7, 0.7, 0.6, 0.5])
    np.testing.assert_allclose(twice, np.interp(OFF, x, t))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 60), st.sampled_from([2, 5, 1000]))
def test_the_curve_is_scikit_learns(seed, n, levels):
    rng = np.random.default_rng(seed)
    y, s, w = (
        rng.random(n) < 0.5,
        rng.integers(0, levels, (2, n)) / levels,
        rng.integers(0, 4, (3, n)),
    )
    y[:2] = True, False
    w[:, :2] = 1
    got = roc_curve(y, s, OFF)(w)
    for i in range(3):
        for k in range(2):
            x, t, _ = metrics.roc_curve(y, s[k], sample_weight=w[i], drop_intermediate=False)
            np.testing.assert_allclose(got[i, k], np.interp(OFF, x, t), atol=1e-9)


def test_one_class_alone_has_no_curve():
    for y, word in ((np.ones(5, bool), "positive"), (np.zeros(5, bool), "negative")):
        with pytest.raises(ValueError, match=f"both classes, and all 5 are {word}"):
            roc_curve(y, np.zeros((1, 5)))
    y = np.array([True, False, False])
    got = roc_curve(y, np.array([[0.9, 0.1, 0.2]]), OFF)(
        np.array([[0, 1, 2], [1, 1, 1]])
    )  # a resample may leave one class empty
    assert np.isnan(got[0]).all() and np.isfinite(got[1]).all()


def test_the_band_is_the_brute_force_one():
    p = made_up((0, 2), n=80, seeds=2)
    band, drawn = roc_band(p, n=200, grid=OFF), draws(p.participant, 200)
    people, rows = np.unique(p.participant, return_inverse=True)
    curves = np.empty((200, 2, len(OFF)))
    for i, counts in enumerate(drawn.counts):
        knees = np.concatenate(
            [np.repeat(np.flatnonzero(rows == g), c) for g, c in enumerate(counts)]
        )
        for k in range(2):
            x, t, _ = metrics.roc_curve(p.positive[knees], p.score[k][knees])
            curves[i, k] = np.interp(OFF, x, t)
    whole = [np.interp(OFF, *metrics.roc_curve(p.positive, s)[:2]) for s in p.score]
    moved = curves.mean(1) + np.std(whole, 0, ddof=1) * drawn.student(2)[:, None]
    ends = [percentile(np.clip(x, 0, 1)) for x in moved.T]
    np.testing.assert_allclose(band[["low", "high"]], ends, atol=1e-9)
    np.testing.assert_allclose(band.sensitivity, np.mean(whole, 0))
    assert (band.low < band.sensitivity).any() and (band.high - band.low).max() > 0.05


# --- five grades


def test_confusion_and_balanced_accuracy_by_resampled_rows():
    p, rng = made_up(), np.random.default_rng(1)
    w = rng.integers(1, 4, (4, 300))
    for i in range(4):
        knees = np.repeat(np.arange(300), w[i])
        for k in range(2):
            called = p.probability[k].argmax(1)
            assert (
                confusion(p)(w)[i, k] == metrics.confusion_matrix(p.label[knees], called[knees])
            ).all()
            assert discrimination._balanced_accuracy(p)(w)[i, k] == pytest.approx(
                metrics.balanced_accuracy_score(p.label[knees], called[knees])
            )
    gone = np.where(p.kl == 4, 0, 1)[None]
    # a grade without a knee has no accuracy
    assert np.isnan(discrimination._balanced_accuracy(p)(gone)).all()


def test_what_is_reported_of_five_grades():
    p = made_up()
    found, called = five_grades(p, 400), p.probability.argmax(2)
    assert found["accuracy"].estimate == pytest.approx((called == p.label).mean())
    assert found["quadratic kappa"].estimate == pytest.approx(
        np.mean([metrics.cohen_kappa_score(p.label, c, weights="quadratic") for c in called])
    )
    clustered = cohen_kappa(
        called,
        p.label,
        p.participant,
        weights="quadratic",
        grades=range(5),
        drawn=draws(p.participant, 400),
    )
    assert (found["quadratic kappa"].low, found["quadratic kappa"].high) == (
        clustered.low,
        clustered.high,
    )  # two knees of a person are not two people
    for g in GRADES:
        assert found[f"KL-{g} called KL >= 2"].estimate == pytest.approx(
            (p.probability[:, p.kl == g, 2:].sum(2) >= 0.5).mean()
        )
    assert all(
        i.low <= i.estimate <= i.high and i.low < i.high and i.seeds == 2 for i in found.values()
    )


def test_a_rate_without_a_miss_is_not_certain():
    person, all_found = np.array([f"p{i}" for i in range(51)]), np.full((1, 51), 0.9)
    i = discrimination.share_called(all_found, np.ones(51, bool), person, draws(person, 300))
    z2 = 1.959964**2
    assert (
        i.estimate == 1 and i.low == pytest.approx(51 / (51 + z2), abs=1e-6) and i.high == 1
    )  # Wilson's lower end: 51 knees cannot show 95%
    assert (
        roc._severe_claim(
            Study("paper", "reference", seeds=2),
            {f"KL-{g} called KL >= 2": replace(i, seeds=2) for g in (3, 4)},
        )["verdict"]
        == "not decided"
    )


def test_the_area_is_the_mean_over_pairs_of_grades():
    p = made_up(seeds=3)
    parts = pair_areas(p, 200)
    assert len(parts) == 6 and parts.share.sum() == pytest.approx(1)
    assert (parts.share * parts.auc).sum() == pytest.approx(
        np.mean([metrics.roc_auc_score(p.positive, s) for s in p.score])
    )
    for r in parts.itertuples():  # near 1 a resample may hold none of the knees that are misplaced
        at = np.isin(p.kl, (r.low_grade, r.high_grade))
        own = [delong_interval(p.kl[at] == r.high_grade, s[at], p.participant[at]) for s in p.score]
        assert r.low <= np.mean([i.low for i in own]) and np.mean([i.high for i in own]) <= r.high
    r, at = parts.iloc[4], np.isin(p.kl, (1, 3))
    assert (r.low_grade, r.high_grade) == (1, 3) and r.auc == pytest.approx(
        np.mean([metrics.roc_auc_score(p.kl[at] == 3, s[at]) for s in p.score])
    )


# --- rows, tables and tests, from runs on disk


@pytest.fixture
def study(tmp_path):
    return Study(
        "paper", "reference", seeds=2, store=str(tmp_path / "runs"), out=str(tmp_path / "out")
    )


def rows_on_disk(study, names, task="two grades"):
    "Both seeds of these rows, as networks that differ in skill; nothing of the others."
    first, specs = made_up(roc.TASKS[task]), roc_specs(study)[task]

    def other(s, k):
        rng, steps = (
            np.random.default_rng([k, len(s.loss)]),
            (first.label[:, None] - np.arange(len(first.grades))) ** 2,
        )
        z = rng.normal(size=steps.shape) - (1 if s.loss == "hybrid" else 0.5) * steps
        return replace(first, probability=(np.exp(z) / np.exp(z).sum(1, keepdims=True))[None])

    return {
        name: [
            write(s, study.runs, other(s, k)) if name in names else None for k, s in enumerate(row)
        ]
        or [None] * study.seeds
        for name, row in specs.items()
    }


def test_specs_know_the_tables_and_the_papers_networks(study):
    specs = roc_specs(study)
    assert [s.id for s in specs["two grades"][LEAD]] == [
        study_spec(study, k, loss="hybrid").id for k in range(2)
    ]
    assert [s.id for s in specs["five grades"]["Ours, ce"]] == [
        study_spec(study, k, grades=GRADES).id for k in range(2)
    ]
    s = specs["five grades"]["tiulpin"]
    assert [(x.network, x.loss, x.grades, x.seed) for x in s] == [
        ("tiulpin", "ce", GRADES, k) for k in range(2)
    ]


def test_rows_are_found_and_never_trained(study, monkeypatch):
    specs = roc_specs(study)
    write(specs["two grades"]["tiulpin"][1], study.runs, made_up((0, 2)))
    assert roc_rows(study, specs)["two grades"]["tiulpin"] == [
        None,
        None,
    ]  # by reference, no other store is looked into
    monkeypatch.setattr(runs, "references", lambda: study.runs)
    rows = roc_rows(study, specs)
    assert [r is not None for r in rows["two grades"]["tiulpin"]] == [False, True] and rows[
        "five grades"
    ]["tiulpin"] == [None, None]
    assert all(
        name in roc.NAMED or name.startswith("Ours") for name in roc.listed(rows["two grades"])
    ) and not any(rows["two grades"][LEAD])
    assert (
        rows["two grades"].keys()
        == specs["two grades"].keys()
        > roc.listed(rows["two grades"]).keys()
        and "vgg-11" in rows["five grades"]
    )
    table = auc_table(
        "two grades", {"tiulpin": rows["two grades"]["tiulpin"], LEAD: [None, None]}, 2, 200
    )
    assert (
        table.runs_done.tolist() == [1, 0]
        and table.paper.tolist() == [0.87, 0.90]
        and np.isnan(table.auc[1])
    )
    assert show_auc(table)["ours, AUC"][1] == "not run"


def test_the_picture_names_ours_and_the_papers_and_greys_the_rest(study):
    p = made_up((0, 2))
    line = dict(
        task="two grades",
        auc=0.8,
        auc_low=0.7,
        auc_high=0.9,
        sensitivity=0.7,
        specificity=0.8,
        runs_done=1,
        paper=0.9,
    )
    table = pd.DataFrame(
        [line | dict(row=r) for r in (LEAD, "tiulpin", "vgg-11", "vgg-13")]
        + [dict(task="five grades", row=LEAD, runs_done=0, paper=0.92)]
    )
    fig = draw_roc(
        table, {("two grades", r): roc_band(p, 200) for r in table.row.unique()}, "made up"
    )
    words = [t.get_text() for t in fig.axes[3].get_legend().get_texts()]
    assert words[0].endswith(": 0.80 [0.70, 0.90], one run; paper 0.90")
    assert "other networks: 2" in words and not any("vgg" in w.lower() for w in words)
    assert [t.get_text() for t in fig.axes[0].texts] == ["not run"]


def test_nothing_run_is_a_table_and_a_picture_that_say_so(study):
    rows = {task: {name: [None] * 2 for name in part} for task, part in roc_specs(study).items()}
    table = pd.concat([auc_table(task, part, 2) for task, part in rows.items()], ignore_index=True)
    assert (
        (table.runs_done == 0).all()
        and table.auc.isna().all()
        and set(show_auc(table)["ours, AUC"]) == {"not run"}
    )
    words = [t.get_text() for ax in draw_roc(table, {}, "nothing").axes for t in ax.texts]
    assert words == ["not run", "not run"]
    assert (
        couples(rows["two grades"], LEAD) == {} == auc_differences({})
        and delong_table(rows["two grades"], LEAD).empty
    )
    assert roc._auc_claim(study, "two grades", rows["two grades"], {})["verdict"] == "not decided"
    assert roc._severe_claim(study, None)["verdict"] == "not decided"


def test_areas_tests_and_differences_agree(study):
    rows = rows_on_disk(study, (LEAD, "Ours, ce"))
    table, tests = (
        auc_table("two grades", rows, 2, 400).set_index("row"),
        delong_table(rows, LEAD),
    )
    found = auc_differences(couples(rows, LEAD), n=400)
    assert (
        list(found) == ["Ours, ce"]
        and set(tests.what) == {LEAD, "Ours, ce", f"{LEAD} - Ours, ce"}
        and set(tests.seed) == {0, 1}
    )
    frame = rows[LEAD][1].predictions()
    one = tests[(tests.what == LEAD) & (tests.seed == 1)].iloc[0]
    assert one.auc == pytest.approx(metrics.roc_auc_score(frame.label, frame.p1))
    i = delong_interval(frame.label.to_numpy(), frame.p1.to_numpy(), frame.participant.to_numpy())
    assert (one.low, one.high) == pytest.approx((i.low, i.high))
    assert table.auc[LEAD] == pytest.approx(tests[tests.what == LEAD].auc.mean())
    difference = tests[tests.what == f"{LEAD} - Ours, ce"]
    assert (
        found["Ours, ce"].estimate
        == pytest.approx(difference.auc.mean())
        == pytest.approx(table.auc[LEAD] - table.auc["Ours, ce"])
    )
    assert found["Ours, ce"].trained == "convergence not shown"  # so it decides no claim
    assert difference.p.between(0, 1).all() and "p_holm" not in tests  # of single runs
    assert table.loc[LEAD].auc_low < table.loc[LEAD].auc < table.loc[LEAD].auc_high


def test_a_grade_without_a_knee_is_left_out(study):
    p = made_up(n=200)
    four = replace(
        p, **{k: getattr(p, k)[p.kl < 4] for k in ("file", "participant", "kl", "label")}
    )
    four = replace(four, probability=p.probability[:, p.kl < 4])
    found = five_grades(four, 200)
    assert "KL-3 called KL >= 2" in found and "KL-4 called KL >= 2" not in found
    assert roc._severe_claim(study, found)["verdict"] == "not decided"


def test_a_seed_without_its_partner_is_left_out(study):
    rows = rows_on_disk(study, (LEAD, "Ours, ce"))
    rows["Ours, ce"][0] = None
    tests = delong_table(rows, LEAD)
    assert (
        tests[tests.what == f"{LEAD} - Ours, ce"].seed.tolist() == [1]
        and couples(rows, LEAD)["Ours, ce"][0].seeds == 1
    )
    assert tests[tests.what == LEAD].seed.tolist() == [0, 1]


# --- grades never seen


@pytest.fixture(scope="module")
def phantom_run(tmp_path_factory):
    "A study and one run of two grades, with weights; as small as it can be."
    folder, kept = tmp_path_factory.mktemp("phantom"), PROFILES["smoke"]
    PROFILES["smoke"] = Profile(
        Recipe(epochs=1, batch=16, pixels=16, schedule="onecycle"),
        dict(padding=1),
        phantom=160,
        verdict=False,
    )
    study = Study(store=str(folder / "runs"), out=str(folder / "out"))
    yield study, make_run(study_spec(study), study_knees(study), study.runs, progress=False)
    PROFILES["smoke"] = kept


def test_the_unseen_are_of_other_grades_and_of_strangers(phantom_run):
    study, run = phantom_run
    knees, own = discrimination.unseen_knees(study, run.spec), study_frame(study)
    assert len(knees) > 10 and set(knees.kl) <= {1, 3, 4} and set(knees.split) == {"test"}
    assert not set(knees.participant) & set(own.participant[own.split != "test"])
    others = study_knees(study, (1, 3, 4)).where(split="test")
    assert len(knees) < len(
        others
    )  # the phantom's splits differ between sets of grades: somebody had to be left out


def test_answers_are_the_networks_own_and_stay_without_weights(phantom_run, monkeypatch):
    study, run = phantom_run
    known = study_knees(study).where(split="test")
    stored = run.predictions().set_index("file").p1
    np.testing.assert_allclose(
        predict(*reopen(run, known)).softmax(1)[:, 1], stored[known.file], atol=1e-5
    )  # reopened, it says what it said
    table = discrimination.unseen_answers(run, study)
    assert (
        list(table) == ["file", "participant", "side", "kl", "split", "p1"]
        and table.p1.dtype == np.float32
        and table.p1.between(0, 1).all()
    )
    knees = discrimination.unseen_knees(study, run.spec)
    one = knees.select(slice(3, 4))
    assert (
        table.p1[3]
        == pytest.approx(predict(*reopen(run, one, "best")).softmax(1)[0, 1].item(), abs=1e-5)
        and table.file[3] == one.file[0]
    )
    monkeypatch.setattr(
        discrimination, "reopen", lambda *_: pytest.fail("a kept table was made again")
    )
    (run.path / "weights.safetensors").rename(run.path / "weights.away")
    pd.testing.assert_frame_equal(discrimination.unseen_answers(run, study), table)
    g = all_grades([run], study)
    assert len(g.kl) == len(known) + len(table) and set(g.kl) == set(table.kl) | {0, 2}
    (run.path / "unseen.parquet").unlink()
    assert (
        discrimination.unseen_answers(run, study) is None and all_grades([run, None], study) is None
    )
    (run.path / "weights.away").rename(run.path / "weights.safetensors")


def test_trainings_that_answered_other_knees_are_refused(phantom_run, tmp_path, monkeypatch):
    study, run = phantom_run
    table = pd.DataFrame(
        dict(file=["a", "b"], participant="p", side="L", kl=1, split="test", p1=np.float32(0.5))
    )
    answers = iter([table, table.iloc[:1]])
    monkeypatch.setattr(discrimination, "unseen_answers", lambda *_: next(answers))
    with pytest.raises(ValueError, match="answered other knees: delete their unseen.parquet"):
        all_grades([run, run], study)


def test_the_place_of_doubt_by_hand():
    kl = np.repeat(GRADES, 40)
    called = np.concatenate([np.arange(40) < k for k in (8, 14, 32, 40, 40)])
    g = AllGrades(np.array([f"p{i}" for i in range(200)]), kl, np.where(called, 0.9, 0.1)[None])
    t = grade_table(g, 400).set_index("measure")
    assert (
        t.estimate["KL-1 called KL-2"] == 0.35
        and t.estimate["place of KL-1"] == pytest.approx((0.35 - 0.2) / (0.8 - 0.2))
        and t.knees["place of KL-1"] == 40
    )
    assert (
        t.estimate["KL-1 scores above KL-0"]
        == pytest.approx(metrics.roc_auc_score(kl[kl < 2], called[kl < 2]))
        and t.knees["KL-1 scores above KL-0"] == 80
    )
    assert t.low["KL-4 called KL-2"] < 0.95 and t.high["KL-4 called KL-2"] == 1
    blind = replace(g, score=np.full((1, 200), 0.9))
    assert "place of KL-1" not in grade_table(blind, 400).measure.tolist()
    few = AllGrades(g.participant[kl != 4], kl[kl != 4], g.score[:, kl != 4])
    assert not grade_table(few, 400).measure.str.contains("KL-4").any()


# --- strata


def test_strata_cut_once_and_agree_with_scikit_learn():
    p, rng = made_up((0, 2), seeds=2), np.random.default_rng(0)
    groups = strata(np.tile(["L", "R"], 150), rng.normal(size=300))
    sizes = {name: at.sum() for name, at in groups.items()}
    assert (
        sizes["left knees"] == sizes["right knees"] == 150
        and [sizes[q] for q in discrimination._QUARTERS] == [75] * 4
    )
    t = strata_table(p, groups, 400).set_index("stratum")
    auc = {
        name: np.mean([metrics.roc_auc_score(p.positive[at], s[at]) for s in p.score])
        for name, at in groups.items()
    }
    for name in groups:
        assert t.auc[name] == pytest.approx(auc[name])
    assert t.difference["left knees"] == pytest.approx(
        auc["left knees"] - auc["right knees"]
    ) and np.isnan(t.difference["right knees"])
    rest = ~groups["third quarter"]
    assert t.difference["third quarter"] == pytest.approx(
        auc["third quarter"]
        - np.mean([metrics.roc_auc_score(p.positive[rest], s[rest]) for s in p.score])
    )
    assert (t.p_holm.dropna() >= 2 / 401).all() and t.p_holm.notna().sum() == 5


def test_a_stratum_without_both_classes_has_no_area():
    p = made_up((0, 2), seeds=1)
    t = strata_table(
        p,
        {
            "left knees": p.positive,
            "right knees": ~p.positive,
            "darkest quarter": np.arange(300) < 75,
        },
        200,
    ).set_index("stratum")
    assert (
        np.isnan(t.auc["left knees"])
        and t.positive["right knees"] == 0
        and np.isfinite(t.auc["darkest quarter"])
    )
    same = strata(np.tile(["L", "R"], 150), np.full(300, 0.5))
    assert same["darkest quarter"].all() and not same["brightest quarter"].any()
    assert strata_table(p, same, 200).set_index("stratum").auc.isna()["brightest quarter"]


def test_a_planted_difference_is_found():
    p = made_up((0, 2), n=600, seeds=1, signal=3)
    left = np.tile([True, False], 300)
    noise = np.random.default_rng(3).random(600)
    p = replace(
        p,
        probability=np.where(
            (left & True)[None, :, None], p.probability, np.stack([1 - noise, noise], 1)[None]
        ),
    )
    t = strata_table(p, {"left knees": left, "right knees": ~left}, 400).set_index("stratum")
    assert t.difference_low["left knees"] > 0


def test_the_exposure_of_the_published_test_knees():
    facts, grey = published_knees(), pd.read_csv(manifests() / "exposure.csv")
    assert set(grey.file) == set(facts.file[facts.split == "test"]) and grey.file.is_unique
    assert (
        list(grey) == ["file", "grey"] and grey.grey.between(0, 1).all() and grey.grey.std() > 0.05
    )  # a number a knee, and no picture


def test_the_exposure_is_the_pictures(knees_folder):
    knees = load_knees(knees_folder, (4,)).where(split="test")
    grey = discrimination.mean_grey(knees)
    kept = exposure(Study("paper", "reference"), (0, 2))
    np.testing.assert_allclose(kept[grey.index], grey, atol=6e-5)
    assert grey.iloc[0] == pytest.approx(knees.images[0].mean() / 255) and kept.nunique() > 1000


# --- claims


def an_interval(estimate, low, high, seeds=2):
    return Interval(
        estimate,
        low,
        high,
        0.01,
        0.95,
        seeds,
        "participants",
        replicates=np.linspace(low, high, 400),
    )


@pytest.mark.parametrize(
    "own, other, said",
    [
        ((0.89, 0.91), (0.01, 0.03), "holds"),
        ((0.89, 0.91), (-0.01, 0.03), "not decided"),
        ((0.89, 0.91), (-0.03, -0.01), "fails"),
        ((0.93, 0.95), (0.01, 0.03), "fails"),
        ((0.89, 0.91), None, "not decided"),
        ((0.93, 0.95), None, "fails"),
    ],
)
def test_c19_by_its_rules(study, monkeypatch, own, other, said):
    monkeypatch.setattr(roc, "aligned", lambda rows: {LEAD: None})
    monkeypatch.setattr(roc, "bootstrap_interval", lambda *a, **k: an_interval(np.mean(own), *own))
    rows = {LEAD: [None], "Ours, ce": [None], "tiulpin": [None]}
    differences = {} if other is None else {"tiulpin": an_interval(np.mean(other), *other)}
    line = roc._auc_claim(
        study, "two grades", rows, differences | {"Ours, ce": an_interval(-0.5, -0.6, -0.4)}
    )  # our own variant is no rival
    assert (line["id"], line["verdict"]) == ("C19", said) and ("not run" in line["ours"]) == (
        other is None
    )
    assert (
        roc._auc_claim(replace(study, profile="short"), "two grades", rows, differences)["verdict"]
        == "no verdict"
    )


def test_a_level_of_runs_that_nobody_trained_for_longer_decides_nothing(study, monkeypatch):
    rows = rows_on_disk(study, (LEAD,))
    monkeypatch.setattr(roc, "bootstrap_interval", lambda *a, **k: an_interval(0.94, 0.93, 0.95))
    assert roc._auc_claim(study, "two grades", rows, {})["verdict"] == "not decided"
    five = {f"KL-{g} called KL >= 2": an_interval(0.98, 0.97, 0.99) for g in (3, 4)}
    assert roc._severe_claim(study, five)["verdict"] == "holds"
    assert roc._severe_claim(study, five, rows[LEAD])["verdict"] == "not decided"
    monkeypatch.setattr(roc, "convergence", lambda runs: TRAINED[0])
    assert roc._auc_claim(study, "two grades", rows, {})["verdict"] == "fails"


def test_two_rivals_are_not_all(study, monkeypatch):
    "A network of the paper that was never run is a rival all the same."
    monkeypatch.setattr(roc, "aligned", lambda rows: {LEAD: None})
    monkeypatch.setattr(roc, "bootstrap_interval", lambda *a, **k: an_interval(0.9, 0.89, 0.91))
    rows = roc_rows(study, roc_specs(study))["two grades"]
    rivals = [n for n in rows if not n.startswith("Ours") and NETWORKS[n].printed]
    above = {n: an_interval(0.02, 0.01, 0.03) for n in rivals}
    assert (
        len(rivals) == 16 and roc._auc_claim(study, "two grades", rows, above)["verdict"] == "holds"
    )
    line = roc._auc_claim(
        study, "two grades", rows, {n: above[n] for n in ("densenet-201", "tiulpin")}
    )
    assert (
        line["verdict"] == "not decided"
        and f"{len(rivals) - 2} of {len(rivals)} networks (" in line["ours"]
        and "VGG-11" in line["ours"]
    )


def test_c21_needs_both_grades(study):
    five = lambda three, four: {
        "KL-3 called KL >= 2": an_interval(*three),
        "KL-4 called KL >= 2": an_interval(*four),
    }
    assert roc._severe_claim(study, five((0.98, 0.96, 0.99), (0.99, 0.97, 1)))["verdict"] == "holds"
    assert (
        roc._severe_claim(study, five((0.98, 0.96, 0.99), (0.97, 0.93, 1)))["verdict"]
        == "not decided"
    )
    assert roc._severe_claim(study, five((0.90, 0.88, 0.94), (0.99, 0.97, 1)))["verdict"] == "fails"


# --- by reference


def test_everything_but_the_unseen_from_reference_predictions(tmp_path, monkeypatch):
    for name in ("reopen", "predict", "study_knees"):
        monkeypatch.setattr(
            discrimination, name, lambda *_: pytest.fail("a network or a picture was asked for")
        )
    study = Study("preview", "reference", store=str(tmp_path / "runs"), out=str(tmp_path / "out"))
    rows = roc_rows(study, roc_specs(study))
    run = rows["two grades"]["Ours, ce"][0]
    assert run is not None and find(run.spec) and not (run.path / "weights.safetensors").exists()
    table = auc_table("two grades", rows["two grades"], 1, 200).set_index("row")
    p = run.predictions().query("split == 'test'")
    assert table.auc["Ours, ce"] == pytest.approx(
        metrics.roc_auc_score(p.label, p.p1)
    ) and table.runs_done["vgg-11"] == bool(find(roc_specs(study)["two grades"]["vgg-11"][0]))
    facts = study_frame(study).set_index("file").loc[p.file]
    layers = strata_table(
        roc.aligned({"Ours, ce": [run]})["Ours, ce"],
        strata(facts.side.to_numpy(str), exposure(study, (0, 2))[p.file].to_numpy()),
        200,
    )
    assert layers.auc.notna().all() and layers.knees.sum() == 2 * len(p)
    if (file := run.path / "unseen.parquet").exists():
        assert set(discrimination.unseen_answers(run, study).kl) == {1, 3, 4}
    else:
        assert discrimination.unseen_answers(run, study) is None


# --- decision curves


def test_decision_curves_at_the_stated_prevalence(tmp_path):
    p = made_up((0, 2))
    table = decision_curves({LEAD: p}, 0.3, n=200).set_index("threshold")
    odds = 0.5 * (1 - 0.3) / 0.3  # a corrected probability of 0.5 was one of 0.7 at equal shares
    called = p.score >= odds / (odds + 0.5)
    hit, false = called[:, p.positive].mean(1), called[:, ~p.positive].mean(1)
    assert table.estimate[0.5] == pytest.approx((0.3 * hit - 0.7 * false).mean())
    assert table.everybody[0.5] == pytest.approx(0.3 - 0.7)
    assert (table.low <= table.estimate).all() and (table.estimate <= table.high).all()
    draw_decision(table.reset_index(), "made up").savefig(tmp_path / "f.png")
