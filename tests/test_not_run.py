"""No notebook of a table or figure crashes for lack of runs: they are shown as not run."""

import ast
import sys
import types

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pytest

from koa_repro import results, runs, stats
from koa_repro.paths import repository
from koa_repro.results import Entry, entries
from koa_repro.stats import Draws

matplotlib.use("Agg")
KEPT = sorted(p for p in runs.references().iterdir() if (p / "spec.json").exists())
# The demonstration looks up no run: it trains its own. What asks for no run is executed once.
NAMES = [e.name for e in entries() if e.name != "demo"]
CASES = [(name, []) for name in NAMES] + [
    (e.name, KEPT[::2]) for e in entries() if e.name in NAMES and e.specs is not Entry.specs
]


class Fewer(Draws):
    "Draws of which 1,000 are kept."

    def __init__(self, group, counts, *more):
        super().__init__(group, counts[:1000], *more)


def code_cells(notebook):
    "Sources of the code cells, the parameters marked."
    for cell in nbformat.read(notebook, 4).cells:
        if cell.cell_type == "code" and not cell.source.startswith("#| hide"):
            yield cell.source, "parameters" in cell.metadata.get("tags", [])


def run_cells(notebook, **parameters):
    "Execute the code cells in a module of their own; what a cell ends with is shown as text."
    module = types.ModuleType("executed_notebook")
    module.display = repr  # as a kernel has it
    sys.modules[module.__name__] = module
    for source, tagged in code_cells(notebook):
        body = ast.parse(source).body
        last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), str(notebook), "exec"), module.__dict__)
        if last:
            value = compile(ast.Expression(last.value), str(notebook), "eval")
            repr(eval(value, module.__dict__))
        if tagged:
            module.__dict__.update(parameters)
    plt.close("all")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name, kept",
    CASES,
    ids=[f"{name}-{'every second' if kept else 'none'}" for name, kept in CASES],
)
def test_without_runs(name, kept, tmp_path, monkeypatch):
    assert len(KEPT) > 100 and len(NAMES) > 10
    (tmp_path / "reference").mkdir()
    for p in kept:
        (tmp_path / "reference" / p.name).symlink_to(p)
    monkeypatch.setattr(runs, "manifests", lambda: tmp_path)
    # an executed notebook registers itself: that must not reach the tests after this one
    monkeypatch.setattr(results, "_ENTRIES", dict(results._ENTRIES))
    assert len(list(runs.references().iterdir())) == len(kept)
    monkeypatch.setattr(stats, "Draws", Fewer)  # numbers are not looked at here
    notebook = repository() / next(e for e in entries() if e.name == name).notebook
    places = dict(store=str(tmp_path / "runs"), out=str(tmp_path / "out"))
    run_cells(notebook, profile="preview", data="reference", seeds=2, **places)
    assert not list((tmp_path / "runs").glob("[0-9a-f]*"))  # nothing is trained
