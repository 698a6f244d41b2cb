"""koa_repro.paper.fig6: separations found where they were planted and nowhere else, and everything
of a run that the notebook needs without its weights."""

import numpy as np
import pandas as pd
import pytest

from koa_repro import features
from koa_repro.class_maps import check_sums, depth_table, looked_at, mean_maps
from koa_repro.features import (
    MEASURES,
    STARTS,
    Features,
    embed,
    feature_sets,
    middle,
    neighbours_right,
    scatter_ratio,
    separations,
    standardised,
)
from koa_repro.paper import fig6
from koa_repro.paper.fig6 import (
    draw_maps,
    feature_claims,
    picture_luck,
    separation_table,
    show_separation,
)
from koa_repro.phantom import make_knees
from koa_repro.results import ATTENTION, hybrid_specs, loss_specs, turned
from koa_repro.runs import RunSpec, find, knees_id, make_run
from koa_repro.stats import draws, mean_difference
from koa_repro.study import NARROW, Study
from koa_repro.training import Recipe

KL, PERSON = np.tile([0, 2], 80), np.repeat([f"p{i}" for i in range(80)], 2)


def made_up(apart, seed=0, seeds=2, scale=1.0, channels=12):
    "Normal features whose two grades lie `apart` from each other in the first of them."
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((seeds, len(KL), channels))
    x[..., 0] += apart * (KL == 2)
    return Features((None,) * seeds, PERSON, KL, scale * x)


# --- the measures


def test_scatter_of_weights_is_scatter_of_copies():
    x = made_up(1.0).values
    times = np.random.default_rng(1).integers(0, 4, len(KL))
    copies = np.repeat(np.arange(len(KL)), times)
    np.testing.assert_allclose(
        scatter_ratio(x, KL)(times[None].astype(float)),
        scatter_ratio(x[:, copies], KL[copies])(np.ones((1, len(copies)))),
    )


def test_a_planted_separation_is_found_and_a_smaller_scale_is_not():
    better = separations(dict(ce=made_up(1.0), hybrid=made_up(3.0)), 400)
    assert (
        better["scatter", "difference"].high < 0 < better["knn", "difference"].low
        and better["silhouette", "difference"].low > 0
    )
    shrunk = separations(dict(ce=made_up(1.0), hybrid=made_up(1.0, scale=0.1)), 400)
    for m in MEASURES:
        if m != "size":
            assert abs(shrunk[m, "difference"].estimate) < 1e-9, m
    assert shrunk["size", "hybrid"].estimate == pytest.approx(0.1 * shrunk["size", "ce"].estimate)


def test_no_separation_is_found_where_none_is_planted():
    drawn, held = draws(PERSON, 200), 0
    for seed in range(60):
        i = mean_difference(
            [tuple(scatter_ratio(made_up(1.5, 2 * seed + k, seeds=1).values, KL) for k in (0, 1))],
            drawn=drawn,
        )
        held += i.low <= 0 <= i.high
    assert held >= 51  # of 60 intervals of 95%; two trainings differ in their noise, too


def test_one_loud_channel_is_silenced_by_standardising():
    quiet = made_up(3.0).values.copy()
    quiet[..., 2] = 7.0  # one that never changes
    loud = quiet * np.where(np.arange(quiet.shape[2]) == 1, 50, 1)
    of = lambda x: scatter_ratio(x, KL)(np.ones((1, len(KL))))
    np.testing.assert_allclose(of(standardised(loud)), of(standardised(quiet)))
    assert (of(loud) > 5 * of(quiet)).all() and (standardised(loud)[..., 2] == 0).all()


