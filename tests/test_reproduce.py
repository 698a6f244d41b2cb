"""Executing the notebooks: end to end on the phantom, and what happens when one fails."""

import json
import re
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
from jupyter_client.kernelspec import NoSuchKernel
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from koa_repro.paths import repository
from koa_repro.results import Entry, entries, hybrid_specs, save_table
from koa_repro.runs import DamagedRun
from koa_repro.study import Study, study_specs
from koa_repro.tools import reproduce
from koa_repro.tools.reproduce import Done, NotebookFailed, execute, keep_results, main

ASKED = "profile = 'smoke'\ndata = 'phantom'\nseeds = 1\nstore = ''\nout = ''\nexecutor = 'local'"
KERNEL = dict(kernelspec=dict(name="python3", display_name="python3", language="python"))


def write(path, *code, tags=("parameters",)):
    "A small notebook: a heading, the parameters, and these cells."
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [new_markdown_cell(f"# {path.stem}\n> Asks."), new_code_cell(ASKED)]
    cells[1].metadata["tags"] = list(tags)
    cells += [new_code_cell(c) for c in code]
    nbformat.write(new_notebook(cells=cells, metadata=KERNEL), path)
    return path


EXECUTED = ("length", "table7")  # the others have training tests of their own


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    "A smoke reproduction of two tables: its folder of results, and that of its runs."
    folder = tmp_path_factory.mktemp("smoke")
    places = ["--out", str(folder / "out"), "--store", str(folder / "runs")]
    assert main(["--data", "phantom", "--only", ",".join(EXECUTED), *places]) == 0
    return folder / "out", folder / "runs"


def test_every_row_of_every_table(smoke):
    out, store = smoke
    table = pd.read_csv(out / "length.csv")
    assert len(table) == 18 and (table.runs_done == 1).all()
    assert (table.low <= table.estimate).all() and (table.estimate <= table.high).all()
    study, length = Study("smoke", "phantom"), next(e for e in entries() if e.name == "length")
    wanted = {s.id for row in length.specs(study).values() for s in row}
    assert {p.parent.name for p in store.glob("*/predictions.parquet")} == wanted
    assert all(s.id in wanted for s in hybrid_specs(study)["Ours, hybrid"]), "one run for both"


def test_a_smoke_run_says_what_it_is(smoke):
    out, _ = smoke
    facts = json.loads((out / "length.csv.json").read_text())
    assert "SYNTHETIC" in facts["study"] and "paths " in facts["code"]
    assert "SYNTHETIC" in (out / "report" / "index.html").read_text(encoding="utf-8")
    assert "no readings" in json.loads((out / "table7_readers.csv.json").read_text())["study"]


def test_no_claim_is_decided_by_a_smoke_run(smoke):
    out, _ = smoke
    tables = [pd.read_csv(p) for p in out.glob("*_claims.csv")]
    assert len(tables) == len(EXECUTED)
    assert set(pd.concat(tables).verdict.dropna()) == {"no verdict"}


def test_the_report_leads_to_every_notebook(smoke):
    out, _ = smoke
    page = (out / "report" / "index.html").read_text(encoding="utf-8")
    for e in (e for e in entries() if e.name in EXECUTED):
        assert f"{e.name}.html" in page
        assert (out / "report" / f"{e.name}.html").stat().st_size > 10_000


def test_what_is_handed_on_opens_offline_and_tells_no_place(smoke):
    out, store = smoke
    pages = [*(out / "report").glob("*.html")]
    assert len(pages) == len(EXECUTED) + 1
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "<script" not in text and not re.search(r"(src|@import)\W+https?:", text)
    for file in (*pages, *(out / "executed").glob("*.ipynb")):
        text = file.read_text(encoding="utf-8")
        assert not [p for p in (str(out), str(store), str(repository())) if p in text], file.name


def test_formulas_are_drawn_without_a_script(tmp_path):
    nb = nbformat.v4.new_notebook()
    nb.cells = [nbformat.v4.new_markdown_cell("Eq. $c_k$ and\n\n$$\\sum_i x_i^2$$\n\n`$KOA_KEY`")]
    nbformat.write(nb, tmp_path / "a.ipynb")
    page = reproduce.page_of(tmp_path / "a.ipynb")
    assert page.count("<math") == 2 and "<msubsup>" in page and "$KOA_KEY" in page


