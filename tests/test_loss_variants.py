"""koa_repro.beyond.loss_variants and the held-out slice: one change at a time, and a target from
knees that are used for nothing else.
"""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from koa_repro.beyond.length import length_specs
from koa_repro.beyond.loss_variants import (
    BASE,
    JUDGED,
    PARTS,
    VARIANTS_OF_LOSS,
    draw_variants,
    part_specs,
    pushes,
    show_variants,
    variant_specs,
    variant_table,
)
from koa_repro.losses import HybridLoss
from koa_repro.model import SiameseGAP
from koa_repro.phantom import make_knees
from koa_repro.runs import find, references
from koa_repro.specs import read_spec
from koa_repro.study import NARROW, Study, study_frame, study_spec
from koa_repro.tools.remote import PackedKnees
from koa_repro.training import Recipe, Trainer, draw_epoch, fit, predict, set_aside

SLICE = Recipe(epochs=2, batch=8, pixels=16, schedule="onecycle", targets="slice")


@pytest.fixture(scope="module")
def knees():
    return make_knees(160, seed=3)


def trainer(knees, recipe=SLICE, seed=0):
    torch.manual_seed(seed)
    return Trainer(SiameseGAP(padding=1), HybridLoss(), knees, recipe, seed=seed, device="cpu")


def test_kept_runs_have_the_hashes_that_they_had():
    for folder in references().glob("*/spec.json"):
        assert read_spec(folder.read_text()).id == folder.parent.name
    plain = study_spec(Study("short", "reference"), loss="hybrid")
    assert find(plain) and "targets" not in json.dumps(plain.description)
    assert replace(plain, recipe=replace(plain.recipe, targets="slice")).id != plain.id


def test_the_slice_is_people_of_training_and_like_the_rest(knees):
    train = knees.where(split="train")
    aside = set_aside(train, 0)
    assert (
        not set(train.participant[aside]) & set(train.participant[~aside])
        and 0.05 < aside.mean() < 0.16
    )
    assert abs(train.label[aside].mean() - train.label[~aside].mean()) < 0.1
    assert (set_aside(train, 0) == aside).all() and (set_aside(train, 1) != aside).any()
    order = np.random.default_rng(0).permutation(len(train))
    assert (
        set_aside(train.select(order), 0) == aside[order]
    ).all()  # the order of the knees means nothing
    with pytest.raises(ValueError, match="does not hold every grade"):
        set_aside(train.select(slice(8)), 0)


def test_the_slice_of_the_public_knees():
    frame = study_frame(Study("preview", "reference"))
    frame = frame[frame.split == "train"]
    facts = SimpleNamespace(
        kl=frame.kl.to_numpy(),
        label=frame.kl.to_numpy() // 2,
        participant=frame.participant.to_numpy(str),
        side=frame.side.to_numpy(str),
        name="public",
    )
    aside = set_aside(facts, 0)
    assert (
        abs(aside.mean() - 0.1) < 0.01
        and abs(facts.label[aside].mean() - facts.label.mean()) < 0.01
    )


def test_the_slice_is_never_trained_on_and_alone_sets_the_target(knees):
    t, train = trainer(knees), knees.where(split="train")
    aside = set_aside(train, 0)
    assert (
        len(t.train) + len(t.aside) == len(train)
        and len(t.aside) == aside.sum()
        and (t.labels == train.label[~aside]).all()
    )
    assert (
        torch.equal(t.aside.rois, torch.from_numpy(train.images[aside]))
        and t.aside.scale == t.train.scale
    )
    order, _ = draw_epoch(t.labels, SLICE, 0, 0)
    most = np.bincount(t.labels).max()
    assert (
        order.max() < len(t.labels)
        and order.size == 2 * most // 8 * 8 < 2 * np.bincount(train.label).max() // 8 * 8
    )  # oversampled to what is left
    row = t.run_epoch()
    c = predict(t.model, t.aside).softmax(1).gather(1, t.aside.labels[:, None])[:, 0]
    np.testing.assert_allclose(
        t.loss.class_confidence, [c[t.aside.labels == k].mean() for k in range(2)], rtol=2e-2
    )
    assert not np.allclose(t.loss.class_confidence, [row["val_c_0"], row["val_c_1"]], rtol=1e-4)
    aim = t.loss.class_confidence.tolist()
    row = t.run_epoch()
    assert [row["target_0"], row["target_1"]] == aim  # the history keeps what the epoch aimed at


