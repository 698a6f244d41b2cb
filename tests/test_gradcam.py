"""Grad-CAM on networks whose map is known, on knees whose bright place is known, and C07 on
differences whose sign is known."""

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from koa_repro import features, gradcam
from koa_repro.data import cut_patches
from koa_repro.gradcam import (
    CHOSEN,
    JOINT,
    MAIN,
    READINGS,
    band_share,
    cam_frames,
    ceiling,
    class_cams,
    drawn_knees,
    heat,
    map_places,
    on_roi,
    patch_share,
    preference,
    rank_of,
)
from koa_repro.networks import NETWORKS, create
from koa_repro.paper.fig4 import (
    cam_claims,
    cam_table,
    draw_cams,
    findings,
    looked_at,
    preferences,
    reading_table,
    show_cam,
    show_controls,
    show_readings,
    shown_networks,
)
from koa_repro.patches import COLUMNS, PATCH, ROI, ROWS, VIEWS, DeviceKnees, blank
from koa_repro.phantom import make_knees
from koa_repro.plotting import use_style
from koa_repro.results import radiographs
from koa_repro.runs import RunSpec, knees_id, make_run, references
from koa_repro.specs import build_network
from koa_repro.stats import Interval
from koa_repro.study import NARROW, Study
from koa_repro.training import Recipe

# --- the map itself


@pytest.mark.parametrize("name", ["tiulpin", "antony", "nasser", "resnet-18", "densenet-121"])
def test_maps_are_those_of_the_definition(name):
    "Selvaraju's two equations, written out; each patch has channel weights of its own."
    torch.manual_seed(0)
    model = create(name).eval()
    views = [
        torch.randn_like(v)
        for v in blank(getattr(model, "view", "patches"), 64 if name != "tiulpin" else 128, 2)
    ]
    layer, seen = model.get_submodule(NETWORKS[name].layer), []
    hook = layer.register_forward_hook(lambda _, i, o: seen.append(o))
    logits = model(*views)
    hook.remove()
    found = class_cams(model, views, NETWORKS[name].layer)
    assert torch.equal(found, class_cams(model, views, layer))
    assert found.shape[:3] == (2, len(views), 2)
    for k in (0, 1):
        (gradient,) = torch.autograd.grad(logits[:, k].sum(), seen[0], retain_graph=True)
        by_hand = (gradient.mean((2, 3), keepdim=True) * seen[0]).sum(1).detach()
        torch.testing.assert_close(
            found[k], by_hand.unflatten(0, (len(views), 2)), atol=1e-6, rtol=1e-4
        )
    assert not model.get_submodule(NETWORKS[name].layer)._forward_hooks
    if (
        name == "tiulpin"
    ):  # not the same weights for both patches: with those of the other, the map would be another
        (g,) = torch.autograd.grad(logits[:, 1].sum(), seen[0])
        weights = g.mean((2, 3)).unflatten(0, (2, 2))
        assert (weights[0] - weights[1]).abs().max() > 0.1 * weights.abs().max()


def test_heat_asks_each_knee_for_its_own_class():
    cams = torch.tensor([[[[[1.0]], [[-2.0]]]], [[[[3.0]], [[5.0]]]]])  # (K=2, W=1, B=2, 1, 1)
    assert heat(cams, torch.tensor([0, 1])).flatten().tolist() == [1, 5]
    assert heat(cams, torch.tensor([1, 0])).flatten().tolist() == [3, 0]
    assert heat(cams, torch.tensor([0, 1]), margin=True).flatten().tolist() == [0, 7]
    assert torch.equal(heat(cams, 1), heat(cams, torch.tensor([1, 1])))
    shifted = cams + 10  # what both logits share changes the published map, and no margin
    assert torch.equal(
        heat(shifted, torch.tensor([0, 1]), margin=True),
        heat(cams, torch.tensor([0, 1]), margin=True),
    )