def test_results_follow_from_predictions_alone(smoke, tmp_path):
    "Executed again, a table comes out of the runs' predictions, without weights or training."
    out, store = smoke
    for weights in store.glob("*/weights.safetensors"):
        weights.rename(tmp_path / weights.parent.name)
    before = {p: p.stat().st_mtime_ns for p in store.glob("*/predictions.parquet")}
    words = ["--data", "phantom", "--store", str(store), "--only", "length"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "length.csv").read_text() == (out / "length.csv").read_text()
    assert {p: p.stat().st_mtime_ns for p in store.glob("*/predictions.parquet")} == before
    for run in store.glob("[0-9a-f]*"):
        (tmp_path / run.name).rename(run / "weights.safetensors")


@pytest.fixture
def small(tmp_path, monkeypatch):
    "Three small notebooks in place of the registered ones; each notes that it was executed."
    made = [Entry("a", "A", 1), Entry("b", "B", 2), Entry("c", "C", 103)]
    for e in made:
        note = f"open({str(tmp_path / 'log')!r}, 'a').write('{e.name} ')"
        fails = f"import os; assert os.path.exists({str(tmp_path / 'mended')!r}), 'not yet'"
        write(tmp_path / e.notebook, note, fails if e.name == "b" else "1")
    monkeypatch.setattr(reproduce, "entries", lambda: made)
    monkeypatch.setattr(reproduce, "repository", lambda: tmp_path)
    return tmp_path


def test_the_others_go_on_and_a_second_call_goes_on_from_there(small, capsys):
    call = ["--data", "phantom", "--out", str(small / "out"), "--store", str(small / "runs")]
    assert main(call) == 1
    said = capsys.readouterr()
    assert "b.ipynb, cell" in said.err and "AssertionError: not yet" in said.err
    page = (small / "out" / "report" / "index.html").read_text(encoding="utf-8")
    assert "not yet" in page and 'href="a.html"' in page and 'href="c.html"' in page
    (small / "mended").touch()
    assert main(call) == 0 and (small / "log").read_text() == "a b c b "
    assert main(call) == 0 and (small / "log").read_text() == "a b c b "
    assert main([*call, "--seeds", "2"]) == 0 and (small / "log").read_text() == "a b c b a b c "
    write(small / "nbs/paper/a.ipynb", f"open({str(small / 'log')!r}, 'a').write('new ')")
    assert main([*call, "--seeds", "2"]) == 0
    assert (small / "log").read_text() == "a b c b a b c new "


def test_what_a_notebook_reads_beside_its_runs_executes_it_again(small, monkeypatch, capsys):
    (small / "mended").touch()
    manifest, knees = small / "manifests" / "claims.csv", small / "knees"
    for file in (manifest, knees / "1" / "a.png"):
        file.parent.mkdir(parents=True)
        file.write_text("one")
    monkeypatch.setattr(reproduce, "manifests", lambda: manifest.parent)
    monkeypatch.setattr(reproduce, "references", lambda: manifest.parent / "reference")
    call = ["--data", str(knees), "--out", str(small / "out"), "--store", str(small / "runs")]
    times = lambda: (main([*call, "--only", "a"]), (small / "log").read_text().split().count("a"))
    assert times() == times() == (0, 1)
    manifest.write_text("another")
    assert times() == times() == (0, 2)
    (knees / "1" / "a.png").rename(knees / "1" / "b.png")
    assert times() == times() == (0, 3)


def test_what_changes_during_an_execution_executes_it_again(small):
    module = small / "koa_repro" / "m.py"
    module.parent.mkdir()
    module.write_text("one")
    once = f"import pathlib; pathlib.Path({str(module)!r}).write_text('another')"
    write(small / "nbs/paper/a.ipynb", f"open({str(small / 'log')!r}, 'a').write('a ')", once)
    call = ["--data", "phantom", "--out", str(small / "out"), "--store", str(small / "runs")]
    times = lambda: (main([*call, "--only", "a"]), (small / "log").read_text())
    assert times() == (0, "a ")
    assert times() == times() == (0, "a a ")


def test_a_damaged_run_stops_no_other_notebook(small, monkeypatch):
    def damaged(study, spec):
        raise DamagedRun("The run abc is damaged.")

    (small / "mended").touch()
    monkeypatch.setattr(reproduce, "look_up", damaged)
    wants = Entry("a", "A", 1, specs=lambda study: dict(row=study_specs(study)))
    others = [e for e in reproduce.entries() if e.name != "a"]
    monkeypatch.setattr(reproduce, "entries", lambda: [wants, *others])
    call = ["--data", "phantom", "--out", str(small / "out"), "--store", str(small / "runs")]
    assert main(call) == main(call) == 0 and (small / "log").read_text() == "a b c "


@pytest.mark.parametrize("only, names", [("", "abc"), ("a,", "a"), ("a, c", "ac"), (" b ", "b")])
def test_words_choose_notebooks(small, only, names):
    assert [e.name for e in reproduce.chosen(only)] == list(names)
    with pytest.raises(ValueError, match="'nosuch' fits no notebook"):
        reproduce.chosen(f"{only or 'a'},nosuch")


