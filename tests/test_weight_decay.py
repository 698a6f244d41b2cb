"""Loss and weight decay: what is compared, and the differences on runs whose accuracy is known."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from made_up import run

from koa_repro.beyond.length import length_specs
from koa_repro.beyond.weight_decay import (
    DECAYS,
    LEAST,
    MEASURES,
    _layers,
    answer_decay,
    decay_specs,
    decay_table,
    effect_table,
    left_table,
    show_decay,
    show_effects,
    show_left,
)
from koa_repro.losses import HybridLoss
from koa_repro.results import rows_of
from koa_repro.study import Study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    place = str(tmp_path_factory.mktemp("study"))
    return Study("preview", "reference", 3, place, place)


def beside(spec):
    "How strong decay is beside the loss."
    weight = HybridLoss(**dict(spec.loss_options)).mean_weight if spec.loss == "hybrid" else 1
    return spec.recipe.weight_decay / weight


def test_a_decay_is_as_strong_beside_either_loss(study):
    specs = {row: of[0] for row, of in decay_specs(study).items()}
    for decay in DECAYS:
        assert beside(specs["hybrid", decay]) == pytest.approx(beside(specs["ce", decay]), rel=1e-3)
    assert beside(specs["ce", "heavy"]) > 2 * beside(specs["ce", "light"])
    alike = [asdict(replace(s.recipe, weight_decay=0.0)) for s in specs.values()]
    assert all(recipe == alike[0] for recipe in alike)
    assert len({s.id for s in specs.values()}) == 4


def test_what_is_set_by_the_recipe_are_the_runs_of_the_lengths(study):
    specs, lengths = decay_specs(study), length_specs(study)
    at = study.settings.longer.epochs
    assert specs["ce", "light"] == lengths["cross-entropy", at]
    assert specs["hybrid", "heavy"] == lengths["hybrid", at]


def ran(accuracy, seed):
    made = run(0.8, accuracy, seed)
    made.history = pd.DataFrame(dict(train_accuracy=[0.5, 0.9]))
    return made


def known(**test):
    "Two runs of each row with this test accuracy; rows left out were not run."
    rows = [(loss, decay) for loss in ("ce", "hybrid") for decay in DECAYS]
    made = lambda name: [ran(test[name], s) for s in range(2)] if name in test else [None] * 2
    return {row: made("_".join(row)) for row in rows}


def test_each_difference_is_of_the_rows_that_it_names():
    rows = known(ce_light=0.6, ce_heavy=0.7, hybrid_light=0.75, hybrid_heavy=0.95)
    table = decay_table(rows).set_index(["loss", "decay", "measure"])
    assert table.estimate["ce", "heavy", "accuracy"] == pytest.approx(70)
    assert table.training["ce", "heavy", "accuracy"] == pytest.approx(90)
    effects = effect_table(rows)
    found = effects[effects.measure == "accuracy"].set_index("difference").estimate
    assert found.tolist() == pytest.approx([15, 25, 10, 20])
    assert set(effects.seeds) == {2} and set(effects.measure) == set(MEASURES)
    shown, told = show_effects(effects)[MEASURES["accuracy"]], answer_decay(effects)
    assert all(name in told and shown[name].startswith("+") for name in found.index)


def test_what_was_not_run_is_shown_as_not_run():
    rows = known(ce_light=0.6)
    effects = effect_table(rows)
    assert effects.estimate.isna().all() and set(effects.seeds) == {0}
    assert answer_decay(effects).count("not run") == 4
    assert (show_decay(decay_table(rows)) == "not run").sum().sum() == 3 * len(MEASURES)


def test_weights_are_left_where_they_are_larger_than_the_least():
    held = {"a.weight": torch.tensor([0.1, -0.1, LEAST / 2, 0.0]).reshape(1, 1, 2, 2)}
    held |= {"a.bias": torch.ones(3), "b.weight": torch.ones(2, 1, 1, 1)}
    found = _layers(SimpleNamespace(tensors=lambda kind: held, reported="last"))
    expected = pd.DataFrame(dict(layer=["a.weight", "b.weight"], weights=[4, 2], left=[2, 2]))
    pd.testing.assert_frame_equal(found, expected)


def test_what_is_left_is_read_from_the_kept_runs(study):
    left = left_table(study, rows_of(study, decay_specs(study)))
    seen = left[left.runs > 0]
    assert len(seen) >= 4 and seen.left.between(0, 100, inclusive="right").all()
    assert left[left.runs == 0].left.isna().all() and len(show_left(left)) == len(seen)
    assert not left.duplicated(["loss", "decay", "epochs"]).any()