def test_maps_of_left_knees_are_turned_back_to_the_film():
    "A map that is the patch itself lies on the film where the patch was cut, on either side."
    knees = make_knees(8, seed=2)
    assert set(knees.side) == {"L", "R"}
    patches = cut_patches(torch.from_numpy(knees.images).float(), knees.side)
    placed = on_roi(torch.stack(patches), "patches", side=knees.side)
    for columns in COLUMNS:
        place = slice(None), slice(*ROWS), slice(*columns)
        np.testing.assert_array_equal(placed[place], knees.images[place])
    one = on_roi(torch.stack(patches)[:, :1], "patches", side="L")[0]
    assert (one[:, ::-1] == on_roi(torch.stack(patches)[:, :1], "patches")[0]).all()
    for side, word in ((["l"] * 8, "neither L nor R"), (["L"] * 3, "8 knees but 3 sides")):
        with pytest.raises(ValueError, match=word):
            on_roi(torch.stack(patches), "patches", side=side)
    right = on_roi(torch.stack(patches), "patches")
    assert (right[knees.side == "R"] == placed[knees.side == "R"]).all()
    with pytest.raises(ValueError, match="'knee' is not known"):
        on_roi(torch.stack(patches), "knee")
    with pytest.raises(ValueError, match="2 maps"):
        on_roi(torch.stack(patches), "joint")


class Apart(nn.Module):
    "The maps of the two patches are made one after the other."

    def __init__(self):
        super().__init__()
        self.map, self.head = nn.Identity(), nn.Linear(2, 2)

    def forward(self, lateral, medial):
        return self.head(torch.cat([self.map(x).mean((2, 3)) for x in (lateral, medial)], 1))


@pytest.mark.parametrize("layer", ["map", "head"])
@pytest.mark.parametrize("n", [3, 4])
def test_a_layer_without_the_maps_of_all_windows_is_refused(layer, n):
    with pytest.raises(ValueError, match=f"for {2 * n} windows"):
        class_cams(Apart().eval(), [torch.rand(n, 1, 16, 16) for _ in range(2)], layer)


class Bright(nn.Module):
    "Siamese: logit 1 is the mean brightness of both patches."

    def __init__(self):
        super().__init__()
        self.map = nn.ReLU()

    def forward(self, lateral, medial):
        both = self.map(torch.cat([lateral, medial])).mean((1, 2, 3))
        return torch.stack([-sum(both.chunk(2)), sum(both.chunk(2))], 1)


@pytest.mark.parametrize("side", "LR")
@pytest.mark.parametrize("place", [(JOINT, 10), (JOINT + 30, 290), (120, 200)])
def test_a_bright_spot_is_found_where_it_is(side, place):
    """From the knee's image through the views and back: medial patches are un-mirrored, left knees
    come out as right ones."""
    knees = make_knees(2)
    image = np.zeros((1, ROI, ROI), np.uint8)
    image[0, place[0], place[1]] = 255
    one = replace(knees.select(np.arange(len(knees)) == 0), images=image, side=np.array([side]))
    model = Bright().eval()
    found = on_roi(
        heat(
            class_cams(
                model, DeviceKnees(one, "cpu", scale=(0.0, 1.0)).views(torch.tensor([0])), model.map
            ),
            torch.tensor([1]),
        ),
        "patches",
    )[0]
    expected = place if side == "R" else (place[0], ROI - 1 - place[1])
    assert np.unravel_index(found.argmax(), found.shape) == expected
    assert found[expected] / found.sum() > 0.99 and band_share(found[None])[0] == pytest.approx(
        float(JOINT - CHOSEN <= place[0] < JOINT + CHOSEN), abs=0.01
    )


def test_places_follow_the_layers():
    for name in ("resnet-18", "densenet-121"):  # the middle of what the input's gradient reaches
        model = create(name).eval()
        for m in model.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.constant_(m.weight, 1 / m.weight[0].numel())
            if isinstance(m, nn.Conv2d) and m.bias is not None:
                nn.init.zeros_(m.bias)
        seen, x = (
            [],
            torch.ones(1, 1, 640, 640, requires_grad=True),
        )  # large enough that a pixel in the middle sees no border
        hook = model.get_submodule(NETWORKS[name].layer).register_forward_hook(
            lambda _, i, o: seen.append(o)
        )
        model(x)
        hook.remove()
        i = seen[0].shape[2] // 2
        (g,) = torch.autograd.grad(seen[0][0, :, i, i].sum(), x)
        rows = g[0, 0].abs().sum(1).double()
        centre = float((rows * torch.arange(640)).sum() / rows.sum())
        start, step, field = map_places(model, NETWORKS[name].layer)
        print(name, centre, start + i * step)
        assert abs(centre - (start + i * step)) < 2.5, (
            name,
            centre,
            start + i * step,
        )  # a maximum among equals takes the first, one or two pixels before the middle
    # by hand, start, step, field: 3x3 stride 2: 1, 2, 3; two 3x3: 5, 2, 11; pool 2: 6, 4, 13;
    # two 3x3: 14, 4, 29; pool 2: 16, 8, 33; 3x3: 24, 8, 49
    assert map_places(create("tiulpin"), NETWORKS["tiulpin"].layer) == (24, 8, 49)


