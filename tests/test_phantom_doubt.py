"""koa_repro.beyond.phantom_doubt: what is known of the phantom's readers, what is found of it
where it was planted, and a training that is not disturbed by being watched.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from koa_repro.beyond.phantom_doubt import (
    KINDS,
    above_from,
    closeness,
    doubt_in,
    draw_witness,
    fresh_confidences,
    low_by_epoch,
    low_found,
    own_confidence,
    rank_correlation,
    sets_of,
    truth,
    watched,
    witness_specs,
    witness_study,
)
from koa_repro.partition import LOW, partition, sizes
from koa_repro.phantom import FREQUENCY, best_accuracy, latents, make_knees
from koa_repro.runs import RunSpec, knees_id, make_run
from koa_repro.study import NARROW, Study
from koa_repro.training import Recipe


@pytest.fixture(scope="module")
def knees():
    return make_knees(1500, seed=3)


@pytest.fixture(scope="module")
def facts(knees):
    return truth(knees)


def test_readers_and_the_best_judge_are_calibrated(knees, facts):
    known = latents(knees)
    np.testing.assert_allclose(facts.five, 1 - known.doubt)
    two = known.p2 / (known.p0 + known.p2)
    np.testing.assert_allclose(facts.readers, np.where(knees.kl == 2, two, 1 - two))
    plain = facts.best * FREQUENCY[[0, 2]][facts.label]  # without the balance of the grades
    plain = plain / (plain + (1 - facts.best) * FREQUENCY[[2, 0]][facts.label])
    for column, given in ((facts.readers, "severity"), (plain, "signs")):
        expected = best_accuracy(given=given)
        assert (
            abs((column > 0.5).mean() - expected)
            < 4 * (expected * (1 - expected) / len(facts)) ** 0.5
        ), given
    p2 = np.where(knees.kl == 2, plain, 1 - plain)
    for low, high in (
        (0.05, 0.35),
        (0.35, 0.65),
        (0.65, 0.95),
    ):  # of those to whom it gives a chance, as many are KL-2
        some = (p2 > low) & (p2 < high)
        assert (
            some.sum() > 20
            and abs((knees.kl[some] == 2).mean() - p2[some].mean()) < 4 * (0.25 / some.sum()) ** 0.5
        )


def test_sets_are_cut_within_each_grade(facts):
    codes = sets_of(facts.readers.to_numpy(), facts.label.to_numpy())
    for k in (0, 1):
        assert tuple(np.bincount(codes[facts.label == k], minlength=3)) == tuple(
            sizes(int((facts.label == k).sum()))
        )
    np.testing.assert_array_equal(
        codes,
        partition(
            torch.tensor(facts.readers.to_numpy()), torch.tensor(facts.label.to_numpy())
        ).numpy(),
    )


def test_low_set_by_hand_and_at_its_limits(facts):
    label, readers, ones = (
        facts.label.to_numpy(),
        facts.readers.to_numpy(),
        np.ones((1, len(facts))),
    )
    doubtful = sets_of(readers, label) == LOW
    rng = np.random.default_rng(0)
    scores = np.stack([readers, rng.random(len(readers)), -readers])
    same, chance, never = low_found(scores, label, doubtful)(ones)[0]
    assert (
        same == 1
        and never == 0
        and abs(chance - doubtful.mean()) < 4 * (0.09 / doubtful.sum()) ** 0.5
    )
    low = sets_of(scores[1], label) == LOW
    assert chance == pytest.approx((low & doubtful).sum() / low.sum())
    w = rng.integers(0, 3, (1, len(readers))).astype(float)
    assert doubt_in(scores[1:2], facts, LOW)(w)[0, 0] == pytest.approx(
        np.average(1 - readers[low], weights=w[0, low])
    )


def test_learning_is_seen_when_it_happens(facts):
    """Confidences that know nothing for two epochs and then follow the readers, more closely
    each time."""
    rng, readers = np.random.default_rng(1), facts.readers.to_numpy()
    noise = rng.standard_normal((2, 4, len(facts)))
    c = 1 / (
        1
        + np.exp(
            -(
                np.array([0, 0, 1, 3])[None, :, None]
                * np.log(readers / (1.0000001 - readers)).clip(-8, 8)
                + 3 * noise
            )
        )
    )
    found = low_by_epoch(dict(ce=c), facts, 300)
    part = found[found.loss == "ce"].set_index("epoch")
    chance = (sets_of(readers, facts.label.to_numpy()) == LOW).mean()
    assert (
        part.low[1] < chance < part.high[1]
        and part.low[3] > chance
        and part.estimate[4] > part.estimate[3]
    )
    best = found[found.loss == "best judge"].iloc[0]
    assert best.epoch == 0 and chance < best.low < best.high < 1


def test_closeness_tells_smoothing_from_knowing(facts):
    rng = np.random.default_rng(2)
    facts = facts.assign(
        readers=rng.uniform(0.5, 1, len(facts))
    )  # milder than the phantom's, which are mostly sure
    readers = facts.readers.to_numpy()
    logit = np.log(readers / (1 - readers))
    of = lambda noise, scale: 1 / (1 + np.exp(-scale * (logit.clip(-5, 5) + noise)))
    drawn = rng.standard_normal((3, 2, len(readers)))
    sharp, soft = of(2 * drawn[0], 3.0), of(2 * drawn[0], 1.0)
    found = closeness(dict(ce=sharp, hybrid=soft, scaled=soft), facts, 300)
    assert (
        found["distance", "hybrid - ce"].high < 0
        and found["distance", "hybrid - scaled"].estimate == 0
    )  # smoothing is nearer, and no nearer than smoothing
    assert abs(found["rank correlation", "hybrid - ce"].estimate) < 1e-9  # the same order
    knowing = closeness(
        dict(
            ce=of(4 * drawn[0], 1.0), hybrid=of(0.5 * drawn[1], 1.0), scaled=of(4 * drawn[2], 1.0)
        ),
        facts,
        300,
    )
    assert (
        knowing["rank correlation", "hybrid - ce"].low > 0
        and knowing["distance", "hybrid - scaled"].high < 0
    )
    assert rank_correlation(readers[None], readers, facts.label.to_numpy())(
        np.ones((1, len(facts)))
    )[0, 0] == pytest.approx(1)


def test_ranks_are_those_of_the_resample(facts):
    "A resample's correlation is that of the resampled knees themselves, written out as copies."
    rng, label = np.random.default_rng(3), facts.label.to_numpy()[:120]
    readers = rng.uniform(0.5, 1, 120)
    scores = np.stack([readers + rng.normal(0, 0.2, 120), rng.random(120)])
    w = rng.integers(0, 4, (2, 120))
    found = rank_correlation(scores, readers, label)(w.astype(float))
    for b in range(2):
        at = np.repeat(np.arange(120), w[b])
        for s in range(2):
            assert found[b, s] == pytest.approx(
                np.mean(
                    [
                        spearmanr(scores[s, i], readers[i]).statistic
                        for i in (at[label[at] == k] for k in (0, 1))
                    ]
                )
            )


def test_early_is_what_lasts():
    part = lambda lows: pd.DataFrame(dict(epoch=np.arange(1, len(lows) + 1), low=lows))
    assert (
        above_from(part([0.3, 0.05, 0.12, 0.2]), 0.1) == 3
        and above_from(part([0.05, 0.3, 0.3, 0.09]), 0.1) is None
        and above_from(part([0.2, 0.2]), 0.1) == 1
    )
    rng = np.random.default_rng(
        0
    )  # forty looks at nothing: one in forty lies above by chance, hardly ever all to the end
    lows = 0.1 + 0.01 * (rng.standard_normal((500, 40)) - 1.96)
    assert (
        np.mean([(l > 0.1).any() for l in lows])
        > 0.5
        > 0.1
        > np.mean([above_from(part(l), 0.1) is not None for l in lows])
    )


def test_one_temperature_serves_and_changes_no_rank():
    rng = np.random.default_rng(0)
    z = rng.normal(0, 1.5, (6000, 1)) * [[0, 1]]
    y = (rng.random(6000) < 1 / (1 + np.exp(-z[:, 1]))).astype(int)
    for t in (0.5, 1, 4):
        pair = tuple(
            dict(val=(t * z).astype("float32"), fresh=(t * z).astype("float32")) for _ in range(2)
        )
        np.testing.assert_allclose(
            fresh_confidences([pair], y, y)["scaled"][0], own_confidence(z, y), atol=0.02
        )  # the logits before they were sharpened
    hot = own_confidence(z / 5, y)
    assert (
        np.argsort(hot[y == 1], kind="stable")
        == np.argsort(own_confidence(z, y)[y == 1], kind="stable")
    ).all()


# --- a watched training


def test_watching_changes_nothing(tmp_path, facts):
    knees, fresh = make_knees(120), make_knees(30, seed=1)
    recipe = Recipe(epochs=2, batch=16, pixels=16, schedule="onecycle", **NARROW)
    specs = [
        RunSpec(
            knees_id(knees.frame()),
            options=dict(padding=1),
            loss=loss,
            recipe=recipe,
            precision="float32",
        )
        for loss in ("ce", "hybrid")
    ]
    never = lambda: pytest.fail("nothing is to be trained")
    assert watched(specs[0], never, never, tmp_path, train=False) is None
    pair = [watched(s, lambda: knees, lambda: fresh, tmp_path) for s in specs]
    again = watched(specs[0], never, never, tmp_path)
    assert all((again[k] == pair[0][k]).all() for k in again)
    train, val = knees.where(split="train"), knees.where(split="val")
    assert pair[0]["confidence"].shape == (2, len(train)) and pair[0]["fresh"].shape == (30, 2)
    plain = (
        make_run(specs[1], knees, tmp_path / "plain", progress=False)
        .predictions("last")
        .query("split == 'val'")
    )
    np.testing.assert_allclose(
        own_confidence(pair[1]["val"], val.label),
        np.where(val.label == 1, plain.p1, plain.p0),
        atol=1e-5,
    )
    scores = fresh_confidences([tuple(pair)], val.label, fresh.label)
    assert list(scores) == list(KINDS) and all(s.shape == (1, 30) for s in scores.values())
    groups = pd.DataFrame(
        [dict(loss=l, estimate=0.1, low=0.05, high=0.2) for l in ("ce", "hybrid") for _ in range(3)]
    )
    epochs = low_by_epoch(
        {l: p["confidence"][None] for l, p in zip(("ce", "hybrid"), pair)}, truth(train), 200
    )
    assert len(draw_witness(epochs, groups, scores, truth(fresh), 0.1, "SYNTHETIC").axes) == 3


def test_whatever_the_study_the_knees_are_synthetic(tmp_path):
    for profile, data in (("smoke", "phantom"), ("preview", "reference")):
        study = Study(profile, data, 2, str(tmp_path), str(tmp_path))
        synthetic, recipe, unseen, says = witness_study(study)
        assert (
            synthetic.data == "phantom"
            and says.startswith("SYNTHETIC phantom knees; " + profile)
            and f"{recipe.epochs} one-cycle" in says
        )
        assert recipe.epochs >= 4 and unseen >= 100 and not synthetic.verdict
    specs = witness_specs(
        *witness_study(Study("smoke", seeds=2, out=str(tmp_path), store=str(tmp_path)))[:2]
    )
    assert [s.seed for s in specs["ce"]] == [0, 1] and {s.loss for s in specs["hybrid"]} == {
        "hybrid"
    }
