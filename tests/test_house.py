"""What is committed is whole: README, notebooks, manifests, imports, the wheel."""

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from collections import Counter
from importlib.metadata import distributions

import nbformat
import pandas as pd
import pytest

from koa_repro.paths import manifests, repository
from koa_repro.results import entries
from koa_repro.tools.reproduce import execute, readme

NBS = repository() / "nbs"
NOTEBOOKS = sorted([*NBS.glob("*.ipynb"), *NBS.glob("[!.]*/*.ipynb")])  # JupyterLab hides copies
TABLES = [n for n in NOTEBOOKS if n.parent.name in ("paper", "beyond")]


def test_there_are_notebooks():
    rooms = Counter(n.parent.name for n in NOTEBOOKS)
    assert set(rooms) == {"nbs", "method", "paper", "beyond", "library"}
    assert rooms["paper"] >= 9 and rooms["method"] >= 6 and rooms["nbs"] == 1


def test_every_table_is_registered():
    assert {repository() / e.notebook for e in entries()} == set(TABLES)
    places = [e.place for e in entries()]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_committed_notebook(path):
    nb, text = nbformat.read(path, 4), path.read_text(encoding="utf-8")
    assert path.stat().st_size < 300_000
    assert not any("injected-parameters" in c.metadata.get("tags", []) for c in nb.cells)
    assert not re.search(r"/(home|root|Users|tmp|work)/|[A-Z]:\\\\", text), "a path of a machine"
    for cell in nb.cells:
        for o in cell.get("outputs", []):
            assert o.output_type != "error" and o.get("name") != "stderr", cell.source[:80]
        shown = [
            o.data["image/png"] for o in cell.get("outputs", []) if "image/png" in o.get("data", ())
        ]
        assert len(shown) == len(set(shown)), f"a picture twice: {cell.source[:80]}"


def imported(path) -> set:
    "Modules of this library that a notebook's cells import, without the package's name."
    code = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    found = set()
    for node in (n for c in code for n in ast.walk(ast.parse(c))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            rooms = ("koa_repro", "koa_repro.paper", "koa_repro.beyond")
            below = {f"{node.module}.{a.name}" for a in node.names}
            found |= below if node.module in rooms else {node.module}
    return {m.removeprefix("koa_repro.") for m in found if m.startswith("koa_repro.")}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_imports_go_down(path):
    room, own = path.parent.name, f"{path.parent.name}.{path.stem}"
    tables = {m for m in imported(path) if m.split(".")[0] in ("paper", "beyond")}
    if room in ("paper", "beyond"):
        assert tables <= {own}, "a table or figure imports another"
        return
    exports = re.search(r"#\| default_exp (\S+)", path.read_text(encoding="utf-8"))
    if room in ("method", "library") and not (exports and exports[1].startswith("tools.")):
        assert not tables, "what serves the tables imports one"


def test_pages_are_as_they_compute_now(tmp_path):
    """Not only as they were last executed: their tables must be those of `figures/` today. Read
    and written as UTF-8, also where the locale knows ASCII alone."""
    root = repository()
    code = (
        "import pathlib, sys; from koa_repro.paths import repository; "
        "from koa_repro.tools.reproduce import readme, results_page, title_of, entries; "
        "[title_of(repository() / e.notebook) for e in entries()]; readme(); "
        "page = results_page(repository() / 'figures'); "
        "pathlib.Path(sys.argv[1]).write_bytes(page.encode())"
    )
    poor = os.environ | dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "page")]
    done = subprocess.run(command, env=poor, capture_output=True, cwd=root)
    assert done.returncode == 0, done.stderr[-1500:]
    assert (tmp_path / "page").read_bytes() == (root / "RESULTS.md").read_bytes()
    now = readme(execute(NBS / "index.ipynb", tmp_path))
    assert (root / "README.md").read_text(encoding="utf-8") == now


def test_links_of_the_readme_lead_somewhere():
    text = (repository() / "README.md").read_text(encoding="utf-8")
    links = [l for l in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in l]
    assert len(links) > 20
    assert not [l for l in links if not (repository() / l).exists()]


