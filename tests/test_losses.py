"""The losses against loops over samples and grades, in every reading and reduction."""

import copy
import itertools
import pickle
import warnings
from math import log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from koa_repro import losses
from koa_repro.losses import (
    CE,
    KLD,
    LSCE,
    HybridLoss,
    average_confidence,
    hybrid_loss,
    soft_target,
)
from koa_repro.partition import confidence, partition, sizes
from koa_repro.phantom import make_knees
from koa_repro.runs import references
from koa_repro.specs import build_loss, build_network, read_spec
from koa_repro.study import Study, study_spec
from koa_repro.training import Recipe, Trainer, draw_epoch, fit
from koa_repro.variants import ORDERS, PATIENCE, READINGS, REDUCTIONS

RATIOS = st.sampled_from([(7, 2, 1), (6, 3, 1), (8, 1, 1), (1, 1, 1), (0, 1, 0), (1, 0, 3)])


def batch(n, K, seed, scale=2.0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, K, generator=g, dtype=torch.float64) * scale, torch.randint(
        K, (n,), generator=g
    )


def own_term(p, y, code, reading, eps, c_k):
    "One sample's term from the equations; c_k holds None where it is unknown (or guarded)."
    K, right = len(p), max(range(len(p)), key=p.__getitem__) == y
    kl = lambda t: sum(a * log(a / b) for a, b in zip(t, p) if a > 0)
    if reading == "intended":
        if code == 0:
            return -sum(((1 - eps) * (k == y) + eps / K) * log(p[k]) for k in range(K))
        if code == 1 and None not in c_k:
            return kl([c_k[y] if k == y else (1 - c_k[y]) / (K - 1) for k in range(K)])
        return -log(p[y])
    hot = 1 if reading == "printed-onehot" else int(right)
    if code == 0:
        return -(hot * (1 - eps) + eps / K) * log(p[y])
    if code == 1:
        return hot * ((log(c_k[y]) if c_k[y] is not None else 0) - log(p[y]))
    return -hot * log(p[y])


def by_hand(x, y, loss, c_k):
    P = x.softmax(1).tolist()
    codes = partition(confidence(x, y), y, loss.ratio).tolist()
    terms = [
        own_term(p, k, s, loss.reading, loss.smoothing, c_k)
        for p, k, s in zip(P, y.tolist(), codes)
    ]
    parts = []
    for s in range(3):
        mine = [t for t, code in zip(terms, codes) if code == s]
        size = {"sum": 1, "batch": max(len(terms), 1), "mean": max(len(mine), 1)}[loss.reduction]
        parts.append(sum(mine) / size)
    return parts, sum(w * part for w, part in zip(loss.weights, parts)), codes


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("reading", READINGS)
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 24),
    K=st.integers(2, 5),
    seed=st.integers(0, 10**6),
    ratio=RATIOS,
    guard=st.booleans(),
    eps=st.sampled_from([0.0, 0.05, 0.15, 0.5]),
    known=st.sampled_from(["none", "some", "all", "all"]),
)
def test_is_its_definition(reading, reduction, n, K, seed, ratio, guard, eps, known):
    x, y = batch(n, K, seed)
    loss = hybrid_loss(K, ratio, eps, (0.3, 0.5, 0.2), reading, reduction, guard)
    c = torch.rand(K, generator=torch.Generator().manual_seed(seed + 1)) * 0.9 + 0.1
    if known != "all":
        c[0 if known == "some" else slice(None)] = torch.nan
    loss.class_confidence.copy_(c)
    c_k = [None if v != v else v for v in c.tolist()]
    if guard and reading == "intended" and any(v is None or v <= 1 / K for v in c_k):
        c_k = [None] * K
    parts, total, codes = by_hand(x, y, loss, c_k)
    t = loss.terms(x, y)
    assert t.codes.tolist() == codes
    # c_k is stored in single precision and enters as such; all else is double
    torch.testing.assert_close(
        t.parts, torch.tensor(parts, dtype=torch.float64), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(t.loss.item(), float(total), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss(x, y), t.loss, rtol=0, atol=0)
    torch.testing.assert_close(loss(x.float(), y).double(), t.loss, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reading", READINGS)
@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 24), K=st.integers(2, 5), seed=st.integers(0, 10**6))
def test_order_of_the_batch_plays_no_part(reading, n, K, seed):
    x, y = batch(n, K, seed)
    loss = hybrid_loss(K, reading=reading)
    loss.class_confidence.fill_(0.8)
    p = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(loss(x[p], y[p]), loss(x, y), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("K", [2, 5])
def test_gradient(K, reading, reduction):
    x, y = batch(20, K, 3)
    loss = hybrid_loss(K, reading=reading, reduction=reduction)
    for c in (torch.nan, 0.8):  # before and after the first validation
        loss.class_confidence.fill_(c)
        assert torch.autograd.gradcheck(lambda x: loss(x, y), x.clone().requires_grad_(), eps=1e-7)


@pytest.mark.parametrize(
    "options", [{}, dict(order="adaptive"), dict(target=0.85), dict(reading="printed-mask")]
)
def test_cross_entropy_comes_first(options):
    x, y = batch(20, 2, 3)
    loss, after = hybrid_loss(warmup=2, **options), hybrid_loss(**options)
    plain = torch.nn.functional.cross_entropy
    for epoch in range(4):
        if epoch == 1:  # as after an interruption
            saved, loss = loss.state_dict(), hybrid_loss(warmup=2, **options)
            loss.load_state_dict(saved)
        t, hybrid = loss.terms(x, y), after.terms(x, y)
        expect = hybrid
        if epoch < 2:
            ce = plain(x, y, reduction="none")
            parts = torch.tensor([0, 0, ce.mean()], dtype=ce.dtype)
            expect = hybrid._replace(loss=ce.mean(), parts=parts, values=ce)
        for a, b in zip(t, expect):
            torch.testing.assert_close(a, b)
        used = after if epoch > 1 else plain
        torch.testing.assert_close(slope(loss, x, y), slope(used, x, y))
        for one in (loss, after):
            with one.validation() as observe:
                observe(x[:9], y[:9])
                observe(x[9:], y[9:])
    assert not torch.allclose(hybrid.loss, plain(x, y))
    loss.reset()
    torch.testing.assert_close(loss(x, y), plain(x, y))


def slope(loss, x, y):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss(x, y), x)[0]


