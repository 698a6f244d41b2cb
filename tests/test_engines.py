"""A step that is recorded and replayed is the step that is called: nothing in it asks the host,
and it leads to the same weights."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from koa_repro import fitting as fitting_module
from koa_repro import losses
from koa_repro.losses import HybridLoss, hybrid_loss
from koa_repro.model import SiameseGAP
from koa_repro.networks import create, fitting
from koa_repro.phantom import make_knees
from koa_repro.tools import engines
from koa_repro.tools.engines import Captured, _warm_up
from koa_repro.training import Recipe, Trainer, draw_epoch, fit, has_bf16

RECIPE = Recipe(epochs=2, batch=16, pixels=16, schedule="onecycle")


@pytest.fixture(scope="module")
def knees():
    return make_knees(160, seed=3)


def trainer(knees, loss=None, recipe=RECIPE, model=None, **more):
    torch.manual_seed(0)
    return Trainer(
        model or SiameseGAP(padding=1),
        loss or nn.CrossEntropyLoss(),
        knees,
        recipe,
        device="cpu",
        **more,
    )


def draws(t):  # positions and changes of an epoch
    return [torch.from_numpy(d) for d in draw_epoch(t.labels, t.recipe, t.seed, 0)]


def tensors(t):
    return [
        *t.model.state_dict().values(),
        *t.loss.buffers(),
        *(v for s in t.optimizer.state.values() for v in s.values()),
    ]


SLOW = pytest.mark.skipif(not has_bf16("cpu"), reason="bf16 is emulated here, in minutes a run")


@pytest.mark.parametrize(
    "options, targets, precision",
    [
        (None, "epoch", "float32"),
        ({}, "epoch", "float32"),
        pytest.param({}, "epoch", "bf16", marks=SLOW),
        (dict(order="adaptive"), "epoch", "float32"),
        (dict(order="random"), "epoch", "float32"),
        (dict(warmup=1), "epoch", "float32"),
        ({}, "batch", "float32"),
    ],
)
def test_replayed_is_called(options, targets, precision):
    knees, ends = make_knees(80, seed=3), []
    for engine in ("plain", "captured"):
        loss = None if options is None else hybrid_loss(guard=False, **options)
        ends.append(
            fit(
                trainer(
                    knees,
                    loss,
                    replace(RECIPE, targets=targets),
                    precision=precision,
                    engine=engine,
                ),
                progress=False,
            )
        )
    assert all(torch.equal(a, b) for a, b in zip(*map(tensors, ends), strict=True))
    drop = lambda t: [
        {k: v for k, v in row.items() if k not in ("seconds", "knees_a_second")}
        for row in t.history
    ]
    assert str(drop(ends[0])) == str(drop(ends[1]))


@pytest.mark.parametrize("before", [0, 2])
def test_warming_up_leaves_no_trace(knees, before):
    t = trainer(knees, hybrid_loss(order="adaptive"), engine="captured")
    t.loss.observe_validation(torch.eye(2), torch.arange(2))
    order, change = draws(t)
    for i in range(before):
        t.step(order[i], change[i])
    held = [v.clone() for v in tensors(t)]
    _warm_up(t, lambda: t.step(order[5], change[5]))
    after = tensors(t)
    if before:
        assert all(torch.equal(a, b) for a, b in zip(held, after, strict=True))
    else:
        assert (
            all(torch.equal(a, b) for a, b in zip(held, after))
            and len(after) > len(held)
            and not any(v.any() for v in after[len(held) :])
        )
    t.step(order[5], change[5])
    assert not all(torch.equal(a, b) for a, b in zip(held, tensors(t)))


class Asked(TorchDispatchMode):
    "Notes every operation for which a GPU and the host wait for each other: none is recorded."

    BAD = (
        "_local_scalar_dense",
        "lift_fresh",
        "nonzero",
        "masked_select",
        "is_nonzero",
        "unique",
        "aten.equal.",
    )

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        by_mask = "aten.index" in name and any(
            isinstance(v, torch.Tensor) and v.dtype == torch.bool
            for a in args
            if isinstance(a, (list, tuple))
            for v in a
        )
        if by_mask or any(bad in name for bad in self.BAD):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def asked(t):
    t.model.train()
    order, change = draws(t)
    t.take(order[0], change[0])  # records
    with Asked() as a:
        t.take.replay()
    return a.found


HYBRIDS = [
    dict(),
    dict(order="adaptive"),
    dict(order="random"),
    dict(reading="printed-onehot"),
    dict(reading="printed-mask"),
    dict(reduction="sum"),
    dict(reduction="mean"),
    dict(guard=False),
    dict(warmup=1),
]


@pytest.mark.parametrize("options", [None, *HYBRIDS])
def test_a_step_asks_nothing(knees, options, monkeypatch):
    monkeypatch.setattr(losses, "_look", lambda t: False)  # as on a GPU
    loss = None if options is None else hybrid_loss(**options)
    assert asked(trainer(knees, loss, engine="captured")) == []


@pytest.mark.parametrize(
    "options", [dict(pool="gmp", positions=(4,)), dict(attention="ca8", fusion="concat")]
)
def test_nor_does_a_variants_step(knees, options, monkeypatch):
    monkeypatch.setattr(losses, "_look", lambda t: False)
    model = SiameseGAP(padding=1, **options)
    assert asked(trainer(knees, HybridLoss(), model=model, engine="captured")) == []


@pytest.mark.parametrize("name", ["antony", "tiulpin", "nasser", "resnet-18", "densenet-121"])
def test_nor_does_a_comparators_step(knees, name, monkeypatch):
    monkeypatch.setattr(losses, "_look", lambda t: False)
    assert (
        asked(
            trainer(
                knees,
                HybridLoss(),
                model=create(name, **fitting(name, RECIPE.pixels)),
                engine="captured",
            )
        )
        == []
    )


def test_a_question_would_be_seen(knees):
    "On a CPU the loss looks at the labels' values, which costs nothing there."
    assert "aten._local_scalar_dense.default" in asked(
        trainer(knees, HybridLoss(), engine="captured")
    )


def test_the_paper_s_network_compiles_in_one_piece(knees):
    t = trainer(knees, precision="float32")
    t.model.eval()
    order, change = draws(t)
    one_piece = torch.compile(t.forward, backend="aot_eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(one_piece(order[0], change[0]), t.forward(order[0], change[0]))


def test_engines_are_not_mixed(knees, tmp_path):
    with pytest.raises(
        ValueError, match="engine='quick' is not known: choose plain, captured, compiled"
    ):
        trainer(knees, engine="quick")
    assert trainer(knees).engine == "plain"
    fit(trainer(knees), tmp_path / "c.pt", progress=False, until=1)
    with pytest.raises(
        ValueError, match="engine='plain', this training would go on with 'captured': delete it"
    ):
        fit(trainer(knees, engine="captured"), tmp_path / "c.pt", progress=False)


class Clock:
    "A clock that moves only where a test says so."

    now = 0.0

    def __call__(self):
        return self.now


def test_a_recording_is_no_part_of_an_epoch(knees, monkeypatch):
    "What the first epoch of a run takes is what the next one will, whatever the recording took."
    clock, few, forward = Clock(), Captured._few, Trainer.train_epoch

    def slow_recording(self):
        clock.now += 3600
        few(self)

    def slow_epoch(self, tick):
        clock.now += 5
        return forward(self, tick)

    monkeypatch.setattr(engines, "perf_counter", clock)
    monkeypatch.setattr(fitting_module, "perf_counter", clock)
    monkeypatch.setattr(Captured, "_few", slow_recording)
    monkeypatch.setattr(Trainer, "train_epoch", slow_epoch)
    t = trainer(knees, engine="captured")
    assert t.run_epoch()["seconds"] == 5 and t.recording == 3600
    assert t.run_epoch()["seconds"] == 5 and t.recording == 0
