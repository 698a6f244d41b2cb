"""What a run costs in a process of its own, start included: `make bench` keeps it in a manifest."""

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import joblib
import pandas as pd

from koa_repro.paths import manifests, write_whole
from koa_repro.phantom import make_knees
from koa_repro.runs import RunSpec, find, knees_id
from koa_repro.study import PROFILES
from koa_repro.workers import side_by_side

# what the network needs to read so few pixels
OPTIONS = {p.recipe.pixels: p.options for p in PROFILES.values()}


def measure() -> pd.DataFrame:
    rows = []
    for count in (400, 800, 1600):
        knees = make_knees(count, seed=1)
        for pixels in sorted(OPTIONS):
            recipe = replace(PROFILES["preview"].recipe, epochs=2, pixels=pixels)
            spec = RunSpec(knees_id(knees.frame()), options=OPTIONS[pixels], recipe=recipe)
            with tempfile.TemporaryDirectory() as folder:
                joblib.dump(knees, Path(folder) / spec.knees)
                own = dict(folder=Path(folder), store=Path(folder) / "store", threads=1)
                start = time.monotonic()
                ((_, _, error),) = side_by_side("koa_repro.executors:_work", [spec], [own])
                whole = time.monotonic() - start
                assert error is None, error
                run = find(spec, own["store"])
                made, history = run.provenance, run.history
            passes = (history.knees_a_second * history.seconds).iloc[-1]
            rows.append(
                dict(
                    knees=count,
                    pixels=pixels,
                    epochs=len(history),
                    knees_an_epoch=round(passes),
                    training_seconds=history.seconds.sum(),
                    whole_seconds=whole,
                    **{k: made[k] for k in ("device", "threads", "precision", "engine", "torch")},
                )
            )
            print(pd.DataFrame(rows[-1:]).to_string(index=False, header=len(rows) == 1), flush=True)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    table = measure()
    write = lambda p: table.to_csv(p, index=False, float_format="%.4g")
    write_whole(manifests() / "scale.csv", write)