def test_onehot_print_is_cross_entropy_weighted_by_rank():
    x, y = batch(32, 2, 0)
    loss = hybrid_loss(reading="printed-onehot")
    before = slope(loss, x, y)
    loss.class_confidence.copy_(torch.tensor([0.9, 0.55]))
    assert slope(loss, x, y).equal(before)  # c_k moves the value alone
    factor = torch.tensor([0.4 * (1 - 0.15 / 2), 0.5, 0.1], dtype=torch.float64)[
        loss.terms(x, y).codes
    ]
    torch.testing.assert_close(before, slope(lambda x, y: (factor * CE(x, y)).mean(), x, y))


def test_mask_print_gives_wrong_knees_no_slope_outside_h():
    x, y = batch(64, 2, 1)
    loss = hybrid_loss(reading="printed-mask")
    loss.class_confidence.fill_(0.8)
    wrong, codes, g = x.argmax(1) != y, loss.terms(x, y).codes, slope(loss, x, y)
    assert (
        (wrong & (codes > 0)).sum() > 5
        and g[wrong & (codes > 0)].abs().max() == 0
        and (g[~wrong].abs().sum(1) > 0).all()
    )


def test_soft_target():
    torch.testing.assert_close(
        soft_target(0.8, torch.tensor([2]), 5), torch.tensor([[0.05, 0.05, 0.8, 0.05, 0.05]])
    )
    torch.testing.assert_close(
        soft_target(torch.tensor([1.0, 0.7]), torch.tensor([1, 1]), 2),
        torch.tensor([[0, 1.0], [0.3, 0.7]]),
    )


