"""Papermill runs of the reproduction notebooks, end to end, on the embedded default."""

import json
import subprocess
import sys

import nbformat
import pandas as pd
import pytest

from koa_repro import paths as house
from koa_repro.beyond import search
from koa_repro.beyond.twin_leak import crossover_specs
from koa_repro.paper.fig5 import confidence_specs
from koa_repro.paper.table3 import pooling_specs
from koa_repro.paths import repository
from koa_repro.results import hybrid_specs
from koa_repro.study import Study
from koa_repro.tools import reproduce
from koa_repro.tools.reproduce import keep_results, main, reproduction_notebooks


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    "One smoke reproduction: its folder of results, and that of its runs."
    folder = tmp_path_factory.mktemp("smoke")
    assert main(["--out", str(folder / "out"), "--store", str(folder / "runs")]) == 0
    return folder / "out", folder / "runs"


def test_every_row_of_every_table(smoke):
    out, _ = smoke
    table = pd.read_csv(out / "table3_pooling.csv")
    assert (
        len(table) == 12
        and (table.runs_done == 1).all()
        and (table.low <= table.accuracy).all()
        and (table.accuracy <= table.high).all()
    )
    hybrid = pd.read_csv(out / "table6_hybrid.csv")
    ours = hybrid[(hybrid.row == "Ours") & (hybrid.weights == "best")].iloc[0]
    trained = hybrid.row.str.match("Ours|Tiulpin|Antony|Nasser")
    assert trained.sum() == 10 and (hybrid[trained][["runs_ce", "runs_hybrid"]] == 1).all(axis=None)
    assert hybrid[~trained].ce.isna().all() and set(hybrid[~trained].row) == {
        "Densenet-201",
        "Resnet-18",
        "VGG-11",
    }, "a network that took one step has no accuracy"
    # the last row of Table III and Table VI's cross-entropy are one run
    assert ours.ce == pytest.approx(table.set_index("row").accuracy["gap P1+P2+P3+P4"])


def test_a_smoke_run_decides_nothing_and_says_what_it_is(smoke):
    out, _ = smoke
    assert set(pd.read_csv(out / "table3_claims.csv").verdict) == {"no verdict"}
    for name in ("table3_pooling", "table6_hybrid"):
        assert "SYNTHETIC" in json.loads((out / f"{name}.csv.json").read_text())["study"]
    assert "SYNTHETIC" in (out / "report" / "index.html").read_text()


def test_what_is_thinned_or_simulated_says_so(smoke):
    out, _ = smoke
    page = lambda name: (out / "report" / f"{name}.html").read_text()
    assert (
        "THINNED" in page("table5")
        and "SIMULATED" in page("table7")
        and "built, one step" in page("table4")
    )
    assert "SIMULATED" in json.loads((out / "table7_readers.csv.json").read_text())["study"]
    table = pd.read_csv(out / "table4_comparators.csv")
    assert len(table) >= 17 and table[table.row == "VGG-19"].accuracy.isna().all(), (
        "a network that took one step has no accuracy"
    )


def test_no_claim_is_decided_by_a_smoke_run(smoke):
    out, _ = smoke
    tables = {p.stem: pd.read_csv(p) for p in out.glob("*_claims.csv")}
    assert len(tables) >= 6 and all(
        set(t.verdict.dropna()) - {"counted"} == {"no verdict"} for t in tables.values()
    ), {n: set(t.verdict) for n, t in tables.items()}
    counted = pd.concat(tables.values()).query("verdict == 'counted'")
    assert set(counted.id) == {"C22"}, "parameters need no training"


def test_the_audit_needs_no_run(smoke):
    out, _ = smoke
    audit = pd.read_csv(out / "audit.csv")
    assert (
        set(audit.finding) == {"can be", "cannot be", "cannot be decided"}
        and not audit.duplicated(["check", "what"]).any()
    )


def test_the_report_leads_to_every_notebook(smoke):
    out, _ = smoke
    page = (out / "report" / "index.html").read_text()
    for notebook in reproduction_notebooks():
        assert (
            f"{notebook.stem}.html" in page
            and (out / "report" / f"{notebook.stem}.html").stat().st_size > 10_000
        )


def test_results_follow_from_predictions_alone(smoke, tmp_path):
    "A second execution reads the runs and gives the same table, without weights or training."
    out, store = smoke
    for weights in store.glob("*/weights.pt"):
        weights.rename(tmp_path / weights.parent.name)
    before = {p: p.stat().st_mtime_ns for p in store.glob("*/predictions.parquet")}
    study = Study()
    wanted = {
        spec.id
        for specs in (
            pooling_specs(study),
            hybrid_specs(study),
            crossover_specs(study),
            confidence_specs(study),
        )
        for row in specs.values()
        for spec in row
    }
    assert wanted <= {p.parent.name for p in before}
    assert main(["--out", str(tmp_path / "out"), "--store", str(store), "--only", "20"]) == 0
    assert (tmp_path / "out" / "table3_pooling.csv").read_text() == (
        out / "table3_pooling.csv"
    ).read_text()
    assert {p: p.stat().st_mtime_ns for p in store.glob("*/predictions.parquet")} == before
    for run in store.glob("[0-9a-f]*"):
        (tmp_path / run.name).rename(run / "weights.pt")


