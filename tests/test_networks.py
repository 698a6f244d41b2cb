"""Networks: sizes, views, a step and a prediction each, the registry, and the way to a kept run."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from koa_repro.data import GRADES
from koa_repro.losses import HybridLoss
from koa_repro.model import SiameseGAP, pool_map
from koa_repro.networks import (
    NETWORKS,
    Network,
    create,
    fitting,
    multiply_adds,
    weigh,
    within_share,
)
from koa_repro.patches import VIEWS, DeviceKnees, blank, view_of
from koa_repro.phantom import make_knees
from koa_repro.runs import knees_id, make_run, open_run, reopen
from koa_repro.specs import RunSpec, build_network, read_spec
from koa_repro.study import PROFILES, Study, study_spec
from koa_repro.training import Recipe, Trainer, predict

SIZES = {
    "densenet-121": 6_949_634,
    "densenet-161": 26_467_010,
    "densenet-169": 12_481_538,
    "densenet-201": 18_090_498,  # two outputs, one grey channel
    "resnet-18": 11_171_266,
    "resnet-34": 21_279_426,
    "resnet-50": 23_505_858,
    "resnet-101": 42_497_986,
    "resnet-152": 58_141_634,
    "vgg-11": 195_887_746,
    "vgg-13": 196_072_642,
    "vgg-16": 201_384_898,
    "vgg-19": 206_697_154,
    "antony": 5_467_234,
    "tiulpin": 2_366_722,
    "tiulpin-64": 593_538,
    "siamese-gap": 2_688_482,
}
QUICK = Recipe(epochs=1, batch=4, pixels=32, schedule="onecycle")
TRAINED = [n for n in NETWORKS if not n.startswith("vgg")]


@pytest.fixture(scope="module")
def knees():
    return make_knees(24, seed=4)


@pytest.fixture(scope="module")
def five():
    return make_knees(60, seed=4, grades=GRADES)


@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_to_the_parameter(name):
    count, cost = weigh(NETWORKS[name])
    assert cost > 0 and (count == SIZES[name] if name in SIZES else abs(count / 11.37e6 - 1) < 0.01)
    assert weigh(NETWORKS[name], classes=5)[0] > count


def needs(name):
    "Options at 32 pixels."
    return fitting(name, 32)


def trained_one_step(name, knees, loss, precision="float32"):
    torch.manual_seed(0)
    trainer = Trainer(
        create(name, len(knees.grades), **needs(name)),
        loss,
        knees,
        QUICK,
        precision=precision,
        device="cpu",
    )
    trainer.model.train()
    index = torch.from_numpy(np.linspace(0, len(trainer.train) - 1, 4).astype(int))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    value, logits = trainer.step(index, torch.tensor([[5.0, 1.1, 0.9]]).expand(4, 3))
    assert value.isfinite() and logits.shape == (4, len(knees.grades))
    still = [n for (n, p), b in zip(trainer.model.named_parameters(), before) if torch.equal(p, b)]
    assert not still, f"{name}: {still} did not move"
    return trainer


@pytest.mark.parametrize("name", TRAINED)
def test_every_network_takes_a_step_and_predicts(name, knees):
    trainer = trained_one_step(name, knees, torch.nn.CrossEntropyLoss())
    assert [v.shape[1:] for v in trainer.val.views(torch.arange(1))] == [
        b.shape[1:] for b in blank(view_of(trainer.model), 32)
    ]
    assert predict(trainer.model, trainer.val).isfinite().all()


@pytest.mark.parametrize("name", ["densenet-121", "resnet-18", "nasser", "antony", "tiulpin"])
def test_five_grades_under_the_hybrid_loss(name, five):
    trainer = trained_one_step(name, five, HybridLoss(5))
    assert predict(trainer.model, trainer.val).shape == (len(trainer.val), 5)


def test_half_precision(knees):
    for name in ("nasser", "tiulpin-64", "antony"):
        trained_one_step(name, knees, torch.nn.CrossEntropyLoss(), "bf16")


VGGS = """
import sys, torch
from koa_repro.tools.network_costs import peak_memory
sys.path.insert(0, 'tests')
from test_networks import make_knees, trained_one_step, predict
trainer = trained_one_step('vgg-19', make_knees(24, seed=4), torch.nn.CrossEntropyLoss())
assert predict(trainer.model, trainer.val).isfinite().all()
print(peak_memory())
"""


def test_the_biggest_fits_into_memory():
    "In a process of its own whose peak is read."
    from koa_repro.paths import repository

    done = subprocess.run(
        [sys.executable, "-c", VGGS], cwd=repository(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 12, f"{done.stdout} GiB"


def test_multiply_adds_without_content_are_those_of_a_pass():
    for name in ("antony", "nasser", "tiulpin-64"):
        net = create(name)
        assert weigh(NETWORKS[name])[1] == multiply_adds(net, *blank(view_of(net)))


def test_a_linear_layer_counts_with_and_without_bias():
    x = torch.zeros(1, 5)
    assert [multiply_adds(torch.nn.Linear(5, 7, bias=b), x) for b in (True, False)] == [35, 35]


@pytest.mark.parametrize("name", ["nasser", "antony", "tiulpin-64"])
def test_a_run_is_kept_and_reopened(name, knees, tmp_path):
    "Taken from its folder, the network predicts from its own view what the run's predictions say."
    spec = RunSpec(
        knees_id(knees.frame()),
        network=name,
        options=fitting(name, 32),
        recipe=QUICK,
        loss="hybrid",
    )
    run = make_run(spec, knees, tmp_path, progress=False, device="cpu")
    model, seen = reopen(run, knees.where(split="test"))
    own = run.predictions()
    own = own[own.split == "test"]
    assert seen.view == view_of(model) and type(model) is type(build_network(spec))
    np.testing.assert_allclose(
        predict(model, seen).softmax(1).numpy(), own[["p0", "p1"]], atol=1e-5
    )


def test_each_view_has_its_own_scale(knees):
    for view in VIEWS:
        values = torch.cat(
            [
                v.flatten()
                for v in DeviceKnees(knees, "cpu", view=view).views(torch.arange(len(knees)))
            ]
        )
        assert abs(values.mean()) < 1e-3 and abs(values.std() - 1) < 1e-3
    assert len({DeviceKnees(knees, "cpu", view=view).scale for view in VIEWS}) == len(VIEWS)


def test_every_profile_fits_every_network(tmp_path):
    "A spec of any network can be made, built and run on nothing, whatever the profile's pixels."
    pixels = {p.recipe.pixels: name for name, p in PROFILES.items()}
    for profile in pixels.values():
        study = Study(profile, "reference", out=str(tmp_path), store=str(tmp_path))
        for name in ("antony", "nasser", "tiulpin", "resnet-18", "siamese-gap"):
            spec = study_spec(study, network=name)
            net = build_network(spec).eval()
            assert (
                net(*blank(view_of(net), spec.recipe.pixels)).shape == (1, 2)
                and spec.recipe == study.settings.recipe
            )


def test_names_are_the_papers():
    from koa_repro.claims import paper_numbers

    printed = {n.row for n in NETWORKS.values() if n.printed}
    assert set(paper_numbers("IV").row) == printed
    assert {n for n in NETWORKS if not NETWORKS[n].printed} == {"tiulpin-64"}


def test_auxiliary_reaches_the_gradient_and_is_taken_once(knees):
    torch.manual_seed(0)
    net, labels = create("nasser").train(), torch.tensor([0, 1])
    net(torch.randn(2, 1, 74, 74))
    net.auxiliary(labels).backward()
    assert (
        net.up[-1].weight.grad.abs().sum() > 0
        and net.encode[2].weight.grad.abs().sum() > 0
        and net.head.weight.grad is None
    )
    with pytest.raises(TypeError):
        net.auxiliary(labels)
    net.eval()(torch.randn(2, 1, 74, 74))
    assert net.seen is None


def test_within_share_falls_as_grades_part():
    g = torch.Generator().manual_seed(0)
    labels, noise = torch.arange(40) % 2, torch.randn(40, 3, generator=g)
    shares = [within_share(noise + gap * labels[:, None], labels).item() for gap in (0, 1, 3, 10)]
    assert sorted(shares, reverse=True) == shares and 0 <= shares[-1] < 0.1 < 0.9 < shares[0] <= 1


def test_monai_is_imported_only_where_it_is_needed():
    code = """