def test_single_losses_are_torchs():
    x, y = batch(50, 4, 2, 6.0)
    F = torch.nn.functional
    torch.testing.assert_close(CE(x, y), F.cross_entropy(x, y, reduction="none"))
    torch.testing.assert_close(
        LSCE(x, y, 0.2),
        F.cross_entropy(x, y, label_smoothing=0.2, reduction="none"),
        rtol=1e-6,
        atol=1e-6,
    )
    torch.testing.assert_close(KLD(x, y, 1.0), CE(x, y))
    assert (KLD(x, y, 0.6) >= 0).all()
    mixed = torch.rand(50, dtype=torch.float64)
    torch.testing.assert_close(
        KLD(x, y, mixed),
        torch.cat([KLD(x[i : i + 1], y[i : i + 1], mixed[i].item()) for i in range(50)]),
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize("reading", READINGS)
def test_extreme_logits_and_extreme_targets_stay_finite(reading):
    x, y = (
        torch.tensor([[1e4, -1e4], [-1e4, 1e4]]).repeat(16, 1).requires_grad_(),
        torch.tensor([0, 1, 1, 0]).repeat(8),
    )
    for c in (0.0, 1.0):
        loss = hybrid_loss(reading=reading, guard=False)
        loss.class_confidence.fill_(c)
        value = loss(x, y)
        (g,) = torch.autograd.grad(value, x)
        assert value.isfinite() and g.isfinite().all()


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_nan_is_never_hidden(reading, reduction):
    x, y = batch(32, 2, 0)
    y = torch.arange(32) % 2
    loss = hybrid_loss(reading=reading, reduction=reduction)
    loss.class_confidence.fill_(0.8)
    for i in range(32):
        broken = x.clone()
        broken[i, 0] = torch.nan
        assert loss(broken, y).isnan()


def test_reductions():
    x, y = batch(32, 2, 5)
    y = torch.arange(32) % 2
    parts = {r: hybrid_loss(reduction=r).terms(x, y).parts for r in REDUCTIONS}
    torch.testing.assert_close(parts["sum"], parts["batch"] * 32)
    torch.testing.assert_close(
        parts["sum"],
        parts["mean"] * torch.tensor([2.0 * n for n in sizes(16)], dtype=torch.float64),
    )


@pytest.mark.parametrize("reading", READINGS)
def test_given_codes_take_the_place_of_the_drawn_ones(reading):
    x, y = batch(32, 2, 0)
    loss = hybrid_loss(reading=reading)
    t = loss.terms(x, y)
    assert loss.terms(x, y, codes=t.codes).loss.equal(t.loss)
    low = loss.terms(x, y, codes=t.codes * 0 + 2)
    assert (low.codes == 2).all() and low.parts[:2].tolist() == [0, 0] and low.parts[2] > 0


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_empty_batch_costs_nothing(reduction):
    x = torch.zeros(0, 2, requires_grad=True)
    value = hybrid_loss(reduction=reduction)(x, torch.zeros(0, dtype=torch.int64))
    value.backward()
    assert value == 0 and x.grad.shape == (0, 2)


def test_observed_confidence_is_the_mean_of_each_grade():
    x, y = batch(300, 3, 0)
    y[y == 2] = 0
    loss = HybridLoss(3)
    loss.observe_validation(x.float(), y)
    c = x.softmax(1)[torch.arange(300), y]
    torch.testing.assert_close(
        loss.class_confidence[:2],
        torch.stack([c[y == k].mean() for k in (0, 1)]).float(),
        rtol=1e-5,
        atol=0,
    )
    assert loss.class_confidence[2].isnan()
    kept = loss.class_confidence.clone()
    loss.observe_validation(x[:1], torch.tensor([2]))
    assert loss.class_confidence[:2].equal(kept[:2]) and not loss.class_confidence.requires_grad


def test_observed_in_place_and_saved():
    loss = HybridLoss()
    place = loss.class_confidence.data_ptr()
    x, y = batch(40, 2, 0)
    loss.observe_validation(x.requires_grad_(), y)
    assert loss.class_confidence.data_ptr() == place and not loss.class_confidence.requires_grad
    assert list(loss.state_dict()) == ["class_confidence", "_extra_state"]
    other = HybridLoss()
    other.load_state_dict(copy.deepcopy(loss.state_dict()))
    assert other(x, y).equal(loss(x, y))


@pytest.mark.parametrize("guard", [True, False])
def test_guard(guard):
    x, y = batch(20, 2, 0)
    loss = HybridLoss(ratio=(0, 1, 0), weights=(0, 1, 0), guard=guard)
    for c, held in (
        ((torch.nan, 0.9), True),
        ((0.5, 0.9), guard),
        ((0.51, 0.9), False),
        ((0.9, 0.2), guard),
    ):
        loss.class_confidence.copy_(torch.tensor(c))
        assert torch.allclose(loss(x, y), CE(x, y).mean(), rtol=1e-12) == held


@pytest.mark.parametrize("reading", READINGS)
def test_precision_is_single_whatever_surrounds(reading):
    x, y = batch(32, 2, 0)
    x = x.bfloat16()
    loss = hybrid_loss(reading=reading)
    loss.class_confidence.fill_(0.8)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(x, y)
    assert inside.dtype == torch.float32 and inside.equal(loss(x.float(), y))
    assert loss(x.float(), y.int()).equal(inside) and loss(x.float(), y.to(torch.uint8)).equal(
        inside
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("reading", READINGS)
def test_needs_no_value(reading, reduction):
    loss = hybrid_loss(5, reading=reading, reduction=reduction).to("meta")
    x, y = (
        torch.empty(32, 5, device="meta", requires_grad=True),
        torch.empty(32, dtype=torch.int64, device="meta"),
    )
    loss.observe_validation(x, y, validate=False)
    loss(x, y).backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize(
    "bad, message",
    [
        (dict(weights=(0.5, 0.5)), "weights="),
        (dict(weights=(0.5, -0.1, 0.6)), "weights="),
        (dict(weights=0.5), "weights="),
        (dict(weights=(0.5, float("nan"), 0.5)), "weights="),
        (dict(weights="abc"), "weights="),
        (dict(smoothing=1.0), "smoothing="),
        (dict(smoothing=-0.1), "smoothing="),
        (dict(smoothing="0.15"), "smoothing="),
        (dict(reading="printed"), "reading="),
        (dict(reduction="none"), "reduction="),
        (dict(order="luck"), "order="),
        (dict(target=0.0), "target="),
        (dict(target=1.1), "target="),
        (dict(target=True), "target="),
        (dict(target=0.85, reading="printed-mask"), "target="),
        (dict(guard_level=1.0), "guard_level="),
        (dict(guard_level="1/K"), "guard_level="),
        (dict(guard_scope="all"), "guard_scope="),
        (dict(warmup=-1), "warmup="),
        (dict(warmup=1.5), "warmup="),
        (dict(ratio=(0.7, 0.2, 0.1)), "ratio="),
        (dict(classes=1), "classes="),
        (dict(classes=2.0), "classes="),
    ],
)
def test_refuses_settings(bad, message):
    with pytest.raises(ValueError, match=message):
        hybrid_loss(**bad)


@pytest.mark.parametrize(
    "shape, labels, message",
    [
        ((4, 2), [0, 1, 0, 2], r"labels\[3\] is 2"),
        ((4, 2), [0, -1, 0, 1], r"labels\[1\] is -1"),
        ((4, 3), [0, 1, 0, 1], "3 columns"),
        ((4,), [0, 1, 0, 1], "shape"),
        ((4, 2), [0, 1], "shape"),
        ((4, 2), [0.0, 1.0, 0.0, 1.0], "whole numbers"),
    ],
)
def test_refuses_batches(shape, labels, message):
    for call in (HybridLoss(), HybridLoss().observe_validation):
        with pytest.raises(ValueError, match=message):
            call(torch.zeros(shape), torch.tensor(labels))


@pytest.mark.parametrize("labels", [[0, 1, 0, 1], torch.tensor([0, 1, 0, 1]).numpy()])
def test_refuses_labels_that_are_no_tensor(labels):
    for call in (HybridLoss(), HybridLoss().observe_validation, lambda x, y: CE(x, y)):
        with pytest.raises(ValueError, match=f"{type(labels).__name__}.*as_tensor"):
            call(torch.zeros(4, 2), labels)


def test_refuses_validation_that_says_nothing():
    loss = HybridLoss()
    loss.class_confidence.fill_(0.7)
    for x, message in (
        (torch.zeros(0, 2), "empty"),
        (torch.full((2, 2), torch.nan), r"logits\[0\]"),
    ):
        with pytest.raises(ValueError, match=message):
            loss.observe_validation(x, torch.zeros(len(x), dtype=torch.int64))
    assert loss.class_confidence.tolist() == pytest.approx([0.7, 0.7])


@pytest.mark.parametrize("reading", READINGS)
@settings(max_examples=30, deadline=None)
@given(n=st.integers(0, 40), K=st.integers(2, 5), seed=st.integers(0, 10**6), ratio=RATIOS)
def test_random_sets_keep_the_sizes_and_the_terms(reading, n, K, seed, ratio):
    x, y = batch(n, K, seed)
    ranked, drawn = (
        hybrid_loss(K, ratio, reading=reading, order=order) for order in ("confidence", "random")
    )
    for loss in (ranked, drawn):
        loss.class_confidence.fill_(0.8)
    torch.manual_seed(seed)
    t = drawn.terms(x, y)
    for k in range(K):
        assert (
            t.codes[y == k]
            .bincount(minlength=3)
            .equal(ranked.terms(x, y).codes[y == k].bincount(minlength=3))
        )
    assert ranked.terms(x, y, codes=t.codes).loss.equal(t.loss)


def test_random_sets_are_fair_and_blind_to_confidence():
    x, y = batch(40, 2, 0)
    y = torch.arange(40) % 2
    torch.manual_seed(0)
    loss = hybrid_loss(order="random")
    share = torch.stack([loss.terms(x, y).codes == 0 for _ in range(2000)]).double().mean(0)
    assert (share - 0.7).abs().max() < 5 * (
        0.7 * 0.3 / 2000
    ) ** 0.5  # five standard errors, for 40 knees


def test_training_on_random_sets_goes_on_as_it_would_have(tmp_path):
    "Random sets follow from seed and epoch: interrupted or not, the weights are the same."
    knees, recipe = make_knees(60, seed=5), Recipe(epochs=2, batch=8, pixels=16)
    spec = study_spec(Study(), loss="hybrid", loss_options=dict(order="random"), recipe=recipe)
    make = lambda: Trainer(build_network(spec), build_loss(spec), knees, recipe, device="cpu")
    whole, half = (
        fit(make(), progress=False),
        fit(make(), tmp_path / "half.pt", progress=False, until=1),
    )
    torch.rand(100)
    again = fit(make(), tmp_path / "half.pt", progress=False)
    assert half.epoch == 1 and all(v.equal(again.weights()[k]) for k, v in whole.weights().items())


def test_controls_are_plain_options():
    "The divergence for every knee, smoothing alone and random sets, as specs."
    x, y = batch(32, 2, 0)
    everyone = build_loss(
        study_spec(Study(), loss="hybrid", loss_options=dict(ratio=(0, 1, 0), weights=(0, 1, 0)))
    )
    everyone.class_confidence.copy_(torch.tensor([0.8, 0.7]))
    torch.testing.assert_close(
        everyone(x, y), KLD(x, y, everyone.class_confidence[y]).mean(), rtol=1e-6, atol=1e-6
    )
    smooth = build_loss(study_spec(Study(), loss="ce", loss_options=dict(label_smoothing=0.15)))
    torch.testing.assert_close(smooth(x, y), LSCE(x, y, 0.15).mean(), rtol=1e-6, atol=1e-6)
    specs = [
        study_spec(Study(), loss="hybrid", loss_options=o)
        for o in ({}, dict(order="confidence"), dict(order="random"))
    ]
    assert specs[0].id == specs[1].id != specs[2].id
    kept = list(references().glob("*/spec.json"))
    assert kept and all(read_spec(f.read_text()).id == f.parent.name for f in kept)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 40),
    K=st.integers(2, 5),
    seed=st.integers(0, 10**6),
    guard=st.booleans(),
    least=st.sampled_from([0.0, 0.3, 0.6]),
)
def test_adaptive_sets_are_those_between_the_thresholds(n, K, seed, guard, least):
    x, y = batch(n, K, seed)
    loss = hybrid_loss(K, order="adaptive", guard=guard)
    loss.class_confidence.copy_(
        least + (1 - least) * torch.rand(K, generator=torch.Generator().manual_seed(seed))
    )
    c, c_k = x.softmax(1)[torch.arange(n), y].tolist(), loss.class_confidence.double().tolist()
    codes = [0 if a >= c_k[k] else 1 if a >= 1 / K else 2 for a, k in zip(c, y.tolist())]
    if guard and min(c_k) <= 1 / K:
        codes = HybridLoss(K).terms(x, y).codes.tolist()
    t = loss.terms(x, y)
    assert t.codes.tolist() == codes
    shares = loss.report()
    assert [round(v * n) for v in shares.values()] == [codes.count(s) for s in range(3)] and set(
        loss.report().values()
    ) == {0}


