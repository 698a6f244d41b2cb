"""Runs that were never made, with predictions whose accuracy is known."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd

N = 200  # knees of a split, two a participant


def run(val: float, test: float, seed: int = 0) -> SimpleNamespace:
    "A made-up run with these accuracies, the errors drawn with the seed."
    rng, parts = np.random.default_rng(seed), []
    for split, share in (("val", val), ("test", test)):
        right = rng.permutation(N) < round(share * N)
        label = np.arange(N) // 2 % 2
        p1 = np.where(right == (label == 1), 0.8, 0.2)
        parts.append(
            pd.DataFrame(
                dict(
                    file=[f"{split}{i}" for i in range(N)],
                    participant=[f"{split}{i // 2}" for i in range(N)],
                    side="L",
                    kl=2 * label,
                    label=label,
                    split=split,
                    p0=1 - p1,
                    p1=p1,
                )
            )
        )
    return SimpleNamespace(
        predictions=lambda weights="reported": pd.concat(parts, ignore_index=True)
    )


@dataclass
class Made:
    "A run that classifies a given share of the test knees correctly; the seed says which."

    right: float
    seed: int = 0

    def predictions(self, weights="reported"):
        label = np.arange(2 * N) % 2
        hit = np.random.default_rng(self.seed).permutation(2 * N) < round(2 * N * self.right)
        p1 = np.where(hit == (label == 1), 0.9, 0.1)
        return pd.DataFrame(
            dict(
                file=[f"{i:03d}" for i in range(2 * N)],
                participant=np.arange(2 * N).astype(str),
                side="R",
                kl=2 * label,
                label=label,
                split="test",
                p0=1 - p1,
                p1=p1,
            )
        )