def test_neighbours_are_other_participants():
    rng = np.random.default_rng(0)
    twins = np.repeat(rng.standard_normal((1, 80, 6)), 2, 1)
    grades = np.repeat(
        rng.permutation(np.tile([0, 2], 40)), 2
    )  # both knees of a participant alike in features and grade
    assert (
        abs(neighbours_right(twins, grades, PERSON).mean() - 0.5)
        < 0.25
        < abs(neighbours_right(twins, grades, np.arange(160), k=1).mean() - 0.5)
    )
    with pytest.raises(ValueError, match="k=4 must be odd"):
        neighbours_right(twins, grades, PERSON, 4)
    with pytest.raises(ValueError, match="158 here"):
        neighbours_right(twins, grades, PERSON, 159)


# --- the claim


def decided(tmp_path, found):
    return feature_claims(
        found, Study("paper", "reference", 2, str(tmp_path), str(tmp_path))
    ).verdict[0]


def test_claim_needs_both_on_the_better_side(tmp_path):
    many = lambda shift: made_up(shift, seeds=5)  # one of two fails only at 97.5%
    good, bad = (
        separations(dict(ce=many(1.0), hybrid=many(3.0)), 400),
        separations(dict(ce=many(3.0), hybrid=many(1.0)), 400),
    )
    mixed = good | {("scatter", "difference"): bad["scatter", "difference"]}
    assert [decided(tmp_path, f) for f in (good, bad, mixed, {})] == [
        "holds",
        "fails",
        "fails",
        "not decided",
    ]
    assert (
        feature_claims(good, Study("smoke", out=str(tmp_path), store=str(tmp_path))).verdict[0]
        == "no verdict"
    )
    one = separations(dict(ce=made_up(1.0, seeds=1), hybrid=made_up(3.0, seeds=1)), 400)
    assert decided(tmp_path, one) == "not decided"  # one training decides nothing
    i = good["scatter", "difference"]
    assert turned(None) is None
    assert (turned(i).low, turned(i).high, turned(turned(i))) == (-i.high, -i.low, i)


def test_not_run_says_so(tmp_path):
    study = Study("paper", "reference", 3, str(tmp_path), str(tmp_path))
    specs = loss_specs(study)
    assert specs == {loss: hybrid_specs(study)[f"Ours, {loss}"] for loss in ("ce", "hybrid")}
    rows = {loss: [None] * 3 for loss in specs}
    assert feature_sets(study, rows) == {} and separations({}) == {} and looked_at(study, {}) == {}
    networks = {"Ours": {}, ATTENTION: {}}
    table = separation_table(networks, 3)
    assert table.network.unique().tolist() == ["Ours", ATTENTION]
    assert len(table) == 2 * 3 * len(MEASURES)
    assert (table.runs_done == 0).all() and table.estimate.isna().all()
    assert (show_separation(networks).iloc[:, 3:] == "not run").all(axis=None)
    assert depth_table({}, {}).empty and picture_luck(fig6.embeddings({})).empty


# --- pictures


def test_pictures_and_their_luck():
    x = made_up(6.0, seeds=1).values[0, :40]
    place = embed(
        x, "tsne", 0
    )  # UMAP has to be compiled when first used; the notebook's own execution tries it
    assert (
        place.shape == (40, 2)
        and np.isfinite(place).all()
        and np.allclose(place, embed(x, "tsne", 0))
        and not np.allclose(place, embed(x, "tsne", 1))
    )
    with pytest.raises(ValueError, match="choose one of tsne, umap"):
        embed(x, "pca", 0)
    pictures = pd.DataFrame(
        [
            dict(loss=l, seed=s, method="tsne", start=i, silhouette=v)
            for s in (0, 1)
            for l, values in dict(ce=(0.1, 0.2), hybrid=(0.15, 0.3)).items()
            for i, v in enumerate(values)
        ]
    )
    luck = picture_luck(pictures).iloc[0]
    assert (luck.runs, luck.pairs, luck.better) == (
        2,
        8,
        6,
    )  # .15 > .1, .3 > .1, .3 > .2, of each training; never across trainings
    assert (
        middle(
            pictures[(pictures.loss == "ce") & (pictures.seed == 0)].assign(silhouette=[0.3, 0.1])
        ).silhouette
        == 0.3
    )