def test_adaptive_starts_at_the_ratio_and_then_follows(tmp_path):
    "Before the first c_k the ratio cuts; interrupted or not, the shares are the same."
    knees, recipe = make_knees(60, seed=5), Recipe(epochs=2, batch=8, pixels=16)
    spec = study_spec(
        Study(), loss="hybrid", loss_options=dict(order="adaptive", guard=False), recipe=recipe
    )
    make = lambda: Trainer(build_network(spec), build_loss(spec), knees, recipe, device="cpu")
    whole = fit(make(), progress=False)
    fit(make(), tmp_path / "half.pt", progress=False, until=1)
    again = fit(make(), tmp_path / "half.pt", progress=False)
    rows = [[r[f"lambda_{s}"] for s in ("high", "medium", "low")] for r in whole.history]
    assert rows == [[r[f"lambda_{s}"] for s in ("high", "medium", "low")] for r in again.history]
    sized = torch.zeros(3)
    for part in whole.train.labels[torch.from_numpy(draw_epoch(whole.labels, recipe, 0, 0)[0])]:
        for k in (0, 1):
            sized += torch.tensor(sizes(int((part == k).sum())))
    assert rows[0] == pytest.approx((sized / sized.sum()).tolist()) and rows[1] != pytest.approx(
        rows[0]
    )
    assert (
        "taken" not in build_loss(spec).state_dict()
        and "lambda_high"
        not in fit(
            Trainer(build_network(spec), HybridLoss(), knees, recipe, device="cpu"),
            progress=False,
            until=1,
        ).history[0]
    )


