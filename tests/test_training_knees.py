"""Another split, another training set: the interval counts that the splits overlap."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from made_up import entry_of

from koa_repro.beyond.training_knees import (
    minutes_of,
    resampled_interval,
    split_specs,
    split_table,
)
from koa_repro.results import NOT_RUN, Result
from koa_repro.study import Study, study_frame


def run(right: int) -> SimpleNamespace:
    "A run with so many of ten test knees correctly classified."
    label = np.arange(10) % 2
    p1 = np.where((np.arange(10) < right) == (label == 1), 0.9, 0.1)
    frame = pd.DataFrame(dict(split="test", label=label, p1=p1))
    return SimpleNamespace(predictions=lambda: frame)


def test_overlapping_splits_widen_the_interval():
    d = [1.0, 2.0, 3.0, 4.0]
    mean, low, high = resampled_interval(d, ratio=0)
    assert mean == 2.5 and high - mean == pytest.approx(3.182446 * np.std(d, ddof=1) / 2)
    wide = resampled_interval(d, ratio=0.75)
    assert wide[2] - mean == pytest.approx(2 * (high - mean)) and mean - low == high - mean
    for bad in ([1.0], [1.0, np.nan]):
        with pytest.raises(ValueError):
            resampled_interval(bad)


def test_what_was_not_run_is_told_and_left_out(tmp_path):
    study = Study("fast", "reference", out=str(tmp_path), store=str(tmp_path))
    specs = split_specs(study)
    assert len({s.knees for s in specs["ce"]}) == 10  # ten training sets
    frame = study_frame(study, split=specs["ce"][3].split)
    assert (frame.groupby("participant").split.nunique() == 1).all()
    rows = dict(ce=[run(5), run(6), None], hybrid=[run(7), run(6), run(9)])
    table = split_table(rows)
    assert table.difference.tolist()[:2] == [20, 0] and np.isnan(table.difference[2])
    (line,) = entry_of("training_knees").lines(lambda name: Result(table, "a study"))
    assert line.runs == "2 of 3" and line.ours.startswith("+10.00 [")
    (line,) = entry_of("training_knees").lines(lambda name: Result(table.iloc[2:], "a study"))
    assert line.ours == NOT_RUN
    assert np.isnan(minutes_of(specs["ce"][0], []))