# --- a run, with and without its weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "Both losses, trained for an epoch on a few synthetic knees."
    store, knees = tmp_path_factory.mktemp("runs"), make_knees(160)
    recipe = Recipe(epochs=1, batch=16, pixels=16, schedule="onecycle", **NARROW)
    specs = {
        loss: RunSpec(knees_id(knees.frame()), options=dict(padding=1), loss=loss, recipe=recipe)
        for loss in ("ce", "hybrid")
    }
    return (
        store,
        knees,
        {
            loss: [make_run(s, knees, store, progress=False, device="cpu")]
            for loss, s in specs.items()
        },
    )


def test_all_is_kept_beside_the_run_and_read_without_weights(trained, tmp_path, monkeypatch):
    store, knees, rows = trained
    study = Study("smoke", out=str(tmp_path), store=str(store))
    monkeypatch.setattr(features, "study_knees", lambda *a: knees)
    sets = feature_sets(study, rows)
    seen = looked_at(study, sets)
    run = rows["ce"][0]
    model, n = run.model(), (knees.split == "test").sum()
    assert sets["ce"].values.shape == (1, n, 480)
    kept = run.predictions().query("split == 'test'").set_index("file")
    logit = (
        sets["ce"].values[0] @ (model.head.weight[1] - model.head.weight[0]).detach().numpy()
        + (model.head.bias[1] - model.head.bias[0]).item()
    )
    np.testing.assert_allclose(
        1 / (1 + np.exp(-logit)), kept.p1, atol=5e-3
    )  # half precision; in the order of the predictions
    depths, maps = seen["ce"][0]
    np.testing.assert_allclose(
        1 / (1 + np.exp(-depths.sum(axis=1))), kept.p1[depths.index], atol=1e-4
    )
    for grade in (0, 2):
        mine = depths[knees.kl[knees.split == "test"] == grade].drop(columns="bias").mean()
        for r in maps[maps.kl == grade].itertuples():
            assert np.sum(r.values) == pytest.approx(mine[f"{r.block} {r.patch}"], abs=1e-3)
    assert sum(f.stat().st_size for f in run.path.glob("*.parquet")) < 1.5e6

    def no_knees(*a):
        raise AssertionError("knees are not needed any more")

    monkeypatch.setattr(features, "study_knees", no_knees)
    for row in rows.values():
        (row[0].path / "weights.safetensors").rename(row[0].path / "hidden")
    try:
        again = feature_sets(study, rows)
        np.testing.assert_array_equal(again["hybrid"].values, sets["hybrid"].values)
        assert looked_at(study, again)["ce"][0][1].equals(maps)
        shares = depth_table(again, seen, 200)
        assert np.allclose(
            shares[shares.loss != "difference"].groupby("loss").estimate.sum(), 100, atol=0.1
        )
        spread = depths.sum(axis=1).std()
        for grade, placed in mean_maps(seen["ce"], run).items():
            mine = depths[knees.kl[knees.split == "test"] == grade].drop(columns="bias")
            assert placed.sum() == pytest.approx(mine.sum(axis=1).mean() / spread, abs=1e-3)
        check_sums(again, seen)
        off = {loss: [(depths + 0.1, maps)] for loss, ((depths, maps),) in seen.items()}
        with pytest.raises(ValueError, match="class maps are"):
            check_sums(again, off)
        assert len(draw_maps(again, seen, knees.images[0], "SYNTHETIC").axes) == 5
        (rows["hybrid"][0].path / "features.parquet").unlink()
        assert feature_sets(study, rows) == {}  # a pair of which one was never looked at is not run
    finally:
        for row in rows.values():
            (row[0].path / "hidden").rename(row[0].path / "weights.safetensors")
    assert (
        find(run.spec, store) is not None and STARTS % 2 == 1
    )  # an odd number of pictures has a middle one