def test_a_killed_kernel_is_named(tmp_path):
    killed = write(tmp_path / "a.ipynb", "import os; os._exit(137)")
    with pytest.raises(NotebookFailed, match="a.ipynb, its kernel died"):
        execute(killed, tmp_path, seeds=1)


def test_a_missing_kernel_is_named(tmp_path, monkeypatch):
    def none(*a, **k):
        raise NoSuchKernel("python3")

    monkeypatch.setattr("papermill.execute_notebook", none)
    with pytest.raises(NotebookFailed, match="no Jupyter kernel named python3"):
        execute(write(tmp_path / "a.ipynb"), tmp_path, seeds=1)


def test_a_lost_tag_and_a_mistyped_name_are_told(tmp_path):
    with pytest.raises(NotebookFailed, match="no cell has the tag `parameters`"):
        execute(write(tmp_path / "a.ipynb", tags=()), tmp_path, seeds=1)
    with pytest.raises(ValueError, match="no parameter seed: it takes data"):
        execute(write(tmp_path / "a.ipynb"), tmp_path, seed=1)


def test_only_results_of_their_own_subject_are_kept(small, monkeypatch):
    "Of synthetic knees what is about them; of real knees all else. Runs of a phantom never."
    monkeypatch.setattr(reproduce, "provenance", lambda: dict(changed=False))
    monkeypatch.setattr(reproduce, "keep_reference", lambda run: pytest.fail("kept"))
    kept, about = [], Entry("c", "C", 103, synthetic=True)
    real = Entry("a", "A", 1, keep=lambda study: kept.append(study) or [])
    monkeypatch.setattr(reproduce, "entries", lambda: [real, about])

    def done(study):
        out = []
        for e in (real, about):
            nb = nbformat.read(small / e.notebook, 4)
            nb.cells[-1].outputs = [new_output("stream", text="executed")]
            copy = study.target / f"{e.name}.ipynb"
            nbformat.write(nb, copy)
            table = save_table(pd.DataFrame(dict(a=[1])), e.name, study.target, runs=["abc"])
            out.append(Done(e, copy, [table.name, f"{table.name}.json"]))
        return out

    (small / "runs" / "abc").mkdir(parents=True)
    (small / "runs" / "abc" / "spec.json").write_text("{}")
    phantom = Study("preview", "phantom", store=str(small / "runs"), out=str(small / "out"))
    with pytest.raises(ValueError, match="never kept"):
        keep_results(phantom, done(phantom))
    keep_results(phantom, done(phantom)[1:])
    there = lambda: {p.name for p in (small / "figures").iterdir()}
    marked = lambda e: "executed" in (small / e.notebook).read_text()
    assert there() == {"c.csv", "c.csv.json"} and marked(about) and not marked(real)
    reference = Study("preview", "reference", store=str(small / "no"), out=str(small / "out"))
    keep_results(reference, done(reference))
    assert there() == {f"{n}.csv{x}" for n in "ac" for x in ("", ".json")} and marked(real)
    assert kept == [reference]


def test_plain_papermill_from_another_folder(tmp_path):
    nb = str(repository() / "nbs/paper/table3.ipynb")
    command = [sys.executable, "-m", "papermill", nb, "out.ipynb", "-k", "python3"]
    command += ["-p", "store", "runs", "-p", "out", "results"]
    run = lambda *more: subprocess.run(
        [*command, *more], cwd=tmp_path, capture_output=True, text=True
    )
    done = run("-p", "profil", "fast")
    assert done.returncode and "no parameter profil" in done.stderr
    done = run("-p", "data", "reference", "-p", "profile", "paper", "-p", "seeds", "7")
    assert done.returncode == 0, done.stderr[-2000:]
    table = pd.read_csv(tmp_path / "results" / "table3_pooling.csv")
    assert (table.runs_wanted == 7).all()
    assert not list((tmp_path / "runs").glob("[0-9a-f]*"))  # nothing is trained


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--profile", "fats"], "does not exist"),
        (["--data", "no/such"], "not a folder"),
        (["--seeds", "0"], "from 1 up"),
        (["--only", "99"], "fits no notebook"),
        (["--carry", "--only", "phantom_doubt", "--profile", "smoke"], "never kept"),
        (["--carry", "--data", "phantom", "--profile", "preview"], "never kept"),
    ],
)
def test_the_command_answers_bad_input_in_one_sentence(words, sentence, capsys, tmp_path):
    assert main([*words, "--out", str(tmp_path / "out"), "--store", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said and "\n" not in said
