"""How fast this trainer is beside the loop that one would otherwise write, in one run.

On the same knees and network. The usual loop: a Dataset that opens each image with Pillow, rotates,
brightens and gamma-corrects it there and cuts the patches; a DataLoader with one worker a core;
float32; eager. Each side runs in a process of its own, the two in turn, so that a drift of the
machine's speed meets both. Beside it the share of what this processor can do at all: the rate of a
plain matrix product of the same precision, measured in the same process.
`python tests/bench_training.py [steps]`; $KOA_KNEES names the knees.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from koa_repro.data import KneeSet, load_knees, real_knees
from koa_repro.fitting import has_bf16, resolve_precision
from koa_repro.model import SiameseGAP
from koa_repro.paths import processor
from koa_repro.phantom import make_knees
from koa_repro.training import Recipe, Trainer, draw_epoch

BATCH = 32


class UsualKnees(Dataset):
    def __init__(self, folder, files, sides, labels):
        self.folder, self.files, self.sides, self.labels = folder, files, sides, labels

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        image = (
            Image.open(self.folder / self.files[i])
            .convert("L")
            .resize((300, 300), Image.Resampling.BICUBIC)
        )
        if self.sides[i] == "L":
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = image.rotate(np.random.uniform(-15, 15), Image.Resampling.BILINEAR)
        image = ImageEnhance.Brightness(image).enhance(np.random.uniform(0.7, 1.3))
        gamma = float(np.exp(np.random.uniform(-np.log(2), np.log(2))))
        x = torch.from_numpy((np.asarray(image, np.float32) / 255) ** gamma)
        patches = x[100:228, :128], x[100:228, 172:].flip(1)
        return *[(p[None] - 0.5) / 0.25 for p in patches], int(self.labels[i])


def usual(knees, folder, steps, precision):
    train = knees.split == "train"
    loader = DataLoader(
        UsualKnees(folder, knees.file[train], knees.side[train], knees.label[train]),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=os.cpu_count(),
    )
    knees.images = knees.images[:0]  # this loop reads its files itself
    model = SiameseGAP().train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=3e-4)
    times, batches = [], iter(loader)
    for _ in range(steps + 2):
        start = time.perf_counter()
        lateral, medial, labels = next(batches)
        loss = torch.nn.functional.cross_entropy(model(lateral, medial), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        times.append(time.perf_counter() - start)
    return times[2:]


def engine(knees, folder, steps, precision):
    trainer = Trainer(
        SiameseGAP(),
        torch.nn.CrossEntropyLoss(),
        knees,
        Recipe(batch=BATCH),
        precision=precision,
        device="cpu",
    )
    order, change = (torch.from_numpy(d) for d in draw_epoch(trainer.labels, trainer.recipe, 0, 0))
    trainer.model.train()
    times = []
    for i in range(steps + 2):
        start = time.perf_counter()
        trainer.step(order[i], change[i])[0].item()
        times.append(time.perf_counter() - start)
    return times[2:]


def operations() -> float:
    "Floating-point operations of a training step on one knee: convolutions and products alone."
    model, views = SiameseGAP().train(), torch.zeros(2, 2, 1, 128, 128)
    with FlopCounterMode(display=False) as counter:
        model(*views).sum().backward()
    return counter.get_total_flops() / views.shape[1]


def product_rate(precision: str, size: int = 2048, seconds: float = 1.0) -> float:
    "Operations a second of a matrix product, the best of those that fit into the time."
    bf16 = resolve_precision(precision, "cpu") == "bf16"
    a = torch.rand(size, size, dtype=torch.bfloat16 if bf16 else torch.float32)
    best, begin = np.inf, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def some_knees(folder: Path) -> tuple[KneeSet, Path]:
    "The real knees where they are; else phantoms, written out as files for the usual loop."
    if real := real_knees():
        return load_knees(real), Path(real)
    knees = make_knees(BATCH * 40, seed=0)
    for image, file in zip(knees.images, knees.file):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / file)
    return knees, folder


SIDES = {
    "usual": (usual, "float32", "the usual loop (Pillow, DataLoader, float32, eager)"),
    "float32": (engine, "float32", "this engine, float32"),
    "auto": (engine, "auto", "this engine, as it runs by default"),
}


def child(side, steps):
    work, precision, _ = SIDES[side]
    with tempfile.TemporaryDirectory() as folder:
        knees, folder = some_knees(Path(folder))
        name, times = knees.name, work(knees, folder, steps, precision)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + resource.getrusage(
            resource.RUSAGE_CHILDREN
        ).ru_maxrss * (side == "usual")
        # The mean, not the median: batches that the workers had ready must not hide the next ones.
        rate = BATCH / float(np.mean(times))
        share = rate * operations() / product_rate(precision)
        print(json.dumps(dict(rate=rate, peak=peak / 2**20, knees=name, share=share)))


def main(steps=10, rounds=2):
    found = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side in found:
            out = subprocess.run(
                [sys.executable, "-W", "ignore", __file__, side, str(steps)],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            ).stdout
            found[side].append(json.loads(out.splitlines()[-1]))
    bf16 = "yes" if has_bf16("cpu") else "no"
    print(
        f"{processor()}, {os.cpu_count()} cores, bf16 in hardware: {bf16}; "
        f"{found['auto'][0]['knees']} knees, batch {BATCH}, {rounds} rounds of {steps} steps"
    )
    usual_rate = np.array([f["rate"] for f in found["usual"]])
    for side, (_, _, name) in SIDES.items():
        rate = np.array([f["rate"] for f in found[side]])
        ratio = rate / usual_rate
        print(
            f"{name:52s} {np.median(rate):7.1f} knees/s   ratio {np.median(ratio):.2f} "
            f"(rounds {', '.join(f'{r:.2f}' for r in ratio)})   "
            f"of a matrix product's rate {np.median([f['share'] for f in found[side]]):.0%}   "
            f"peak {max(f['peak'] for f in found[side]):.2f} GiB"
        )
    print(
        "peak memory: the process's highest while it read the set and trained; "
        "for the usual loop with its largest worker added once"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in SIDES:
        child(sys.argv[1], int(sys.argv[2]))
    else:
        main(*map(int, sys.argv[1:]))
