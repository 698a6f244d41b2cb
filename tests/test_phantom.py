"""The phantom: determinism, prefixes, anatomy, severity, readers, upper limits, faults."""

import numpy as np
import pytest

from koa_repro.data import GRADES, cut_patches, polarity
from koa_repro.phantom import (
    CUTS,
    TAU,
    _draw,
    _people,
    _signs,
    best_accuracy,
    grade_probabilities,
    latents,
    make_knees,
    readers,
)


@pytest.fixture(scope="module")
def knees():
    return make_knees(300, seed=3, grades=GRADES)


@pytest.fixture(scope="module")
def truth(knees):
    return latents(knees)


def same(a, b):
    return all(
        (getattr(a, f) == getattr(b, f)).all()
        for f in (
            "images",
            "kl",
            "label",
            "participant",
            "side",
            "split",
            "inverted",
            "file",
            "sha256",
        )
    )


def test_same_seed_same_knees(knees):
    assert same(make_knees(30, seed=3, grades=GRADES), knees.select(slice(0, 30)))
    other = make_knees(30, seed=4, grades=GRADES)
    assert not (other.images == knees.images[:30]).all() and not set(other.sha256) & set(
        knees.sha256
    )


@pytest.mark.parametrize("grades", [(0, 2), (4,), (2, 0)])
def test_prefix(grades):
    assert same(make_knees(45, grades=grades).select(slice(0, 7)), make_knees(7, grades=grades))


def test_shape_and_names(knees):
    assert (
        knees.images.shape == (300, 300, 300)
        and knees.images.dtype == np.uint8
        and knees.name == "phantom"
    )
    assert len(set(knees.file)) == 300 and all(
        f == f"phantom/{p[1:]}{s}.png" for f, p, s in zip(knees.file, knees.participant, knees.side)
    )
    assert all(len(s) == 64 for s in knees.sha256)


@pytest.mark.parametrize("split", ["official", "participant", "knee"])
def test_splits(split):
    knees = make_knees(90, seed=1, split=split)
    shares = knees.summary().sum(axis=1) / len(knees)
    assert np.abs(shares[["train", "val", "test"]] - [0.7, 0.1, 0.2]).max() < 0.06
    apart = all(len(set(knees.split[knees.participant == p])) == 1 for p in set(knees.participant))
    assert apart == (split != "knee")


def test_grades_are_as_frequent_as_asked(knees):
    # four binomial standard errors, doubled variance as knees come in pairs
    expected = grade_probabilities(np.linspace(-6, 6, 2001)).T @ np.exp(
        -(np.linspace(-6, 6, 2001) ** 2) / 2
    )
    expected /= expected.sum()
    found = np.bincount(knees.kl, minlength=5) / len(knees)
    assert (
        np.abs(found - expected) < 4 * np.sqrt(2 * expected * (1 - expected) / len(knees))
    ).all()


def test_fibula_is_lateral(knees):
    lateral, medial = cut_patches(knees.images, knees.side)
    shown_right = np.where(
        (knees.side == "L")[:, None, None], knees.images[..., ::-1], knees.images
    )
    strip = shown_right[:, 270:, 5:45].mean((1, 2)) > shown_right[:, 270:, -45:-5].mean((1, 2))
    assert strip[knees.side == "R"].mean() > 0.9 and strip[knees.side == "L"].mean() > 0.9
    assert not np.array_equal(lateral, medial)


def test_bones_are_brighter_than_the_space_between(knees):
    shown = np.where((knees.side == "L")[:, None, None], knees.images[..., ::-1], knees.images)
    columns = shown[:, :, 60:85].mean(2)
    gap, above, below = (
        columns[:, 165:195].min(1),
        columns[:, 130:150].mean(1),
        columns[:, 200:225].mean(1),
    )
    assert (gap < np.minimum(above, below)).mean() > 0.97


def test_inverted_films_come_in_pairs_and_are_put_right():
    raw, right = (make_knees(150, seed=5, grades=GRADES, raw=raw) for raw in (True, False))
    assert raw.inverted.any() and (raw.inverted == right.inverted).all()
    assert ((polarity(raw.images) < 0) == raw.inverted).all() and (polarity(right.images) > 0).all()
    assert (raw.images[raw.inverted] == 255 - right.images[raw.inverted]).all()
    assert (raw.images[~raw.inverted] == right.images[~raw.inverted]).all()
    for p in set(raw.participant):
        assert len(set(raw.inverted[raw.participant == p])) == 1


def test_two_knees_of_a_person_are_alike(truth):
    pairs = truth.pivot(
        index="participant",
        columns="side",
        values=["severity", "jsw_medial", "osteophyte_tibia_medial"],
    ).dropna()
    assert len(pairs) > 120
    for name in ("severity", "jsw_medial", "osteophyte_tibia_medial"):
        r = np.corrcoef(pairs[name]["L"].astype(float), pairs[name]["R"].astype(float))[0, 1]
        assert 0.35 < r < 0.95, name


def test_signs_follow_the_grade(truth):
    mean = truth.groupby("kl").mean(numeric_only=True)
    assert mean.severity.is_monotonic_increasing and mean.jsw_medial.is_monotonic_decreasing
    for sign in mean.columns[mean.columns.str.startswith("osteophyte")]:
        assert mean[sign].is_monotonic_increasing, sign
    assert mean.jsw_medial[0] - mean.jsw_medial[3] > mean.jsw_lateral[0] - mean.jsw_lateral[3] > 0