def test_looking_pixels_are_squares_at_their_centres():
    m = torch.zeros(1, 1, 2, 2)
    m[0, 0, 1, 0] = 1
    knee = on_roi(m.expand(2, -1, -1, -1), "patches", (20.0, 10))[0]
    assert knee.sum() == 2 * 100
    rows, columns = np.nonzero(knee[:, :PATCH])
    assert (rows.min() - ROWS[0], rows.max() - ROWS[0], columns.min(), columns.max()) == (
        25,
        34,
        15,
        24,
    )
    assert np.array_equal(
        knee[:, COLUMNS[1][0] :], knee[:, :PATCH][:, ::-1]
    )  # the medial one is turned back


# --- the share


def test_an_even_map_has_no_preference_in_any_view_or_shape():
    for view, shape in (
        ("patches", (4, 4)),
        ("joint", (9, 9)),
        ("joint", (19, 19)),
        ("band", (11, 17)),
    ):
        even = on_roi(torch.ones(len(VIEWS[view]), 1, *shape), view)
        for half in (15, 25, 35):
            assert band_share(even, half)[0] == pytest.approx(
                2 * half / PATCH, rel=0.02
            )  # the view of 299 lacks a column
        assert ceiling(view, shape) > 1
    assert patch_share(on_roi(torch.ones(2, 1, 4, 4), "patches"))[0] == 1
    narrow = (
        63.5 - 1.5 * 2,
        2,
    )  # a map whose pixels all look within eight rows of the middle, and those within the band
    assert (
        ceiling("patches", (4, 4), narrow) == pytest.approx(1) and ceiling("patches", (4, 4)) > 1.5
    )


def test_an_empty_map_counts_as_no_preference_and_looking_has_its_own_even_map():
    shares = pd.DataFrame(
        {MAIN: [np.nan, 50 / 128, 1.0], "looking 25": [np.nan, 0.9, 0.45], "even": 0.9}
    )
    np.testing.assert_allclose(preference(shares, MAIN), [1, 1, 2.56])
    np.testing.assert_allclose(preference(shares, "looking 25"), [1, 1, 0.5])


def test_rank_correlation_of_maps():
    a = torch.rand(2, 4, 4)
    assert (
        rank_of(a, a**3) == pytest.approx(1)
        and rank_of(a, -a) == pytest.approx(-1)
        and rank_of(a, torch.zeros(2, 4, 4)) == 0
    )


# --- the claim


def interval(low, high):
    return Interval(
        (low + high) / 2,
        low,
        high,
        0.001,
        0.95,
        3,
        "participants and seeds",
        replicates=np.random.default_rng(0).normal((low + high) / 2, (high - low) / 4, 4000),
    )


def test_the_claim_needs_every_one_of_the_six(tmp_path):
    study = Study("fast", "reference", out=str(tmp_path), store=str(tmp_path))
    six = shown_networks()[1:]
    above = {(row, MAIN): interval(0.2, 0.4) for row in six}
    assert cam_claims(above, study).verdict[0] == "holds"
    assert cam_claims(above | {(six[3], MAIN): interval(-0.4, -0.2)}, study).verdict[0] == "fails"
    assert (
        cam_claims(above | {(six[3], MAIN): interval(-0.2, 0.3)}, study).verdict[0] == "not decided"
    )
    assert (
        cam_claims({k: v for k, v in above.items() if k[0] != six[0]}, study).verdict[0]
        == "not decided"
    )
    assert (
        cam_claims(
            above | {(row, "margin 25"): interval(-0.4, -0.2) for row in six}, study
        ).verdict[0]
        == "holds"
    )  # other readings do not decide
    low = lambda found: float(cam_claims(found, study).ours[0].split(" the least ")[1].split()[0])
    assert low({(six[0], MAIN): interval(0.2, 0.4)}) <= low(above)  # the family is six, run or not
    smoke = Study("smoke", out=str(tmp_path / "o"), store=str(tmp_path))
    assert (
        cam_claims(above, smoke).verdict[0] == "no verdict"
        and "5 of 6 run"
        in cam_claims({k: v for k, v in above.items() if k[0] != six[0]}, smoke).ours[0]
    )


