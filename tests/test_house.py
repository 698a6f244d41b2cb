"""What is committed is whole: README, notebooks, manifests, imports."""

import json
import re
import subprocess
import sys

import nbformat
import pandas as pd
import pytest

from koa_repro.paths import manifests, repository
from koa_repro.tools.reproduce import execute, readme

NOTEBOOKS = sorted((repository() / "nbs").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_notebook(path):
    nb, text = nbformat.read(path, 4), path.read_text()
    assert path.stat().st_size < 300_000
    assert not any("injected-parameters" in c.metadata.get("tags", []) for c in nb.cells)
    assert not re.search(r"/(home|root|Users|tmp)/|[A-Z]:\\\\", text), "a path of a machine"
    for cell in nb.cells:
        for o in cell.get("outputs", []):
            assert o.output_type != "error" and o.get("name") != "stderr", cell.source[:80]
    assert len(nb.cells) <= 50


def test_readme_is_the_index_as_it_computes_now(tmp_path):
    "Not only as it was last executed: its table must be that of `figures/` today."
    assert (repository() / "README.md").read_text() == readme(
        execute(repository() / "nbs" / "index.ipynb", tmp_path)
    )


def test_library_needs_no_development_tool():
    "Every module imports where nbdev and its kin are not installed."
    modules = [p.stem for p in (repository() / "koa_repro").glob("[a-z]*.py")]
    code = (
        "import sys\nfor m in ('nbdev', 'fastcore', 'execnb', 'papermill', 'nbconvert', 'jupyterlab', 'IPython', 'umap'): sys.modules[m] = None\n"
        "import importlib\nfor m in sys.argv[1:]: importlib.import_module('koa_repro.' + m)"
    )
    lean = [m for m in modules if m != "reproduce"]
    done = subprocess.run([sys.executable, "-c", code, *lean], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]


def test_manifest_holds_the_published_counts():
    knees = pd.read_csv(manifests() / "kl224.csv", dtype={"participant": str})
    assert (
        len(knees) == 8260
        and knees.file.is_unique
        and knees.sha256.str.fullmatch("[0-9a-f]{64}").all()
    )
    assert knees.groupby("split").kl.value_counts().unstack().loc["train"].tolist() == [
        2286,
        1046,
        1516,
        757,
        173,
    ]
    assert (knees.groupby("participant").split.nunique() == 1).all()


def test_claims_are_whole():
    claims = pd.read_csv(manifests() / "claims.csv")
    assert (
        claims.id.tolist() == [f"C{i:02d}" for i in range(1, 23)]
        and claims.holds_when.notna().all()
    )


@pytest.mark.parametrize(
    "name, of",
    [
        ("table3_pooling", ""),
        ("table4_comparators", ""),
        ("fig8_roc", ""),
        ("forks", "weights == 'best' and measure == 'accuracy'"),
        (
            "fig5_confidence",
            "correction == 'raw' and measure == 'accuracy' and row != 'temperature'",
        ),
    ],
)
def test_a_kept_table_has_the_runs_that_are_kept(name, of):
    "A run that came to the references later belongs into every table that wants it: `python -m koa_repro.tools.reproduce --data reference ... --carry`."
    file = repository() / "figures" / f"{name}.csv"
    table, ids = (
        pd.read_csv(file),
        json.loads(file.with_name(file.name + ".json").read_text())["runs"],
    )
    assert (table.query(of) if of else table).runs_done.sum() == sum(
        (manifests() / "reference" / i / "predictions.parquet").exists() for i in set(ids)
    )