def test_the_slice_resumes_to_the_same_weights(knees, tmp_path):
    whole = fit(trainer(knees), progress=False)
    fit(trainer(knees), tmp_path / "c.pt", progress=False, until=1)
    again = fit(trainer(knees), tmp_path / "c.pt", progress=False)
    assert all(
        torch.equal(v, again.model.state_dict()[k]) for k, v in whole.model.state_dict().items()
    )
    assert torch.equal(whole.loss.class_confidence, again.loss.class_confidence)


def test_other_targets_set_nobody_aside(knees):
    assert trainer(knees, replace(SLICE, targets="epoch")).aside is None
    assert (
        len(trainer(knees, replace(SLICE, targets="epoch")).labels)
        == (knees.split == "train").sum()
    )
    with pytest.raises(ValueError, match="targets"):
        Recipe(targets="part")


def test_a_pack_has_no_people_and_says_so(knees):
    part = knees.where(split=("train", "val"))
    with pytest.raises(ValueError, match="does not name them: train this run where the knees are"):
        trainer(PackedKnees(part.images, part.label, part.side, part.split))


def leaves(d, at=()):
    return {
        k: v
        for key, x in d.items()
        for k, v in (leaves(x, (*at, key)) if isinstance(x, dict) else {(*at, key): x}).items()
    }


def test_every_variant_changes_one_thing_and_the_letter_of_the_print_two():
    every = variant_specs(Study("preview", "reference"), VARIANTS_OF_LOSS)
    specs = {name: s[0] for name, s in every.items()}
    base = leaves(specs[BASE].description)
    for name, spec in specs.items():
        other = leaves(spec.description)
        changed = {k for k in base.keys() | other.keys() if base.get(k) != other.get(k)}
        assert len(changed) == (name != BASE), name
        options = set(spec.options + spec.loss_options) ^ set(
            specs[BASE].options + specs[BASE].loss_options
        )
        two = 1 + (name == "one-hot print, to the letter")
        assert len(options) == two * (name != BASE) * (not VARIANTS_OF_LOSS[name].recipe), name
    assert dict(specs["one-hot print, to the letter"].loss_options) == dict(
        reading="printed-onehot", reduction="sum"
    )
    assert len({s.id for s in specs.values()}) == len(VARIANTS_OF_LOSS)


def test_the_parts_are_trained_alike_but_for_what_they_change():
    study = Study("preview", "reference", 5)
    every, lengths = part_specs(study), length_specs(study)
    assert list(every) == list(PARTS)
    specs = {name: s[0] for name, s in every.items()}
    assert len({s.id for s in specs.values()}) == len(PARTS)
    recipes = {name: asdict(s.recipe) for name, s in specs.items()}
    for name, recipe in recipes.items():
        changed = {k for k, v in recipe.items() if v != recipes[BASE][k]}
        assert changed == set(PARTS[name].recipe), name
        assert specs[name].options == specs[BASE].options
    at = 3 * study.settings.recipe.epochs  # the rows that the lengths have, too, are the same runs
    same = {BASE: "hybrid"} | {n: n for n in ("label smoothing alone", "cross-entropy")}
    assert all(every[name] == lengths[loss, at] for name, loss in same.items())
    assert {len(s) for name, s in every.items() if name not in same} == {2}
    assert replace(specs["wide augmentation"].recipe, **NARROW) == specs[BASE].recipe


def test_the_push_is_the_slope_worked_by_hand():
    p = pushes(HybridLoss())
    of = {
        0: 0.4 * (0.925 - p.confidence),
        1: 0.5 * (0.8 - p.confidence),
        2: 0.1 * (1 - p.confidence),
    }
    np.testing.assert_allclose(
        p.push, np.select([p.set == s for s in of], list(of.values())) / 40, atol=1e-7
    )
    assert p.groupby("set").size().tolist() == [28, 8, 4]


