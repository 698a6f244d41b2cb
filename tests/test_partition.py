"""The partition against its definition written as a loop, and against what no batch may break."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from koa_repro.partition import confidence, partition, sizes

RATIOS = st.tuples(*[st.integers(0, 9)] * 3).filter(any)
FEW = settings(max_examples=150, deadline=None)


@st.composite
def batches(draw, ties=True, n=st.integers(0, 40)):
    "Confidences, labels and the number of grades; grades may be missing."
    n, K = draw(n), draw(st.integers(1, 5))
    steps = draw(st.integers(1, 20)) if ties else None
    c = (
        [x / steps for x in draw(st.lists(st.integers(0, steps), min_size=n, max_size=n))]
        if ties
        else [
            x / 10_000
            for x in draw(st.lists(st.integers(0, 10_000), min_size=n, max_size=n, unique=True))
        ]
    )
    return (
        torch.tensor(c),
        torch.tensor(
            draw(st.lists(st.integers(0, K - 1), min_size=n, max_size=n)), dtype=torch.int64
        ),
        K,
    )


def by_hand(c, y, ratio):
    a, b, low = ratio
    t = a + b + low
    codes = [None] * len(y)
    for k in set(y):
        mine = sorted((i for i in range(len(y)) if y[i] == k), key=lambda i: (-c[i], i))
        n = len(mine)
        for rank, i in enumerate(mine):
            codes[i] = (
                0
                if rank < (2 * a * n + t) // (2 * t)
                else 1
                if rank < (2 * (a + b) * n + t) // (2 * t)
                else 2
            )
    return codes


@FEW
@given(batches(), RATIOS)
def test_is_its_definition(batch, ratio):
    c, y, K = batch
    assert partition(c, y, ratio, classes=K).tolist() == by_hand(c.tolist(), y.tolist(), ratio)


@FEW
@given(batches(ties=False), RATIOS, st.randoms())
def test_order_of_the_batch_plays_no_part_without_ties(batch, ratio, random):
    c, y, _ = batch
    p = list(range(len(c)))
    random.shuffle(p)
    assert partition(c[p], y[p], ratio).equal(partition(c, y, ratio)[p])


@FEW
@given(batches(), RATIOS)
def test_no_set_holds_a_surer_knee_than_the_set_above(batch, ratio):
    c, y, K = batch
    codes = partition(c, y, ratio)
    for k in range(K):
        for s in (0, 1):
            above, below = c[(y == k) & (codes <= s)], c[(y == k) & (codes > s)]
            assert not len(above) or not len(below) or above.min() >= below.max()
        assert codes[y == k].bincount(minlength=3).tolist() == list(
            sizes(int((y == k).sum()), ratio)
        )


@given(st.integers(0, 10_000), RATIOS)
def test_sizes_cover(n, ratio):
    parts, t = sizes(n, ratio), sum(ratio)
    assert sum(parts) == n and min(parts) >= 0
    for cut, share in ((parts[0], ratio[0]), (parts[0] + parts[1], ratio[0] + ratio[1])):
        assert -t < 2 * (cut * t - share * n) <= t  # nearest whole number, halves up, exactly

    assert [p.item() for p in sizes(torch.tensor(n), ratio)] == list(parts)


def test_sixteen():
    assert sizes(16) == (11, 3, 2) and sizes(16, (6, 3, 1)) == (10, 4, 2) and sizes(5) == (4, 1, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("labels", [torch.int64, torch.int32, torch.uint8])
def test_types(dtype, labels):
    c, y = (
        torch.tensor([0.25, 0.5, 0.75, 0.125], dtype=dtype),
        torch.tensor([0, 0, 0, 1]).to(labels),
    )
    codes = partition(c, y, (1, 1, 1))
    assert codes.dtype == torch.int64 and codes.tolist() == [2, 1, 0, 1]


def test_ties_go_by_position_in_large_batches_too():
    y = torch.arange(5000) % 2
    codes = partition(torch.full((5000,), 0.5), y)
    assert (codes[y == 0].diff() >= 0).all() and (codes[y == 1].diff() >= 0).all()


def test_carries_no_gradient_and_needs_no_value():
    c = torch.rand(8, requires_grad=True)
    assert not partition(c, torch.zeros(8, dtype=torch.int64)).requires_grad
    nothing = torch.empty(8, device="meta")
    assert partition(nothing, nothing.long(), validate=False).shape == (8,)
    with pytest.raises((RuntimeError, NotImplementedError)):
        partition(nothing, nothing.long())  # validation looks, and there is no value


def test_unvalidated_not_a_number_still_covers():
    codes = partition(
        torch.tensor([0.1, torch.nan, 0.2]),
        torch.zeros(3, dtype=torch.int64),
        (1, 1, 1),
        validate=False,
    )
    assert sorted(codes.tolist()) == [0, 1, 2]


@pytest.mark.parametrize(
    "c, y, ratio, message",
    [
        (
            [0.5, float("nan"), float("nan")],
            [0, 0, 0],
            (7, 2, 1),
            r"confidence\[1\] is not a number",
        ),
        ([0.5, 0.5], [0], (7, 2, 1), "one of each"),
        ([[0.5]], [[0]], (7, 2, 1), "one of each"),
        ([0.5, 0.5], [0, 2], (7, 2, 1), r"labels\[1\] is 2"),
        ([0.5, 0.5], [-1, 0], (7, 2, 1), r"labels\[0\] is -1"),
        ([0.5], [0.0], (7, 2, 1), "whole numbers"),
        ([0.5], [True], (7, 2, 1), "whole numbers"),
        *[
            ([0.5], [0], r, "ratio=")
            for r in ((0.7, 0.2, 0.1), (7, 2), (7, 2, 1, 0), (7, -2, 1), (0, 0, 0), 7, "721")
        ],
    ],
)
def test_refuses_in_one_sentence(c, y, ratio, message):
    with pytest.raises(ValueError, match=message):
        partition(torch.tensor(c), torch.tensor(y), ratio, classes=2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 12), st.integers(2, 5), st.integers(0, 10_000))
def test_confidence_is_the_softmax_of_the_own_label(n, K, seed):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, K, generator=g) * 5, torch.randint(K, (n,), generator=g)
    # exp(log p) loses as many roundings as log p has magnitude, here below 40
    torch.testing.assert_close(
        confidence(x, y), x.softmax(1)[torch.arange(n), y], rtol=1e-5, atol=0
    )


def test_confidence_at_the_extremes_and_in_half_precision():
    far = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    assert confidence(far, torch.tensor([0, 0])).tolist() == [1.0, 0.0]
    x, y = (
        torch.tensor([[2.0, 0.0], [1.0, 1.0], [-3.0, 0.0], [1.0, -1.0]]),
        torch.tensor([0, 0, 1, 1]),
    )  # exact in bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        half = confidence(x.bfloat16(), y)
    assert half.dtype == torch.float32 and half.equal(confidence(x, y))


@pytest.mark.parametrize(
    "x, y",
    [
        (torch.zeros(2, 1), [0, 0]),
        (torch.zeros(2), [0, 0]),
        (torch.zeros(2, 2), [0]),
        (torch.zeros(2, 2), [0, 2]),
    ],
)
def test_confidence_refuses(x, y):
    with pytest.raises(ValueError):
        confidence(x, torch.tensor(y))


def test_a_number_of_samples_below_none_is_refused():
    with pytest.raises(ValueError, match="n=-3"):
        sizes(-3)
    assert sizes(0) == (0, 0, 0)