# loss, and the gradient times 0, 1, 2, ..., of the first implementation, by reading, reduction
# and order
FROZEN = {
    ("intended", "sum", "confidence"): (2.644718225, 1.040408462),
    ("intended", "sum", "random"): (3.117536386, 1.448421537),
    ("intended", "sum", "adaptive"): (1.33904693, 0.753043526),
    ("intended", "mean", "confidence"): (0.60254663, 0.333743484),
    ("intended", "mean", "random"): (0.543693807, 0.258134318),
    ("intended", "mean", "adaptive"): (0.411006053, 0.14686251),
    ("printed-onehot", "sum", "confidence"): (2.301617562, 1.426569487),
    ("printed-onehot", "sum", "random"): (2.65621984, 1.737708545),
    ("printed-onehot", "sum", "adaptive"): (1.665120716, 1.279793934),
    ("printed-onehot", "mean", "confidence"): (0.59269621, 0.446052198),
    ("printed-onehot", "mean", "random"): (0.485526835, 0.356603888),
    ("printed-onehot", "mean", "adaptive"): (0.389039368, 0.222737733),
    ("printed-mask", "sum", "confidence"): (1.336352553, 1.006929442),
    ("printed-mask", "sum", "random"): (1.130316854, 0.951577416),
    ("printed-mask", "sum", "adaptive"): (1.066093893, 1.174205435),
    ("printed-mask", "mean", "confidence"): (0.277198488, 0.260344901),
    ("printed-mask", "mean", "random"): (0.236755165, 0.253833597),
    ("printed-mask", "mean", "adaptive"): (0.222808449, 0.162117148),
}
X = torch.tensor(
    [
        [2.0, -0.5, 0.3],
        [0.1, 1.2, -1.0],
        [-0.7, 0.4, 0.9],
        [1.5, 1.4, -2.0],
        [0.0, 0.6, 2.2],
        [-1.1, 2.3, 0.5],
        [0.8, -0.3, 0.2],
        [1.0, 0.9, 1.1],
        [0.2, -0.4, -0.6],
        [-2.0, 0.7, 1.6],
        [0.5, 0.5, -0.5],
        [1.3, -1.2, 0.4],
    ],
    dtype=torch.float64,
)
Y = torch.tensor([0, 1, 2, 0, 1, 1, 0, 0, 0, 1, 1, 0])