class Made:
    def __init__(self, seed, skill, n=600):
        rng, facts = np.random.default_rng(seed), np.random.default_rng(7)
        kl = facts.choice([0, 2], n)
        p = 1 / (1 + np.exp(-2 * skill * rng.normal(skill * (kl - 1), 1)))
        self.frame = pd.DataFrame(
            dict(
                file=[f"k{i}" for i in range(n)],
                participant=[f"p{i // 2}" for i in range(n)],
                kl=kl,
                label=kl // 2,
                split="test",
                p0=1 - p,
                p1=p,
            )
        )

    def predictions(self, weights="reported"):
        return self.frame


def test_a_planted_difference_is_found_and_no_other(tmp_path):
    rows = {name: [None, None] for name in VARIANTS_OF_LOSS} | {
        BASE: [Made(s, 1.0) for s in range(5)],
        "sum": [Made(s, 2.0) for s in range(5)],
        "no guard": [Made(0, 1.0), None],
    }
    table, found = variant_table(rows, n=499)
    assert set(found) == {(n, m) for n in ("sum", "no guard") for m in JUDGED}
    at = table.set_index(["row", "measure"])
    assert (
        at.minus_base_low["sum", "accuracy"] > 0 > at.minus_base_high["sum", "brier"]
        and at.p_holm["sum", "accuracy"] < 0.05
    )
    assert (
        at.minus_base_low["no guard", "accuracy"] == 0 == at.minus_base_high["no guard", "accuracy"]
    )  # the same predictions
    assert (
        at.runs_done["no guard", "ece"] == 1
        and at.runs_wanted["no guard", "ece"] == 2
        and at.shared["no guard", "ece"] == 1
        and at.p_holm.isna()["channel attention", "brier"]
    )
    shown = show_variants(table)
    assert (
        shown.loc["channel attention"].eq("not run").sum() == 2 * len(JUDGED)
        and shown.loc["sum"].ne("not run").all()
    )
    draw_variants(table, "made up").savefig(tmp_path / "f.png")


def test_the_family_is_all_variants_whether_run_or_not():
    """What has not come yet counts as p = 1, so that its coming takes no significance away;
    one training is not judged."""
    base = {name: [None, None] for name in VARIANTS_OF_LOSS} | {
        BASE: [Made(s, 1.0) for s in range(2)],
        "sum": [Made(s, 1.05) for s in range(2)],
    }
    table, found = variant_table(base, n=499)
    p = found["sum", "accuracy"].p
    adjusted = lambda t: t.set_index(["row", "measure"]).p_holm["sum", "accuracy"]
    assert adjusted(table) == pytest.approx(min(1, (len(VARIANTS_OF_LOSS) - 1) * p)) and 0 < p < 0.5
    more, _ = variant_table(
        base
        | {name: [Made(s, 1.0) for s in range(2)] for name in ("mean of each set", "masked print")},
        n=499,
    )
    assert adjusted(more) == pytest.approx(adjusted(table))
    lone, found = variant_table(base | {"no guard": [Made(0, 3.0), None]}, n=499)
    assert (
        found["no guard", "accuracy"].p < 0.01
        and lone[lone.row == "no guard"].p_holm.isna().all()
        and adjusted(lone) == pytest.approx(adjusted(table))
    )
    assert show_variants(lone).loc["no guard", "p (Holm), accuracy"] == ""


def test_nothing_run_goes_through(tmp_path):
    table, found = variant_table({name: [None] for name in VARIANTS_OF_LOSS})
    assert (
        not found
        and table.estimate.isna().all()
        and (
            show_variants(table).drop(
                columns=["runs", "p (Holm), accuracy", "seeds in the differences", "trained"]
            )
            == "not run"
        ).all(axis=None)
    )
    draw_variants(table, "none").savefig(tmp_path / "f.png")