def test_the_picture_shows_the_signs(knees, truth):
    # rows that are dark in the middle of the medial compartment, against the width that was meant
    shown = np.where(
        (knees.side == "L")[:, None, None], knees.images[..., ::-1], knees.images
    ).astype(float)
    profile = shown[:, 145:215, 212:234].mean(2)
    dark = profile < (profile.min(1) + np.median(profile, 1))[:, None] / 2
    assert np.corrcoef(dark.sum(1), truth.jsw_medial)[0, 1] > 0.5


@pytest.mark.parametrize(
    "sign, rows, columns",
    [
        ("osteophyte_tibia_medial", slice(165, 205), slice(262, 300)),
        ("osteophyte_femur_lateral", slice(135, 180), slice(0, 40)),
    ],
)
def test_a_larger_lip_covers_more_of_its_own_margin(sign, rows, columns):
    q = _signs(_people(2, [0, 1, 2]))
    for i in range(
        0, 6, 2
    ):  # right knees, drawn with the lateral side on the left; only this lip is changed
        knee = {k: v[i] for k, v in q.items()}
        bare, *grown = (_draw(knee | {sign: size}).astype(int) for size in (0.0, 3.0, 6.0, 9.0))
        areas = [(np.abs(image - bare) > 5).sum() for image in grown]
        assert 0 < areas[0] < areas[1] < areas[2]
        assert (np.abs(grown[2] - bare) > 5)[rows, columns].sum() > 0.8 * areas[
            2
        ]  # and little elsewhere


def test_truth_follows_any_selection(knees, truth):
    order = np.random.default_rng(0).permutation(len(knees))[:50]
    again = latents(knees.select(order))
    assert (
        np.allclose(again.severity, truth.severity.to_numpy()[order])
        and (again.file == truth.file.to_numpy()[order]).all()
    )
    assert len(latents(knees.select([]))) == 0
    p = truth[[f"p{k}" for k in GRADES]].to_numpy()
    assert np.allclose(p.sum(1), 1) and np.allclose(truth.doubt, 1 - p[np.arange(len(p)), knees.kl])


def test_truth_is_for_phantoms_only(knees):
    foreign = knees.select([0, 1])
    foreign.sha256 = np.array(["0" * 64] * 2)
    with pytest.raises(ValueError, match="phantom"):
        latents(foreign)


def test_readers_agree_as_doubt_says(knees, truth):
    others = readers(knees, 60, seed=2)
    assert others.shape == (300, 60)
    disagree = (others != knees.kl[:, None]).mean(1)
    error = np.sqrt(truth.doubt * (1 - truth.doubt) / 60)
    assert (
        np.abs(disagree - truth.doubt) < 5 * error + 0.02
    ).all()  # + .02: a doubt near 0 has no normal error
    assert abs(disagree.mean() - truth.doubt.mean()) < 4 * np.sqrt(0.25 / others.size)


def test_readers_are_stable(knees):
    few = knees.select([5, 2])
    assert (readers(few, 3, seed=1) == readers(knees, 9, seed=1)[[5, 2], :3]).all()
    assert (readers(knees, 3, seed=1) != readers(knees, 3, seed=2)).any()
    assert set(np.unique(readers(knees, 5, grades=(0, 2)))) == {0, 2}  # a forced choice


@pytest.mark.parametrize("grades", [(0, 2), (0, 1), GRADES])
def test_best_accuracy_is_what_simulation_gives(grades):
    n = 200_000
    severity, error = np.random.default_rng(11).standard_normal((2, n))
    kl = np.searchsorted(CUTS, severity + TAU * error)
    kept = np.isin(kl, grades)
    guess = np.array(grades)[grade_probabilities(severity[kept])[:, list(grades)].argmax(1)]
    ceiling = best_accuracy(grades)
    assert abs(np.mean(guess == kl[kept]) - ceiling) < 4 * np.sqrt(
        ceiling * (1 - ceiling) / kept.sum()
    )
    assert best_accuracy(grades, given="signs") < ceiling


def test_best_accuracy_of_early_osteoarthritis():
    assert 0.94 < best_accuracy((0, 2)) < 0.97 and 0.90 < best_accuracy((0, 2), "signs") < 0.94
    assert np.isclose(best_accuracy((2,)), 1)  # a single grade leaves nothing to guess


@pytest.mark.parametrize(
    "wrong, word",
    [
        (dict(n=0), "n is 0"),
        (dict(n=-3), "n is -3"),
        (dict(n=2.5), "n is 2.5"),
        (dict(n=5, grades=(0, 7)), "grades is"),
        (dict(n=5, grades=()), "grades is"),
        (dict(n=5, split="random"), "split is"),
        (dict(n=5, seed=-1), "seed is"),
    ],
)
def test_bad_parameters_are_named(wrong, word):
    with pytest.raises(ValueError, match=word):
        make_knees(**wrong)


def test_bad_parameters_of_the_rest(knees):
    with pytest.raises(ValueError, match="given is"):
        best_accuracy(given="pixels")
    with pytest.raises(ValueError, match="grades is"):
        best_accuracy((9,))
    with pytest.raises(ValueError, match="n_readers is 0"):
        readers(knees, 0)