TOOLS = ["nbdev", "fastcore", "execnb", "papermill", "nbformat", "nbconvert", "jupyterlab"]
EXTRAS = ["IPython", "umap", "optuna", "captum", "monai", "krippendorff", "submitit"]
EXTRAS += ["latex2mathml"]


def test_the_wheel_imports_without_a_checkout_and_without_extras(tmp_path):
    "Every module, in a folder that is no checkout, with the run-time packages alone."
    source = tmp_path / "source"
    command = "git ls-files -co --exclude-standard koa_repro data_manifests/*.csv pyproject.toml"
    command += " data_manifests/rois data_manifests/weights README.md LICENSE | tar -cT - | tar -xC"
    source.mkdir()
    subprocess.run(f"{command} {source}", shell=True, check=True, cwd=repository())
    build = ["pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), "."]
    subprocess.run([sys.executable, "-m", *build], check=True, cwd=source)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    assert (site / "koa_repro/_manifests/claims.csv").exists()
    assert not list(site.rglob("predictions.parquet"))
    files = (p.relative_to(site) for p in (site / "koa_repro").rglob("[a-z]*.py"))
    modules = sorted(".".join(f.with_suffix("").parts) for f in files)
    assert len(modules) > 35 and "koa_repro.paper.table3" in modules
    code = (
        f"import sys, importlib\nfor m in {TOOLS + EXTRAS}: sys.modules[m] = None\n"
        "for m in sys.argv[1:]: importlib.import_module(m)\n"
        "import koa_repro.claims as c, koa_repro.paths as p\n"
        "assert p.manifests().name == '_manifests' and c.claim('C01') is not None\n"
        "from koa_repro.study import Study, study_frame\n"
        "assert len(study_frame(Study(data='reference'))) == 5428\n"
        "from koa_repro.data import example_knees\n"
        "from koa_repro.localise import find_knees\n"
        "assert len(find_knees(example_knees().images[0])) == 1\n"
        "from koa_repro.tools.koa import main\n"
        "assert main(['predict', '--example', '--out', 'answer']) == 0"
    )
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | dict(PYTHONPATH=str(site))
    away = tmp_path / "away"
    away.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *modules],
        capture_output=True,
        text=True,
        cwd=away,
        env=env,
    )
    assert done.returncode == 0, done.stderr[-1500:]


def test_everything_that_is_installed_is_pinned():
    lines = (repository() / "constraints.txt").read_text().splitlines()
    pins = {tuple(re.split("==|;", line.replace(" ", ""))[:2]) for line in lines if "==" in line}
    plain = lambda name: re.sub("[-_.]+", "-", name).lower()
    pinned = {(plain(name), version) for name, version in pins}
    here = {(plain(d.metadata["Name"]), d.version.split("+")[0]) for d in distributions()}
    here = {(n, v) for n, v in here if n not in ("koa-repro", "pip", "setuptools", "wheel")}
    assert len(here) > 100 and not here - pinned, "make the pins again, as constraints.txt says"


def test_claims_are_whole():
    claims = pd.read_csv(manifests() / "claims.csv")
    assert claims.id.tolist() == [f"C{i:02d}" for i in range(1, 23)]
    assert claims.holds_when.notna().all()


ASKED = {
    "table3_pooling": "",
    "table4_comparators": "",
    "fig8_roc": "",
    "forks": "weights == 'reported' and measure == 'accuracy'",
    "fig5_confidence": "correction == 'raw' and measure == 'accuracy' and row != 'temperature'",
}


@pytest.mark.parametrize("name, of", ASKED.items())
def test_a_kept_table_has_the_runs_that_are_kept(name, of):
    "A run that came to the references later belongs into every table that wants it."
    file = repository() / "figures" / f"{name}.csv"
    table = pd.read_csv(file)
    ids = set(json.loads(file.with_name(file.name + ".json").read_text())["runs"])
    kept = [manifests() / "reference" / i / "predictions.parquet" for i in ids]
    assert (table.query(of) if of else table).runs_done.sum() == sum(p.exists() for p in kept)
