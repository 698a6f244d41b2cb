"""Table III's differences where rows have different numbers of seeds."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from koa_repro.paper.table3 import PLACEMENTS, placed, pooling_differences
from koa_repro.results import shared_seeds


def run(seed, right):
    "A run whose calls on 60 test knees are right with that probability."
    rng, label = np.random.default_rng(seed), np.arange(60) % 2
    p1 = np.where((rng.random(60) < right) == (label == 1), 0.9, 0.1)
    frame = pd.DataFrame(
        dict(
            file=[f"{i}.png" for i in range(60)],
            participant=[f"p{i // 2}" for i in range(60)],
            side="R",
            kl=2 * label,
            label=label,
            split="test",
            p0=1 - p1,
            p1=p1,
        )
    )
    return SimpleNamespace(predictions=lambda weights="best": frame)


def rows(seeds):
    return {
        f"{pool} {placed(p)}": [
            run(10 * i + s, 0.8 if pool == "gap" else 0.6) for s in range(seeds)
        ]
        for i, p in enumerate(PLACEMENTS)
        for pool in ("gap", "gmp")
    }


def test_the_mean_is_over_the_seeds_that_all_rows_have():
    three, uneven = rows(3), rows(3)
    uneven["gap P4"][2] = None
    two = {name: runs[:2] for name, runs in three.items()}
    a, b = (pooling_differences(r, n=200) for r in (uneven, two))
    assert (a["mean"].estimate, a["mean"].low, a["mean"].seeds) == (
        b["mean"].estimate,
        b["mean"].low,
        2,
    )
    assert (
        a["P4"].seeds == 2
        and a["P1+P4"].seeds == 3
        and pooling_differences(three, n=200)["mean"].seeds == 3
    )
    uneven["gmp P1+P4"][:2] = [None, None]
    assert "mean" not in pooling_differences(uneven, n=200), "no seed has every row"
    assert shared_seeds(uneven, "gap P4", "gmp P1+P4") == []