import sys
sys.modules['monai'] = None
from koa_repro.specs import RunSpec, build_network, read_spec
build_network(RunSpec('a', network='antony'))
try:
    build_network(RunSpec('a', network='resnet-18'))
except ImportError as e:
    print(e)
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "pip install monai" in out and out.count("\n") == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_an_entry_describes_its_network(name):
    "View and layer are the network's own; the layer's map has a height and a width."
    entry = NETWORKS[name]
    with FakeTensorMode():
        net = create(name).eval()
        assert view_of(net) == entry.view
        seen = {}
        for path, module in net.named_modules():
            module.register_forward_hook(lambda m, i, o, path=path: seen.update({path: o}))
        net(*blank(entry.view))
    maps = seen[entry.layer]
    assert maps.ndim == 4 and min(maps.shape[2:]) > 1


def test_names_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="alexnet.*siamese-gap"):
        create("alexnet")


def test_a_network_added_to_the_registry_is_specified_and_trained(knees, monkeypatch):
    class Tiny(torch.nn.Module):
        view = "joint"

        def __init__(self, classes: int = 2, scale: float = 1.0):
            super().__init__()
            self.map, self.head = torch.nn.Identity(), torch.nn.Linear(1, classes)
            self.scale = scale

        def forward(self, joint):
            return self.head(pool_map(self.map(joint), "gap") * self.scale)

    with pytest.raises(ValueError, match="tiny"):
        RunSpec("abc", network="tiny")
    monkeypatch.setitem(NETWORKS, "tiny", Network(Tiny, "Tiny", "map", light=True, printed=False))
    plain, scaled = (RunSpec("abc", network="tiny", options=o) for o in ({}, dict(scale=2.0)))
    assert plain.id == RunSpec("abc", network="tiny", options=dict(scale=1.0)).id != scaled.id
    assert build_network(scaled).scale == 2.0
    trained_one_step("tiny", knees, torch.nn.CrossEntropyLoss())


