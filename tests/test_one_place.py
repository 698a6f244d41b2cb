"""A table, a loss, a network and a data set each have one place, from which all else is found."""

import os
import shutil
import subprocess
import sys

import nbformat
from nbformat.v4 import new_markdown_cell, new_notebook

from koa_repro.paths import repository

NETWORK = """

class Bright(SiameseGAP):
    "The paper's network by another name."

    smallest = 128  # pixels below which it is padded


NETWORKS["bright"] = Network(Bright, "Bright", "blocks.3", light=True, printed=False)
"""
LOSS = """

class Half(nn.CrossEntropyLoss):
    def forward(self, logits, labels):
        return super().forward(logits, labels) / 2


LOSSES["half"] = Half
"""
DATA = """
DATA_SETS["toy"] = DataSet(
    lambda data: data == "toy", lambda data, *which: _phantom(data, *which[:2], 60), real=False
)
"""
TABLE = """
from koa_repro.results import Entry, Headline, interval_text, lines_of, register, runs_of
from koa_repro.study import study_spec


def _specs(study):
    seeds = range(study.seeds)
    return {"Bright, half": [study_spec(study, s, network="bright", loss="half") for s in seeds]}


def _lines(read):
    tell = lambda r: (r.paper, interval_text(r, "accuracy"), runs_of(r))
    return lines_of("Table XCIX", read("table99_new"), "runs_done > 0", tell)


def _headlines(read):
    study = read("table99_new").study
    return [Headline("Bright - dark", 1.0, 2.0, 1.5, 2.5, "points", "", study)]


register(Entry("table99", "Table XCIX", 9.5, _specs, _lines, _headlines))
"""
ASKED = """
from pathlib import Path

import pandas as pd

from koa_repro.results import entries, reader, save_table
from koa_repro.study import Study, study_knees, study_runs
from koa_repro.tools.pages import headline_table, results_page
from koa_repro.tools.reference import wanted_runs
from koa_repro.tools.reproduce import chosen, title_of

root = Path.cwd()
reference = Study("fast", "reference", seeds=2)
row = dict(row="Bright, half", paper=88.0, accuracy=84.0, low=82.0, high=86.0)
table = pd.DataFrame([row | dict(runs_done=1, runs_wanted=3)])
save_table(table, "table99_new", root / "figures", study=reference.says)
page = results_page(root / "figures")
assert "| Bright, half | 88.00 | 84.00 [82.00, 86.00] | 1 of 3 | fast |" in page
assert "## Table XCIX\\n\\n[table99](nbs/paper/table99.ipynb)" in page
assert page.index("## Fig. 8") < page.index("## Table XCIX") < page.index("nbs/beyond/audit")
assert "| Bright - dark |" in headline_table(reader(root / "figures"), lambda e: e.notebook)

new = chosen("table99")[0]
specs = new.specs(reference)["Bright, half"]
assert {s.id for s in specs} <= {w.spec.id for w in wanted_runs(reference)}
assert title_of(root / new.notebook) == ("A new table", "Is it found?")

toy = Study("smoke", "toy", store=str(root / "runs"), out=str(root / "out"))
assert len(study_knees(toy)) == 60 and not toy.real
(run,) = study_runs(toy, new.specs(toy)["Bright, half"])
assert len(run.predictions()) and len(run.history) == 2
print("found")
"""


def test_one_of_each_is_found_everywhere(tmp_path):
    for name in ("koa_repro", "settings.ini"):
        copy = shutil.copytree if (repository() / name).is_dir() else shutil.copy2
        copy(repository() / name, tmp_path / name)
    (tmp_path / "data_manifests").symlink_to(repository() / "data_manifests")
    for name, text in (("networks", NETWORK), ("losses", LOSS), ("data_sets", DATA)):
        with open(tmp_path / "koa_repro" / f"{name}.py", "a", encoding="utf-8") as file:
            file.write(text)
    (tmp_path / "koa_repro" / "paper" / "table99.py").write_text(TABLE, encoding="utf-8")
    (tmp_path / "nbs" / "paper").mkdir(parents=True)
    cells = [new_markdown_cell("# A new table\n\n> Is it found?")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "nbs" / "paper" / "table99.ipynb")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASKED],
        cwd=tmp_path,
        env=os.environ | dict(PYTHONPATH=str(tmp_path)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "found" in done.stdout, done.stderr[-2000:]