def value_and_slope(loss, c_k, x=X, y=Y):
    loss.class_confidence.copy_(torch.tensor(c_k))
    torch.manual_seed(3)
    x = x.clone().requires_grad_()
    value = loss(x, y)
    (slope,) = torch.autograd.grad(value, x)
    return value.item(), (slope * torch.arange(x.numel()).view_as(x)).sum().item()


@pytest.mark.parametrize("reading, reduction, order", FROZEN)
def test_values_are_what_they_were(reading, reduction, order):
    found = value_and_slope(
        hybrid_loss(3, (2, 1, 1), reading=reading, reduction=reduction, order=order),
        (0.8, 0.6, 0.7),
    )
    expected = FROZEN[reading, reduction, order]
    assert found == pytest.approx(expected, abs=1e-6)
    if reduction == "sum":  # the default is the sum divided by the batch
        same = value_and_slope(
            hybrid_loss(3, (2, 1, 1), reading=reading, order=order), (0.8, 0.6, 0.7)
        )
        assert same == pytest.approx([v / 12 for v in expected], abs=1e-6)


@pytest.mark.parametrize(
    "guard, expected", [(True, (0.277407112, 0.111700704)), (False, (0.225568318, 0.086700705))]
)
def test_guarded_values_are_what_they_were(guard, expected):
    loss = HybridLoss(3, (2, 1, 1), guard=guard)
    assert value_and_slope(loss, (0.8, 0.3, 0.7)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["LSCE", "KLD", "CE"])
def test_the_equations_are_what_trains(name, monkeypatch):
    x, y = batch(32, 2, 0)
    loss = HybridLoss()
    loss.class_confidence.fill_(0.8)
    before, was = loss.terms(x, y), getattr(losses, name)
    monkeypatch.setattr(losses, name, lambda *a: 1000 * was(*a))
    i = ("LSCE", "KLD", "CE").index(name)
    more = 999 * loss.weights[i] * before.parts[i]
    assert more > 1e-3
    torch.testing.assert_close(loss(x, y), before.loss + more)