# --- runs, with and without their weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "Ours and Tiulpin, trained for an epoch on a few synthetic knees."
    store, knees = tmp_path_factory.mktemp("runs"), make_knees(160)
    recipe = Recipe(epochs=1, batch=16, pixels=16, schedule="onecycle", **NARROW)
    specs = {
        row: RunSpec(
            knees_id(knees.frame()), network=network, options=dict(padding=1), recipe=recipe
        )
        for row, network in (("Ours", "siamese-gap"), ("Tiulpin", "tiulpin"))
    }
    rows = {row: [None] for row in shown_networks()} | {
        row: [make_run(s, knees, store, progress=False, device="cpu")] for row, s in specs.items()
    }
    return store, knees, rows


def test_all_is_kept_beside_the_run_and_read_without_weights(trained, tmp_path, monkeypatch):
    store, knees, rows = trained
    study = Study("smoke", out=str(tmp_path), store=str(store))
    monkeypatch.setattr(features, "study_knees", lambda *a: knees)
    seen = looked_at(study, rows)
    test = knees.where(split="test")
    for row in ("Ours", "Tiulpin"):
        shares, maps = seen[row][0]
        assert (
            sorted(shares.index) == sorted(test.file)
            and len(maps) == 5
            and (shares.patches.dropna() > 0.999).all()
        )
        assert (
            set(maps.name) - {"mean"} == set(drawn_knees(test.frame()))
            and sum(f.stat().st_size for f in rows[row][0].path.glob("cam*.parquet")) < 5e5
        )

    def no_knees(*a):
        raise AssertionError("knees are not needed any more")

    monkeypatch.setattr(features, "study_knees", no_knees)
    weights = {row: rows[row][0].path / "weights.safetensors" for row in ("Ours", "Tiulpin")}
    for w in weights.values():
        w.rename(w.with_name("hidden"))
    try:
        again = looked_at(study, rows)
        assert again["Ours"][0][0].equals(seen["Ours"][0][0]) and again["Antony"] == [None]
        again["Ours"][0][0].loc[test.file[:4], MAIN] = (
            np.nan
        )  # empty maps, which count and are counted
        levels, apart = preferences(rows, again, 500)
        assert set(levels) == {(row, r) for row in ("Ours", "Tiulpin") for r in READINGS} and set(
            apart
        ) == {("Tiulpin", r) for r in READINGS}
        for r in READINGS:  # the same knees in the same order, whatever the order of the tables
            one, other = (
                preference(again[row][0][0].loc[sorted(test.file)], r)
                for row in ("Ours", "Tiulpin")
            )
            assert levels["Ours", r].estimate == pytest.approx(one.mean()) and apart[
                "Tiulpin", r
            ].estimate == pytest.approx((one - other).mean())
        mixed = again | {
            "Tiulpin": [
                (again["Tiulpin"][0][0].sample(frac=1, random_state=0), again["Tiulpin"][0][1])
            ]
        }
        assert preferences(rows, mixed, 500) == (
            levels,
            apart,
        )  # each knee stays with its participant
        table = cam_table(rows, again, levels, apart)
        said = show_cam(table).set_index("network")
        assert said.preference["Antony"] == "not run" and said["random weights"]["Antony"] == ""
        assert (table.preference.dropna() <= table.ceiling.dropna()).all()
        assert (table.runs_done > 0).equals(table.preference.notna())
        readings = reading_table(levels, apart)
        assert len(readings) == 12 and show_readings(readings).shape == (6, 2)
        controls, empty = (
            show_controls(table).set_index("network"),
            again["Ours"][0][0][MAIN].isna(),
        )
        assert (
            0 < empty.mean() < 1 and controls["empty maps"]["Siamese-GAP"] == f"{empty.mean():.1%}"
        )
        assert controls["map inside the patches"].tolist() == ["100%", "100%"]
        assert len(findings(table, levels, apart)) == 1  # of single runs no sign is told
        several = {k: replace(i, seeds=3) for k, i in apart.items()}
        assert "Tiulpin" in findings(table, levels, several)[1]
        (rows["Ours"][0].path / "cam.parquet").unlink()
        assert looked_at(study, rows)["Ours"] == [None]  # never looked at: not run
        levels, apart = preferences(rows, looked_at(study, rows), 500)
        assert {row for row, _ in levels} == {"Tiulpin"} and apart == {}
    finally:
        for w in weights.values():
            w.with_name("hidden").rename(w)