def test_pooling_is_the_mean_and_the_maximum():
    x = torch.randn(3, 5, 7, 4, requires_grad=True)
    for pool, value in (("gap", x.mean((2, 3))), ("gmp", x.amax((2, 3)))):
        mine = pool_map(x, pool)
        torch.testing.assert_close(mine, value, atol=1e-6, rtol=0)
        weight = torch.randn_like(mine)
        both = [
            torch.autograd.grad((v * weight).sum(), x, retain_graph=True)[0] for v in (mine, value)
        ]
        torch.testing.assert_close(*both, atol=1e-6, rtol=0)
    assert (
        pool_map(x.bfloat16(), "gap").dtype == pool_map(x.bfloat16(), "gmp").dtype == torch.float32
    )


@pytest.mark.parametrize(
    "bad",
    [
        dict(pool="max"),
        dict(positions=()),
        dict(positions=4),
        dict(positions=(0, 1)),
        dict(positions=(1, 1)),
        dict(fusion="sum"),
        dict(attention="se"),
        dict(padding=(0, 1)),
        dict(padding=2),
    ],
)
def test_an_option_that_cannot_be_is_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))) as e:
        SiameseGAP(**bad)
    assert "\n" not in str(e.value)


def test_the_smallest_patch():
    "Without padding 100 pixels or so are the least; the last block padded, 64 pass."
    net = SiameseGAP(padding=0).eval()
    least = next(p for p in range(60, 129) if _maps(net, p))
    assert _maps(net, least)[-1] == 1 and not _maps(net, least - 1) and 90 < least < 110
    assert _maps(SiameseGAP(padding=(0, 0, 0, 1)), 64) == [60, 25, 6, 3]


def _maps(net, pixels):
    try:
        return [m.shape[-1] for m in net.eval().maps(torch.zeros(1, 1, pixels, pixels))]
    except RuntimeError:
        return None


