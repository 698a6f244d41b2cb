"""Knees found in composites of the eight committed regions of interest, and what is refused."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from koa_repro import localise
from koa_repro.composites import Film, Picker, Placed, composite, picture, random_film
from koa_repro.data import example_knees
from koa_repro.localise import WEIGHTS, FoundKnee, cut, find_knees
from koa_repro.paths import manifests
from koa_repro.radiographs import UnreadableRadiograph
from koa_repro.tools.localiser import overlap

LOOK = dict(air=0.05, slope=(0, 0), window=(0, 1), gamma=1, grain=0.01, sharp=0, blur=0)
LEG = dict(
    seams=(0.05, 0.95, 0.08, 0.95),
    feather=0.04,
    narrow=((1.0, 0.4), (0.7, 0.3)),
    drift=(0, 0),
    cortex=(0.1, 0.02),
    shaft=(0.35, 0.3),
    fibula=(0.2, 0.33, 0.95, 0.05),
    skin=((0.8, 0.8), (0.1, 0.1), 5),
    gain=1,
)


@pytest.fixture(scope="module")
def pick():
    return Picker(example_knees())


def film(pick, width, height, *knees) -> tuple[np.ndarray, float]:
    "A plain film, 400 pixels long, with knees (number, x, y, edge, angle) in it; edges a pixel."
    legs = [Placed(*pick.levels(i), x, y, edge, angle, LEG) for i, x, y, edge, angle in knees]
    whole = Film(width, height, legs, legs, None, LOOK)
    image, step = picture(whole, 400, np.random.default_rng(0))
    return image.numpy(), step


def agree(found: FoundKnee, knee, step, tolerance=0.06):
    _, x, y, edge, angle = knee
    middle = (found.x + found.edge / 2) * step, (found.y + found.edge / 2) * step
    assert math.dist(middle, (x, y)) < tolerance * edge
    assert abs(math.log(found.edge * step / edge)) < 0.12
    assert abs(found.angle - angle) < 8


ONE = {
    "small": (5, 5, (0, 2.6, 2.4, 1, 0)),
    "full leg": (2, 7, (2, 1.0, 3.2, 1, 0)),
    "turned": (2.2, 2, (4, 1.1, 1.0, 1, 15)),
    "turned the other way": (2.2, 2, (4, 1.1, 1.0, 1, -15)),
    "as wide as the film": (1.05, 0.8, (5, 0.52, 0.4, 1, 0)),
    "over the lower edge": (1.8, 1.0, (1, 0.9, 0.75, 1, 0)),
    "over the side": (2.0, 1.5, (6, 0.35, 0.75, 1, 0)),
}


@pytest.mark.parametrize("name", ONE)
def test_one_knee(pick, name):
    width, height, knee = ONE[name]
    image, step = film(pick, width, height, knee)
    (found,) = find_knees(image)
    agree(found, knee, step)
    assert 0 < found.confidence <= 1


@pytest.mark.parametrize("height", [0.75, 1.6, 5])
def test_both_knees_image_left_first(pick, height):
    knees = (1, 0.8, 0.4 * height, 1, -3), (0, 2.2, 0.45 * height, 1, 3)
    image, step = film(pick, 3, height, *knees)
    found = find_knees(image)
    assert [k.side for k in found] == ["R", "L"]
    for at, knee in zip(found, knees):
        agree(at, knee, step)


def test_no_knee(pick):
    rng = np.random.default_rng(0)
    noise = rng.random((200, 300), np.float32)
    gradient = np.tile(np.linspace(0, 1, 300, dtype=np.float32), (200, 1))
    shaft, _ = film(pick, 1.5, 2, (0, 0.75, -1.2, 1, 0))
    assert [find_knees(x) for x in (noise, gradient, shaft)] == [[], [], []]


def test_the_side_of_one_knee_is_the_fibulas(pick):
    "A film turned over has the other side, or none; never the same."
    told = []
    for i in range(8):
        image, _ = film(pick, 2.5, 2.2, (i, 1.2, 1.0, 1, 0))
        sides = [find_knees(x)[0].side for x in (image, image[:, ::-1])]
        assert set(sides) in ({"L", "R"}, {None}, {None, "L"}, {None, "R"})
        told.append(sides[0] in (pick.levels(i)[1], None))
    assert all(told)


def test_what_the_exposure_is_does_not_matter(pick):
    knee = (3, 1.2, 1.1, 1, 0)
    image, step = film(pick, 2.5, 2.4, knee)
    for x in (image * 0.5, 0.2 + 0.6 * image, (image * 255).astype(np.uint8), np.float64(image)):
        agree(find_knees(x)[0], knee, step)


def test_files_and_arrays_agree_and_repeat(pick, tmp_path):
    image, _ = film(pick, 3, 2, (1, 0.8, 0.9, 1, 0), (0, 2.2, 0.9, 1, 0))
    grey = (image * 255).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "film.png")
    found = find_knees(grey)
    assert len(found) == 2 and found == find_knees(grey)
    assert find_knees(tmp_path / "film.png") == found == find_knees(str(tmp_path / "film.png"))


def test_a_file_may_tell_the_side_of_one_knee(pick, monkeypatch):
    image, _ = film(pick, 2, 2, (1, 1, 1, 1, 0))
    read = lambda path, roi: SimpleNamespace(image=image, side="L")
    monkeypatch.setattr(localise, "read_radiograph", read)
    assert find_knees("film.dcm")[0].side == "L"


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((200, 300), np.float32),
        np.full((200, 300), 90, np.uint8),
        np.random.default_rng(0).random((20, 300)),
        np.random.default_rng(0).random((200, 300, 3)),
        np.full((200, 300), np.nan),
        np.eye(200) * 2,
        -np.eye(200),
        np.arange(90_000, dtype=np.uint16).reshape(300, 300),
        np.zeros((0, 0)),
    ],
)
def test_what_is_no_film_is_refused(bad):
    with pytest.raises(ValueError, match="film .*(give|scale|fetch)"):
        find_knees(bad)


def test_a_bad_file_is_named(tmp_path):
    Image.new("L", (200, 200), 9).save(tmp_path / "blank.png")
    with pytest.raises(UnreadableRadiograph, match="blank.png"):
        find_knees(tmp_path / "blank.png")
    with pytest.raises(FileNotFoundError, match="none.png"):
        find_knees(tmp_path / "none.png")


def test_cutting_gives_back_what_was_pasted(pick):
    "Inside the seams, to a few grey levels, for knees that are turned as well."
    for i, angle in ((0, 0), (3, 12), (5, -18)):
        (levels, side), edge = pick.levels(i), 1.0
        leg = LEG | dict(seams=(0.01, 0.99, 0.01, 0.99), feather=0.01, fibula=(0, 1, 1, 1))
        leg |= dict(skin=((9, 9), (0, 0), 9), cortex=(0, 1))
        knee = Placed(levels, side, 1.0, 1.1, edge, angle, leg)
        whole = Film(2, 2, [knee], [knee], None, LOOK | dict(air=0, grain=0))
        image, step = picture(whole, 800, np.random.default_rng(0))
        corner = (1.0 - edge / 2) / step, (1.1 - edge / 2) / step
        roi = cut(image.numpy(), FoundKnee(side, *corner, edge / step, angle, 1.0))
        region = levels[0].numpy() * 255
        inner = slice(15, -15)
        assert roi.shape == (300, 300) and roi.dtype == np.uint8
        assert np.abs(roi - region)[inner, inner].mean() < 1.5


def test_what_hangs_over_continues_the_edge():
    image = np.tile(np.linspace(0.2, 0.8, 100, dtype=np.float32)[:, None], (1, 100))
    roi = cut(image, FoundKnee(None, 0, -50, 100, 0, 1.0))
    assert (roi[:140] == roi[0, 0]).all() and roi[0, 0] == 51 and roi[-1, 0] > 120


def test_weights_are_small_and_half_precision():
    path = manifests() / WEIGHTS
    assert path.stat().st_size < 5_000_000
    with np.load(path) as kept:
        assert {a.dtype for a in kept.values()} == {np.dtype(np.float16)}
        assert all(np.isfinite(a).all() for a in kept.values())


def test_composites_are_what_they_say(pick):
    "The same seed gives the same film; a knee that counts is inside; none is drawn on request."
    for n in range(6):
        film, image, step = composite(pick, 7, n)
        again = composite(pick, 7, n)[1]
        assert np.array_equal(image, again) and 0 <= image.min() <= image.max() <= 1
        for k in film.knees:
            if film.shown(k) == 1:
                assert 0 < k.x < film.width + 0.3 and 0 < k.y < film.height + 0.3
    rng = np.random.default_rng(0)
    assert not any(random_film(rng, pick, "none").knees for _ in range(5))
    pairs = [[k.side for k in random_film(rng, pick, "two").knees] for _ in range(5)]
    assert pairs == [["R", "L"]] * 5


def test_overlap_by_counting():
    grid = np.stack(np.meshgrid(*[np.arange(-4, 4, 0.02) + 0.01] * 2), -1)
    inside = lambda x, y, e: (np.abs(grid - [x, y]) < e / 2).all(-1)
    for a, b in (((0, 0, 2), (0.5, -1, 3)), ((1, 1, 2), (1.2, 1, 1)), ((-2, 0, 1), (2, 0, 1))):
        counted = (inside(*a) & inside(*b)).sum() / (inside(*a) | inside(*b)).sum()
        assert overlap(a, b) == pytest.approx(counted, abs=0.02)


def test_finder_answers_like_its_mirror():
    "The refiner sees each crop turned over as well, so a mirrored film has mirrored squares."
    knees = example_knees()
    image = np.pad(knees.images[2], 80, mode="edge")
    (a,), (b,) = find_knees(image), find_knees(np.ascontiguousarray(image[:, ::-1]))
    assert abs(a.x - (image.shape[1] - b.x - b.edge)) < 0.03 * a.edge
    assert abs(a.y - b.y) < 0.03 * a.edge and torch.tensor(a.edge / b.edge).log().abs() < 0.03