def test_kept_shares_are_those_of_each_knee(trained):
    "Knee by knee through another path: its own views, its own decision, its own stretching."
    _, knees, rows = trained
    run, test = rows["Ours"][0], knees.where(split="test")
    kept, model = cam_frames(run, test)[0].set_index("file"), run.model()
    for i in (0, 7, 20):
        views = [
            nn.functional.avg_pool2d(
                (torch.from_numpy(p).float()[:, None] / 255 - model.scale[0]) / model.scale[1], 8
            )
            for p in cut_patches(test.images[i : i + 1], test.side[i : i + 1])
        ]
        decision = model(*views).argmax(1)
        found = heat(class_cams(model, views, model.blocks[3]), decision)
        big = nn.functional.interpolate(found, (PATCH, PATCH), mode="bilinear")[:, 0].double()
        rows_ = slice(JOINT - CHOSEN - ROWS[0], JOINT + CHOSEN - ROWS[0])
        assert kept[MAIN][test.file[i]] == pytest.approx(
            float(big[:, rows_].sum() / big.sum()), abs=2e-3, nan_ok=True
        )


def test_weights_drawn_anew_change_the_map_and_the_same_weights_do_not(trained, monkeypatch):
    _, knees, rows = trained
    run, test = rows["Tiulpin"][0], knees.where(split="test")
    assert cam_frames(run, test)[0]["rank"].abs().mean() < 0.8
    fresh = build_network(run.spec).eval()
    fresh.scale = run.model().scale
    monkeypatch.setattr(gradcam, "ANEW", 0)
    monkeypatch.setattr(type(run), "model", lambda self, weights="best": fresh)
    same = cam_frames(run, test)[0]
    some = same[MAIN].notna() & same["rank"].notna()
    np.testing.assert_allclose(same["rank"][some], 1, atol=1e-6)
    np.testing.assert_allclose(same.untrained[some], same[MAIN][some], atol=1e-6)


def test_every_map_lies_on_its_own_radiograph(trained, tmp_path, monkeypatch):
    store, knees, rows = trained
    monkeypatch.setattr(features, "study_knees", lambda *a: knees)
    use_style()
    seen = looked_at(Study("smoke", out=str(tmp_path), store=str(store)), rows)
    turn = lambda image, side: image if side == "R" else image[:, ::-1]
    images = {f: turn(i, s) for f, i, s in zip(knees.file, knees.images, knees.side)}
    fig = draw_cams(seen, "SYNTHETIC", images)
    files = drawn_knees(knees.where(split="test").frame())
    assert len(fig.axes) == 2 * 3  # two networks were run; the kept maps are of three knees
    for i, ax in enumerate(fig.axes):
        under, over = ax.images
        assert np.array_equal(under.get_array(), images[files[i // 2]])
        assert over.get_array().shape == (ROI, ROI)
    assert {len(ax.images) for ax in draw_cams(seen, "no radiograph", {}).axes} == {1}


def test_kept_maps_have_their_radiographs():
    images = radiographs(Study("preview", "reference"))
    for file in references().glob("*/cam_maps.parquet"):
        assert set(pd.read_parquet(file).name) - {"mean"} <= set(images)


def test_what_is_missing_is_said(monkeypatch):
    with pytest.raises(ValueError, match="call model.eval"):
        class_cams(Bright(), [torch.zeros(1, 1, 8, 8)] * 2, None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match="pip install captum"):
        class_cams(Bright().eval(), [torch.zeros(1, 1, 8, 8)] * 2, None)


def test_maps_may_be_arrays_and_a_layer_that_is_not_there_is_named():
    maps = torch.rand(2, 3, 4, 4)
    assert np.array_equal(on_roi(maps.numpy(), "patches"), on_roi(maps, "patches"))
    with pytest.raises(AttributeError, match="blcoks"):
        map_places(create("siamese-gap"), "blcoks.3")