@pytest.mark.parametrize("padding", [0, 1, (0, 0, 0, 1), (1, 0, 0, 1)])
def test_the_smallest_patch_is_told_and_a_smaller_one_refused(padding):
    net = SiameseGAP(padding=padding).eval()
    least = next(p for p in range(1, 129) if _maps(net, p))
    enough = torch.zeros(2, 1, least, least)
    assert net.smallest == least and net(enough, enough).shape == (2, 2)
    for lateral, medial in ((enough[..., 1:],) * 2, (enough, enough[:1])):
        with pytest.raises(ValueError, match=f"at least {least} pixels"):
            net(lateral, medial)


@pytest.mark.parametrize("name", [n for n in NETWORKS if NETWORKS[n].light])
def test_what_a_network_needs_lets_small_patches_through(name):
    for pixels in (16, 32, 64):
        made = create(name, **fitting(name, pixels)).eval()
        assert made(*blank(NETWORKS[name].view, pixels)).shape == (1, 2)


# networks of one's own

OWN = """
import torch
from torch import nn

POWER = 1


class Block(nn.Module):
    def forward(self, x):
        return x**POWER


class Small(nn.Module):
    view = "VIEW"

    def __init__(self, classes=2, width=4):
        super().__init__()
        self.head, self.block = nn.Linear(width, classes), Block()

    @staticmethod
    def scaled(x):
        return 2 * x

    def forward(self, lateral, medial):
        return self.head(self.block(lateral FUSED medial).mean((1, 2, 3))[:, None].repeat(1, 4))
"""


def test_a_network_of_ones_own_is_named_by_its_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def spec(module, fused, *change):
        text = OWN.replace("FUSED", fused).replace(*change or ("x", "x"))
        text = text.replace("VIEW", "patches")
        (tmp_path / f"{module}.py").write_text(text)
        small = importlib.import_module(module).Small
        monkeypatch.setitem(NETWORKS, "small", Network(small, "Small", "head", printed=False))
        return RunSpec("k", network="small", options=dict(width=4))

    texts = [spec(f"own_{i}", fused).text for i, fused in enumerate("+-+")]
    assert texts[0] == texts[2] != texts[1]
    changes = [
        ("VIEW", "band"),
        ("x**POWER", "x.abs()"),
        ("POWER = 1", "POWER = 2"),
        ("2 * x", "x"),
    ]
    others = [spec(f"own_other_{i}", "+", *change).text for i, change in enumerate(changes)]
    assert len({*others, *texts}) == 2 + len(changes)
    assert spec("own_again", "+").text == texts[0]
    assert read_spec(texts[0]).text == texts[0]  # the code is the same, in another file
    assert "code" not in RunSpec("k").text
    spec("own_3", "-")
    with pytest.raises(ValueError, match="network had other code"):
        read_spec(texts[0])
    monkeypatch.delitem(NETWORKS, "small")
    with pytest.raises(ValueError, match="'small' is not known.*NETWORKS"):
        read_spec(texts[0])


def test_a_run_in_hand_does_not_open_with_other_code(tmp_path, monkeypatch):
    class Mean(torch.nn.Module):
        def __init__(self, classes=2):
            super().__init__()
            self.head = torch.nn.Linear(1, classes)

        def forward(self, lateral, medial):
            return self.head((lateral + medial).mean((1, 2, 3))[:, None])

    class Other(Mean):
        def forward(self, lateral, medial):
            return -super().forward(lateral, medial)

    put = lambda made: monkeypatch.setitem(NETWORKS, "mean", Network(made, "Mean", "head"))
    put(Mean)
    every = make_knees(60, seed=4, grades=GRADES)
    two = every.only(0, 2)
    recipe = Recipe(epochs=1, batch=8, pixels=16)
    spec = RunSpec(knees_id(two.frame()), network="mean", recipe=recipe)
    run = make_run(spec, two, tmp_path, progress=False, device="cpu")
    assert open_run(str(run.path)).spec == spec
    put(Other)
    for ask in (run.model, lambda: open_run(run.path)):
        with pytest.raises(ValueError, match="network had other code"):
            ask()
    put(Mean)
    assert run.model().head.bias.shape == (2,)
    with pytest.raises(FileNotFoundError, match="no run at"):
        open_run(tmp_path / "nothing")
    with pytest.raises(ValueError, match="not the knees"):  # of more grades than the spec's
        make_run(spec, every, tmp_path / "other", progress=False, device="cpu")
