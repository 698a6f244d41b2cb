"""Runs that were never made, with predictions whose accuracy is known."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd

from koa_repro.results import Entry, entries

N = 200  # knees of a split, two a participant


def said(file, participant, label, p1, side="R", split="test") -> pd.DataFrame:
    "Predictions as a run keeps them."
    facts = dict(side=side, kl=2 * label, label=label, split=split, p0=1 - p1, p1=p1)
    return pd.DataFrame(dict(file=file, participant=participant, **facts))


def run(val: float, test: float, seed: int = 0) -> SimpleNamespace:
    "A made-up run with these accuracies, the errors drawn with the seed."
    rng, parts = np.random.default_rng(seed), []
    for split, share in (("val", val), ("test", test)):
        right = rng.permutation(N) < round(share * N)
        label = np.arange(N) // 2 % 2
        p1 = np.where(right == (label == 1), 0.8, 0.2)
        file = [f"{split}{i}" for i in range(N)]
        participant = [f"{split}{i // 2}" for i in range(N)]
        parts.append(said(file, participant, label, p1, side="L", split=split))
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
        file = [f"{i:03d}" for i in range(2 * N)]
        return said(file, np.arange(2 * N).astype(str), label, p1)


def entry_of(name: str) -> Entry:
    "A table or figure of the registry."
    return next(e for e in entries() if e.name == name)