def test_a_notebook_about_the_phantom_is_kept_and_no_run_of_a_phantom(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "repository", lambda: tmp_path)
    monkeypatch.setattr(reproduce, "provenance", lambda: dict(changed=False))
    monkeypatch.setattr(reproduce, "keep_reference", lambda run: pytest.fail("kept as a reference"))
    (tmp_path / "nbs").mkdir()
    (tmp_path / "figures").mkdir()
    study = Study("preview", "phantom", store=str(tmp_path / "runs"), out=str(tmp_path / "out"))
    for folder in (tmp_path / "nbs", study.target / "executed"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("phantom_doubt", "25_other"):
            nbformat.write(
                nbformat.v4.new_notebook(
                    cells=[
                        nbformat.v4.new_code_cell(
                            "1",
                            id="aaaaaaaa",
                            outputs=[nbformat.v4.new_output("stream", text=folder.name)],
                        )
                    ]
                ),
                folder / f"{name}.ipynb",
            )
    (run := tmp_path / "runs" / "abc").mkdir(parents=True)
    (run / "spec.json").write_text("{}")
    house.save_table(
        pd.DataFrame(dict(a=[1])), "witness", study.target, study=study.says, runs=["abc"]
    )
    stale = house.save_table(pd.DataFrame(dict(a=[1])), "older", study.target, study=study.says)
    facts = stale.with_name("older.csv.json")
    facts.write_text(
        facts.read_text().replace('"time": "2', '"time": "1')
    )  # by an execution before
    copies = [study.target / "executed" / f"{n}.ipynb" for n in ("phantom_doubt", "25_other")]
    with pytest.raises(ValueError, match="never kept"):
        keep_results(study, copies, "2")
    assert not list((tmp_path / "figures").iterdir())
    keep_results(study, copies[:1], "2")
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == [
        "witness.csv",
        "witness.csv.json",
    ]
    assert (
        "executed" in (tmp_path / "nbs" / "beyond/phantom_doubt.ipynb").read_text()
        and "executed" not in (tmp_path / "nbs" / "25_other.ipynb").read_text()
    )


def test_of_real_knees_all_but_the_notebooks_about_the_phantom_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "repository", lambda: tmp_path)
    monkeypatch.setattr(reproduce, "provenance", lambda: dict(changed=False))
    monkeypatch.setattr(search, "keep_search", lambda study: kept.append(study))
    kept, cell = (
        [],
        lambda text: nbformat.v4.new_code_cell(
            "1", id="aaaaaaaa", outputs=[nbformat.v4.new_output("stream", text=text)]
        ),
    )
    study = Study("preview", "reference", store=str(tmp_path / "runs"), out=str(tmp_path / "out"))
    for folder in (tmp_path / "nbs", study.target / "executed", tmp_path / "figures"):
        folder.mkdir(parents=True)
    for folder in (tmp_path / "nbs", study.target / "executed"):
        for name in ("phantom_doubt", "25_other"):
            nbformat.write(
                nbformat.v4.new_notebook(cells=[cell(folder.name)]), folder / f"{name}.ipynb"
            )
    keep_results(study, sorted((study.target / "executed").iterdir()), "")
    assert kept == [study] and "executed" in (tmp_path / "nbs" / "25_other.ipynb").read_text()
    assert "executed" not in (tmp_path / "nbs" / "beyond/phantom_doubt.ipynb").read_text()


def test_plain_papermill_and_a_mistyped_parameter(tmp_path):
    command = [
        sys.executable,
        "-m",
        "papermill",
        "nbs/paper/table3.ipynb",
        str(tmp_path / "out.ipynb"),
        "-k",
        "python3",
    ]
    places = ["-p", "store", str(tmp_path / "runs"), "-p", "out", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, *places, "-p", "profil", "fast"],
        cwd=repository(),
        capture_output=True,
        text=True,
    )
    assert done.returncode and "no parameter profil" in done.stderr
    reference = subprocess.run(
        [
            *command,
            *places,
            "-p",
            "data",
            "reference",
            "-p",
            "profile",
            "paper",
            "-p",
            "seeds",
            "7",
        ],
        cwd=repository(),
        capture_output=True,
        text=True,
    )
    assert reference.returncode == 0, reference.stderr[-2000:]
    table = pd.read_csv(tmp_path / "out" / "table3_pooling.csv")
    assert (table.runs_wanted == 7).all() and not list(
        (tmp_path / "runs").glob("[0-9a-f]*")
    )  # nothing is trained


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--profile", "fats"], "does not exist"),
        (["--data", "no/such"], "not a folder"),
        (["--seeds", "0"], "from 1 up"),
        (["--only", "99"], "fits no notebook"),
        (["--carry", "--only", "25", "--data", "reference"], "never kept"),
        (["--carry", "--only", "40"], "never kept"),
    ],
)
def test_the_command_answers_bad_input_in_one_sentence(words, sentence, capsys, tmp_path):
    assert main([*words, "--out", str(tmp_path / "out"), "--store", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said and "\n" not in said