def test_the_partition_is_what_trains(monkeypatch):
    x, y = batch(32, 2, 0)
    loss = HybridLoss()
    loss.class_confidence.fill_(0.8)
    before = loss(x, y)
    monkeypatch.setattr(losses, "partition", lambda c, y, *a, **b: torch.full_like(y, 2))
    torch.testing.assert_close(loss(x, y), 0.1 * CE(x, y).mean())
    assert not torch.isclose(loss(x, y), before)


def test_average_confidence_is_what_validation_sets(monkeypatch):
    monkeypatch.setattr(losses, "average_confidence", lambda c, y, K: torch.full((K,), 0.9))
    loss = HybridLoss()
    loss.observe_validation(*batch(32, 2, 0))
    assert loss.class_confidence.tolist() == pytest.approx([0.9, 0.9])


def test_average_confidence():
    c_k = average_confidence(torch.tensor([0.9, 0.7, 0.6]), torch.tensor([0, 0, 2]), 3)
    assert c_k.isnan().tolist() == [False, True, False]
    assert c_k[[0, 2]].tolist() == pytest.approx([0.8, 0.6])


def test_validation_in_batches_is_validation_at_once():
    x, y = batch(100, 3, 4)
    whole, parts = HybridLoss(3), HybridLoss(3)
    whole.observe_validation(x, y)
    with parts.validation() as observe:
        for a, b in zip(x.split(32), y.split(32)):
            observe(a.requires_grad_(), b)
            assert parts.class_confidence.isnan().all()
    assert parts.class_confidence.equal(whole.class_confidence)
    with parts.validation():
        parts.observe_validation(x[:50], y[:50])
        parts.observe_validation(x[50:], y[50:])
    assert parts.class_confidence.equal(whole.class_confidence)


def test_validation_that_fails_changes_nothing():
    x, y = batch(100, 2, 4)
    loss = HybridLoss()
    loss.class_confidence.fill_(0.7)
    with pytest.raises(KeyboardInterrupt), loss.validation() as observe:
        observe(x, y)
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="No validation batch"), loss.validation():
        pass
    assert loss.class_confidence.tolist() == pytest.approx([0.7, 0.7])
    loss.observe_validation(x, y)  # outside the block again at once
    assert loss.class_confidence.tolist() != pytest.approx([0.7, 0.7])


def told(call, times=1):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(times):
            call()
    return [str(w.message) for w in caught]


def test_says_once_that_validation_is_missing():
    x, y = batch(32, 2, 0)
    loss, enough = HybridLoss(), 2 * PATIENCE
    assert told(lambda: loss(x, y), enough - 1) == []
    assert [("c_k" in t) for t in told(lambda: loss(x, y), enough)] == [True]
    for quiet in (HybridLoss(target=0.85), hybrid_loss(reading="printed-mask"), HybridLoss()):
        quiet.class_confidence.fill_(0.8 if type(quiet) is HybridLoss else torch.nan)
        assert told(lambda: quiet(x, y), enough) == []
    still = HybridLoss()
    with torch.no_grad():
        assert told(lambda: still(x, y), enough) == []


def test_says_once_that_batches_are_too_small():
    x, y = batch(8, 2, 0)
    loss = HybridLoss(target=0.85)
    assert ["low" in t for t in told(lambda: loss(x, y), 3 * PATIENCE)] == [True]
    wide = HybridLoss(target=0.85, ratio=(1, 1, 1))
    assert told(lambda: wide(x, y), 3 * PATIENCE) == []


def test_says_for_whom_the_guard_holds():
    y = torch.arange(200) % 5
    x = 3 * torch.nn.functional.one_hot(y, 5).float()
    x[y == 1] = torch.tensor([0.0, -1, 0, 0, 0])
    loss = HybridLoss(5)
    (text,) = told(lambda: loss.observe_validation(x, y))
    assert "class 1" in text and loss.held() == [1]
    assert told(lambda: (loss(x, y), loss.observe_validation(x, y))) == []  # once
    assert loss.target_mass().tolist() == [1] * 5
    own = HybridLoss(5, guard_scope="grade")
    own.observe_validation(x, y)
    c_k = loss.class_confidence
    assert own.target_mass().equal(torch.where(torch.arange(5) == 1, 1.0, c_k))
    low = HybridLoss(5, guard_level=0.05)
    assert told(lambda: low.observe_validation(x, y)) == [] and low.target_mass().equal(c_k)
    free = HybridLoss(5, guard=False)
    assert told(lambda: free.observe_validation(x, y)) == [] and free.target_mass().equal(c_k)


