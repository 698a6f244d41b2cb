"""What each step towards fast training brings on this device, in one run: precision, memory layout,
recording, compiling, and several training runs side by side, against the time that the memory
alone would take.

`python tests/bench_engines.py [--epochs 3] [--steps 0] [--rows "bf16; captured"] [--json FILE]`;
needs nothing but torch and numpy. The knees are noise, as many as the official split trains on:
what a step costs does not depend on what is seen. Each row runs in a process of its own; the rounds
go through the rows in turn, so that a drift of the device meets all.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from koa_repro.fitting import default_device, device_name
from koa_repro.losses import HybridLoss
from koa_repro.model import SiameseGAP
from koa_repro.tools.remote import PackedKnees
from koa_repro.training import Recipe, Trainer, draw_epoch

LABELS, EPOCHS = (
    np.repeat([0, 1], [2286, 1516]),
    500,
)  # the official split's training knees; the paper's epochs
ROWS = {  # precision, channels last, engine, training runs side by side
    "float32": ("float32", False, "plain", 1),
    "channels last": ("float32", True, "plain", 1),
    "bf16": ("bf16", True, "plain", 1),
    "captured": ("bf16", True, "captured", 1),
    "compiled": ("bf16", True, "compiled", 1),
    "captured, 2 side by side": ("bf16", True, "captured", 2),
    "captured, 3 side by side": ("bf16", True, "captured", 3),
    "compiled, 2 side by side": ("bf16", True, "compiled", 2),
    "compiled, 3 side by side": ("bf16", True, "compiled", 3),
}
FIRST = 20  # losses that are compared


def noise() -> PackedKnees:
    rng, label = np.random.default_rng(0), np.append(LABELS, [0, 1])
    split = np.where(np.arange(len(label)) < len(LABELS), "train", "val")
    return PackedKnees(
        rng.integers(0, 256, (len(label), 300, 300), np.uint8),
        label,
        np.where(label, "L", "R"),
        split,
    )


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def child(row: str, epochs: int, steps: int, gate: Path):
    "Warm up, wait until all side by side are warm, then time."
    precision, last, engine, _ = ROWS[row]
    device = default_device()
    torch.manual_seed(0)
    t = Trainer(
        SiameseGAP(),
        HybridLoss(),
        noise(),
        Recipe(),
        precision=precision,
        device=device,
        engine=engine,
    )
    if not last:
        t.model.to(memory_format=torch.contiguous_format)
    order, change = (
        torch.from_numpy(d[: steps or None]).to(device)
        for d in draw_epoch(t.labels, t.recipe, 0, 0)
    )

    def epoch():
        losses = []
        for i in range(len(order)):
            for group in t.optimizer.param_groups:
                group["lr"] = t.rate(i)
            losses.append(t.take(order[i], change[i])[0])
        wait(device)
        return torch.stack(losses)

    t.model.train()
    torch.manual_seed(0)
    losses = epoch()[:FIRST].tolist()
    (gate / f"{time.time_ns()}.ready").touch()
    while not (gate / "go").exists():
        time.sleep(0.01)
    start = time.perf_counter()
    for _ in range(epochs):
        epoch()
    print(
        json.dumps(
            dict(
                ms=1e3 * (time.perf_counter() - start) / epochs / len(order),
                losses=losses,
                peak=torch.cuda.max_memory_allocated(device) / 2**30
                if device.type == "cuda"
                else None,
            )
        )
    )


def measure(row, epochs, steps) -> dict | None:
    "One row once; None, with the reason printed, where it cannot run here."
    count = ROWS[row][3]
    with tempfile.TemporaryDirectory() as gate:
        command = [
            sys.executable,
            "-W",
            "ignore",
            __file__,
            "--child",
            row,
            "--epochs",
            str(epochs),
            "--steps",
            str(steps),
            "--gate",
            gate,
        ]
        said = [open(Path(gate) / f"{k}.err", "w+") for k in range(count)]
        jobs = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True) for err in said
        ]
        while len(list(Path(gate).glob("*.ready"))) < count and all(j.poll() is None for j in jobs):
            time.sleep(0.02)
        (Path(gate) / "go").touch()
        ends = [j.communicate()[0] for j in jobs]
        words = [Path(err.name).read_text().split("\n") for err in said]
        for err in said:
            err.close()
    for job, lines in zip(jobs, words):
        if job.returncode:
            said_last = ([line for line in lines if line.strip()] or [f"exit {job.returncode}"])[-1]
            print(f"{row}: did not run: {said_last}", flush=True)
            return None
    found = [json.loads(e.splitlines()[-1]) for e in ends]
    return dict(
        ms=max(f["ms"] for f in found) / count, losses=found[0]["losses"], peak=found[0]["peak"]
    )


def bandwidth(device, size=2**30) -> float:  # bytes a second, read and written
    size = size if device.type == "cuda" else size // 4
    a, b = (torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2))
    for _ in range(2):
        b.copy_(a)
    wait(device)
    start = time.perf_counter()
    for _ in range(10):
        b.copy_(a)
    wait(device)
    return 10 * 2 * size / (time.perf_counter() - start)


def least_bytes(batch: int = Recipe().batch, width: int = 2) -> int:
    """Bytes that a step moves at least, every convolution's output being passed over fourteen
    times. Forward: written, read for its statistics, read and written normalised, read by the
    next. Backward: the gradient written; it and the output read for the sums; both read and the
    next gradient written; that read for the inputs, and with the inputs for the weights."""
    with torch.no_grad():
        maps = [m.numel() for m in outputs(SiameseGAP().eval(), torch.zeros(1, 1, 128, 128))]
    return 14 * 2 * batch * width * sum(maps)


def outputs(model, patch) -> list:
    found = []
    for m in model.modules():
        if isinstance(m, torch.nn.Conv2d):
            m.register_forward_hook(lambda _, __, out: found.append(out))
    model.branch(patch)
    return found


def main(a):
    device = default_device()
    rows = [r.strip() for r in a.rows.split(";")] if a.rows else list(ROWS)
    speed, steps = bandwidth(device), EPOCHS * (2 * 2286 // Recipe().batch)
    least = least_bytes()
    floor = 1e3 * least / speed
    say = lambda text: print(text, flush=True)
    say(
        f"{device_name(device)}, torch {torch.__version__}; noise for knees, batch "
        f"{Recipe().batch}, {a.rounds} rounds of {a.epochs} epochs of "
        f"{a.steps or steps // EPOCHS} steps"
    )
    say(
        f"copy {speed / 1e9:.0f} GB/s; a step moves {least / 1e9:.2f} GB at least in bf16: "
        f"{floor:.2f} ms, {floor * steps / 1e3:.0f} s for {steps} steps"
    )
    tf32 = torch.backends.cudnn.allow_tf32
    say(f"convolutions of the float32 rows in TF32 where the hardware has it: {tf32}")
    facts = dict(
        device=device_name(device),
        torch=torch.__version__,
        bytes_a_second=speed,
        least_bytes=least,
        steps=steps,
        tf32=tf32,
    )
    found = {row: [] for row in rows}
    for _ in range(a.rounds):
        for row in rows:
            if found[row] is None:
                continue
            one = measure(row, a.epochs, a.steps)
            found[row] = found[row] + [one] if one else None
            if one:
                print(f"{row:26s} {one['ms']:9.3f} ms", flush=True)
            if a.json:
                Path(a.json).write_text(json.dumps(facts | dict(rows=found)))
    print(
        f"\n{'':26s} {'ms a step':>9s} {'spread':>7s} {'s a run':>8s} {'x first':>8s} "
        f"{'x floor':>8s}  first {FIRST} losses off plain bf16, at most"
    )
    base = {row: np.array([f["ms"] for f in v]) for row, v in found.items() if v}
    plain = found.get("bf16")
    for row in rows:
        if row not in base:
            print(f"{row:26s}  not run")
            continue
        ms = base[row]
        ratio = np.median(base[rows[0]] / ms) if rows[0] in base else float("nan")
        off = (
            np.abs(np.array(found[row][0]["losses"]) - plain[0]["losses"]).max()
            if plain
            else float("nan")
        )
        print(
            f"{row:26s} {np.median(ms):9.3f} {np.ptp(ms):7.3f} "
            f"{np.median(ms) * steps / 1e3:8.0f} {ratio:8.2f} "
            f"{np.median(ms) / floor:8.2f}  {off:.2g}"
        )
    print("side by side: ms and seconds are those of the slowest, divided by how many there are")


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--epochs", type=int, default=3)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--steps", type=int, default=0, help="of an epoch; all of them, if 0")
    p.add_argument("--rows", default="", help="of " + "; ".join(ROWS))
    p.add_argument("--json", default="")
    p.add_argument("--child", default="")
    p.add_argument("--gate", type=Path)
    a = p.parse_args()
    if a.child:
        child(a.child, a.epochs, a.steps, a.gate)
    else:
        main(a)
