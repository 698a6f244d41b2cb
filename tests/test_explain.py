"""koa_repro.explain: the class map adds up to the logits, and lies where its cause lies."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from koa_repro.data import cut_patches
from koa_repro.explain import (
    MapGrid,
    class_map,
    draw_class_map,
    knee_map,
    map_grids,
    mean_outline,
    on_knee,
    on_patch,
    strongest,
)
from koa_repro.model import SiameseGAP
from koa_repro.patches import COLUMNS, PATCH, ROI, ROWS


def network(seed=0, **options):
    "A network in evaluation mode with batch statistics and biases that are not the trivial ones."
    torch.manual_seed(seed)
    model = SiameseGAP(**options).eval()
    for unit in model.modules():
        if isinstance(unit, nn.BatchNorm2d):
            nn.init.uniform_(unit.weight, 0.5, 1.5)
            nn.init.normal_(unit.bias)
            unit.running_mean.normal_()
            unit.running_var.uniform_(0.5, 2)
    return model


def patches(pixels, n=2, seed=0):
    torch.manual_seed(seed)
    return torch.randn(n, 1, pixels, pixels), torch.randn(n, 1, pixels, pixels)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 99),
    pool=st.sampled_from(("gap", "gmp")),
    fusion=st.sampled_from(("add", "concat")),
    attention=st.sampled_from((None, "ca8")),
    positions=st.sets(st.integers(1, 4), min_size=1),
    classes=st.integers(2, 5),
    padding=st.sampled_from((1, (0, 0, 0, 1))),
)
def test_adds_up_for_every_network(seed, pool, fusion, attention, positions, classes, padding):
    model = network(
        seed,
        pool=pool,
        fusion=fusion,
        attention=attention,
        positions=tuple(positions),
        classes=classes,
        padding=padding,
    )
    views = patches(64, seed=seed)
    found = class_map(model, *views)
    with torch.no_grad():
        off = (found.logits - model(*views)).abs()
    assert (off <= found.rounding).all()
    assert set(found.parts) == {(p, patch) for p in positions for patch in ("lateral", "medial")}
    assert all(
        part.shape[-1] == found.grids[p].side for (p, _), part in found.parts.items()
    )  # the grid has as many cells as the map has pixels


@pytest.mark.parametrize("break_it", ["a pixel", "a block", "patches", "bias"])
def test_the_bound_notices(break_it):
    "The allowance for rounding is far too small to hide a mistake."
    model, views = network(fusion="concat"), patches(128)
    found = class_map(model, *views)
    with torch.no_grad():
        logits = model(*views)
    parts = dict(found.parts)
    if break_it == "a pixel":
        parts[4, "lateral"] = parts[4, "lateral"].clone()
        parts[4, "lateral"][..., 0, 0] = 0
    if break_it == "a block":
        del parts[2, "medial"]
    if break_it == "patches":
        parts = class_map(model, *views[::-1]).parts
    bias = found.bias * (0 if break_it == "bias" else 1)
    off = (bias + sum(p.sum((2, 3)) for p in parts.values()) - logits).abs()
    assert (off > found.rounding).all()


def test_swapping_patches_swaps_maps_under_addition():
    model, (a, b) = network(), patches(128)
    one, other = class_map(model, a, b).between(), class_map(model, b, a).between()
    for p in (1, 2, 3, 4):
        torch.testing.assert_close(one[p, "lateral"], other[p, "medial"])


def test_between_two_classes():
    found = class_map(network(classes=5), *patches(128))
    logits = found.logits
    for more, less in ((1, 0), (4, 2)):
        total = (
            sum(x.sum((1, 2)) for x in found.between(more, less).values())
            + found.bias[more]
            - found.bias[less]
        )
        torch.testing.assert_close(total, logits[:, more] - logits[:, less])


def test_refusals():
    views = patches(128)
    with pytest.raises(ValueError, match="model"):
        class_map(SiameseGAP().train(), *views)
    with pytest.raises(TypeError, match="SiameseGAP, not Linear"):
        class_map(nn.Linear(2, 2).eval(), *views)
    with pytest.raises(ValueError, match="side='left'"):
        on_knee(np.zeros((128, 128)), np.zeros((128, 128)), "left")
    found = class_map(network(positions=(1, 2)), *views)
    with pytest.raises(ValueError, match=r"blocks=\[4\]"):
        knee_map(found.between(), found.grids, [4])


# --- where it lies


@pytest.mark.parametrize("pixels, padding", [(128, 0), (128, 1), (64, (0, 0, 0, 1)), (32, 1)])
def test_a_dot_changes_the_pixels_whose_field_holds_it(pixels, padding):
    "Worked out from the convolutions, and tried: all weights positive, so that nothing cancels."
    model, fine = SiameseGAP(padding=padding).eval(), PATCH // pixels
    for unit in model.modules():
        if isinstance(unit, nn.Conv2d):
            nn.init.constant_(unit.weight, 1 / unit.weight[0].numel())
            nn.init.zeros_(unit.bias)
    grids, touched = map_grids(model, pixels), 0
    for row, column in ((60, 51), (2, 101), (126, 127))[
        : 2 if pixels == 64 else 3
    ]:  # padding of the last block alone adds nothing at the edge that the others leave over
        dot = torch.zeros(1, 1, pixels, pixels, dtype=torch.double)
        dot[0, 0, row // fine, column // fine] = 1
        for p, m in enumerate(model.double().maps(dot), 1):
            g = grids[p]
            centre = g.start + g.step * np.arange(g.side)
            here = [
                (at // fine) * fine + (fine - 1) / 2 for at in (row, column)
            ]  # the middle of the pixel that the network reads
            near = [np.abs(centre - at) <= (g.field - fine) / 2 + 1e-9 for at in here]
            assert ((m[0, 0] > 0).numpy() == near[0][:, None] & near[1]).all(), (p, row, column)
            touched += (m[0, 0] > 0).any().item()
    assert touched >= 8


def test_four_by_four_covers_the_middle():
    g = map_grids(SiameseGAP())[4]
    assert g == MapGrid(49.0, 8, 99, 4)
    covered = on_patch(np.ones((4, 4)), g)
    rows = np.flatnonzero(covered.any(1))
    assert (rows[0], rows[-1]) == (45, 77) and covered[45, 60] == pytest.approx(
        covered[46, 60] / 2
    )  # a cell begins in the middle of a pixel
    assert covered.sum() == pytest.approx(16)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), position=st.integers(1, 4), padding=st.sampled_from((0, 1)))
def test_spreading_keeps_the_sum(seed, position, padding):
    g = map_grids(SiameseGAP(padding=padding))[position]
    values = np.random.default_rng(seed).standard_normal((2, g.side, g.side))
    np.testing.assert_allclose(on_patch(values, g).sum((1, 2)), values.sum((1, 2)), atol=1e-9)


def test_back_on_the_knee_undoes_the_cut():
    rng = np.random.default_rng(0)
    images, sides = rng.integers(1, 255, (2, ROI, ROI)).astype(np.uint8), np.array(["L", "R"])
    for image, side in zip(images, sides):
        (lateral,), (medial,) = cut_patches(image[None], np.array([side]))
        back, inside = on_knee(lateral, medial, side), np.zeros((ROI, ROI), bool)
        for columns in COLUMNS:
            inside[slice(*ROWS), slice(*columns)] = True
        assert (back[inside] == image[inside]).all() and not back[~inside].any()


def test_drawing_shows_the_sign_and_the_place():
    import matplotlib.pyplot as plt

    values = np.zeros((ROI, ROI))
    values[150, 60], values[150, 240] = 1, -1
    fig, ax = plt.subplots()
    shown = draw_class_map(ax, values, limit=1.0)
    colors = shown.cmap(shown.norm(values))
    assert (
        colors[150, 60, 0] > colors[150, 60, 2] and colors[150, 240, 2] > colors[150, 240, 0]
    )  # orange above 0, blue below
    assert (mean_outline()[150] != 0).any() and strongest([np.ones((ROI, ROI))]) == 1
    plt.close(fig)