def test_says_that_batch_by_batch_keeps_the_last():
    x, y = batch(64, 2, 0)
    loss = HybridLoss(guard=False)
    assert len(told(lambda: loss.observe_validation(x, y), 3)) == 1
    loss = HybridLoss(guard=False)
    assert told(lambda: (loss.observe_validation(x, y), loss(x, y)), 3) == []


def test_constant_target():
    x, y = batch(32, 3, 0)
    loss = HybridLoss(3, (0, 1, 0), weights=(0, 1, 0), target=0.85)
    torch.testing.assert_close(loss(x, y), KLD(x, y, 0.85).mean(), rtol=1e-6, atol=1e-6)
    loss.observe_validation(x, y)  # is kept, and moves nothing
    torch.testing.assert_close(loss(x, y), KLD(x, y, 0.85).mean(), rtol=1e-6, atol=1e-6)


def test_masked_out_infinities_reach_no_gradient():
    "A grade that is ruled out costs infinitely much in H and M, nothing in L."
    x = torch.tensor([[0.0, -torch.inf], [0.0, 1.0]], requires_grad=True)
    y = torch.tensor([0, 1])
    loss = HybridLoss()
    loss.class_confidence.fill_(0.8)
    for codes, finite in (([0, 0], False), ([1, 0], False), ([2, 0], True)):
        value = loss.terms(x, y, codes=torch.tensor(codes)).loss
        (slope,) = torch.autograd.grad(value, x)
        assert not value.isnan() and value.isfinite() == finite and slope.isfinite().all()
    loss.class_confidence.fill_(torch.nan)  # M is cross-entropy: 0 log 0 = 0
    assert loss.terms(x, y, codes=torch.tensor([1, 0])).loss.isfinite()


def test_settings_travel_with_the_state():
    loss = HybridLoss(ratio=(8, 1, 1), smoothing=0.05)
    loss.class_confidence.fill_(0.8)
    other = HybridLoss()
    for state in (loss.state_dict(), hybrid_loss(order="random").state_dict()):
        with pytest.raises(ValueError, match="ratio=|order="):
            other.load_state_dict(state)
    with pytest.raises(ValueError, match=r"ratio=\(8, 1, 1\)"):
        torch.nn.ModuleDict(dict(loss=other)).load_state_dict(
            torch.nn.ModuleDict(dict(loss=loss)).state_dict()
        )
    assert other.class_confidence.isnan().all()
    other.load_state_dict({"class_confidence": torch.tensor([0.7, 0.6])})  # of an older version
    assert other.class_confidence.tolist() == pytest.approx([0.7, 0.6])


def test_memory_from_meta_is_not_taken_for_confidence():
    for order in ORDERS:
        with torch.device("meta"):
            loss = torch.nn.Sequential(hybrid_loss(order=order))
        loss.to_empty(device="cpu")
        assert loss[0].class_confidence.isnan().all()
        assert getattr(loss[0], "taken", torch.zeros(1)).eq(0).all()


@pytest.mark.parametrize(
    "reading, reduction, order", itertools.product(READINGS, REDUCTIONS, ORDERS)
)
def test_variants_are_copied_and_pickled(reading, reduction, order):
    loss = hybrid_loss(3, reading=reading, reduction=reduction, order=order)
    loss.class_confidence.fill_(0.8)
    for same in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert isinstance(same, HybridLoss) and same.settings == loss.settings
        assert same.class_confidence.equal(loss.class_confidence)
        assert same.class_confidence is not loss.class_confidence


@pytest.mark.parametrize(
    "call, word",
    [
        (lambda x, y: LSCE(x, y, 2), "smoothing=2"),
        (lambda x, y: KLD(x, y, 1.4), "mass=1.4"),
        (lambda x, y: HybridLoss()(x.numpy(), y), "logits are a ndarray"),
        (lambda x, y: HybridLoss()(x, y.numpy()), "labels are a ndarray"),
    ],
)
def test_what_a_loss_cannot_take_is_named(call, word):
    with pytest.raises(ValueError, match=word):
        call(torch.zeros(6, 2), torch.arange(6) % 2)


@pytest.mark.parametrize("bad", [1.2, -0.1, torch.nan])
def test_masses_that_are_no_shares_are_refused(bad):
    logits, labels = torch.zeros(2, 2), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="mass"):
        KLD(logits, labels, torch.tensor([0.5, bad]))
    with pytest.raises(ValueError, match="mass"):
        KLD(logits, labels, bad)
