"""Tables of the OAI: made-up rows in the layout of the real ones, and every row accounted for."""

import pandas as pd
import pytest
from PIL import Image
from test_layouts import KNEES

from koa_repro.data import load_knees
from koa_repro.oai import OAIKnees, is_missing, load_oai, number, read_table
from koa_repro.privacy import code

HEAD = "ID|SIDE|READPRJ|VERSION|V00BARCDBU|V00XROSFM|V00XRJSM|V00XRJSL|V00XRKL"
ROWS = [
    "9000001|1|15|0.6|016600000011|0|0|0|0",
    "9000001|2|15|0.6|016600000011|1|1.4|0.5|2",
    "9000002|1: Right|15|0.6|016600000022|0: None|.5|0|1: Doubtful",
    "9000002|2: Left|15|0.6|016600000022|2|2|1|3",
]


def table(folder, rows=ROWS, head=HEAD, name="kxr_sq_bu00.txt", end="\n", encoding="utf-8"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes((end.join([head, *rows]) + end).encode(encoding))
    return folder


def knees(found: OAIKnees):
    return [tuple(row) for row in found.knees[["participant", "side", "kl"]].values]


WANTED = [
    ("9000001", "L", 2),
    ("9000001", "R", 0),
    ("9000002", "L", 3),
    ("9000002", "R", 1),
]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "change",
    [str, str.lower, lambda h: h.replace("READPRJ", "readprj").replace("V00XRKL", "v00XRKL")],
    ids=["upper", "lower", "mixed"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "windows-1252"])
def test_lines_heads_and_encodings(tmp_path, end, change, encoding):
    extra = [r + "|né" for r in ROWS]
    found = load_oai(
        table(tmp_path / "a", extra, change(HEAD) + "|NOTE", end=end, encoding=encoding)
    )
    assert knees(found) == WANTED and found.visit == "V00"
    assert found.unused == {"knee without a picture": 4}
    assert found.knees.XRJSM.tolist() == [1.4, 0, 2, 0.5]
    assert found.knees.XROSFM.tolist() == [1, 0, 2, 0]


def test_the_barcode_keeps_its_zero_and_quotes_are_text(tmp_path):
    rows = [*ROWS[:1], ROWS[1].replace("0.6", '"0.6')]
    found = load_oai(table(tmp_path / "a", rows))
    assert len(found.knees) == 2 and set(found.knees.barcode) == {"016600000011"}


MISSING = ["", " ", ".", ".A", ".M: Missing", ".: Missing Form/Incomplete Workbook", ".v", ".T : x"]


@pytest.mark.parametrize("cell", MISSING)
def test_missing_is_missing(tmp_path, cell):
    assert is_missing(cell) and pd.isna(number(cell))
    for column in (0, 1, 4, 8):
        row = ROWS[0].split("|")
        row[column] = cell
        found = load_oai(table(tmp_path / "a", ["|".join(row), *ROWS[1:]]))
        assert len(found.knees) == (4 if column == 4 else 3)
        assert sum(found.unused.values()) - found.unused["knee without a picture"] == (column != 4)
        if column == 4:
            assert found.knees.barcode[1] == ""


@pytest.mark.parametrize("cell", ["1.9", "5", "-1", "two", "2 3", "9: Not read"])
def test_a_grade_that_is_none_is_counted(tmp_path, cell):
    found = load_oai(table(tmp_path / "a", [ROWS[0][:-1] + cell, *ROWS[1:]]))
    assert knees(found) == [k for k in WANTED if k[:2] != ("9000001", "R")]
    assert found.unused["row with a grade that is no whole number from 0 to 4"] == 1


def reading(project, kl, who="9000009", side=1):
    return f"{who}|{side}|{project}|0.6||0|0|0|{kl}"


def test_of_several_reading_projects_the_first_counts(tmp_path):
    rows = [reading(42, 4), reading(37, 3), reading(15, "."), reading(37, 2, side=2)]
    found = load_oai(table(tmp_path / "a", [*rows, reading(15, 1, side=2), reading(99, 0)]))
    assert knees(found) == [("9000009", "L", 1), ("9000009", "R", 3)]
    assert found.knees.project.tolist() == [15, 37]
    assert found.unused == {
        "row of another reading project": 1,
        "row without a grade": 1,
        "reading of a knee that another project has graded": 2,
        "knee without a picture": 2,
    }
    assert knees(load_oai(tmp_path / "a", projects=(42,))) == [("9000009", "R", 4)]


def test_a_key_twice(tmp_path):
    rows = [reading(15, 1), reading(15, 1), reading(15, 2, side=2), reading(15, 3, side=2)]
    found = load_oai(table(tmp_path / "a", [*rows, reading(37, 4, side=2)]))
    assert knees(found) == [("9000009", "L", 4), ("9000009", "R", 1)]
    assert found.unused["row that repeats a reading"] == 1
    assert found.unused["row that another row of the same reading contradicts"] == 2


def test_every_row_is_used_or_counted(tmp_path):
    rows = [*ROWS, "9|1", "", ROWS[0] + "|more", reading(15, "."), reading(15, 0, who="")]
    found = load_oai(table(tmp_path / "a", rows))
    rest = dict(found.unused)
    assert rest.pop("knee without a picture") == len(found.knees) == 4
    assert rest == {
        "line with another number of fields than the header": 2,
        "row without a grade": 1,
        "row without an ID": 1,
    }


def test_visits_are_told_apart(tmp_path):
    head = HEAD.replace("VERSION", "P01XRKL")
    table(tmp_path / "a", [r.replace("0.6", "4") for r in ROWS], head)
    table(tmp_path / "a", [ROWS[0]], HEAD.replace("V00", "V01"), "kXR_SQ_BU01.txt")
    assert knees(load_oai(tmp_path / "a")) == WANTED
    assert [k[2] for k in knees(load_oai(tmp_path / "a", visit="p01"))] == [4] * 4
    assert knees(load_oai(tmp_path / "a", visit="V01")) == [("9000001", "R", 0)]
    with pytest.raises(FileNotFoundError, match="bu03"):
        load_oai(tmp_path / "a", visit="V03")
    with pytest.raises(ValueError, match="visit"):
        load_oai(tmp_path / "a", visit="baseline")


def test_what_is_no_table_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="kxr_sq_bu00"):
        load_oai(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_oai(tmp_path / "nowhere")
    for text, word in (("", "header"), ("ID,SIDE\n1,2\n", "header"), ("ID|ID\n1|2\n", "two")):
        (tmp_path / "kxr_sq_bu00.txt").write_text(text)
        with pytest.raises(ValueError, match=word):
            load_oai(tmp_path)
    table(tmp_path, ["1|1|15|3"], "ID|SIDE|READPRJ|V01XRKL")
    with pytest.raises(ValueError, match="V00XRKL.*V01"):
        load_oai(tmp_path)
    (tmp_path / "kxr_sq_bu00.txt").unlink()
    (tmp_path / "kxr_sq_bu00.sas7bdat").write_bytes(b"no SAS file")
    with pytest.raises(ValueError, match="SAS"):
        load_oai(tmp_path)


def test_a_sas_table_reads_as_the_text_does(tmp_path, monkeypatch):
    "What pandas makes of a SAS file: numbers as floats, text as str or bytes, missing as NaN."
    text, broken = read_table(table(tmp_path / "text") / "kxr_sq_bu00.txt")
    assert broken == 0
    as_sas = pd.DataFrame(
        dict(
            ID=[9000001.0, 9000001.0, b"9000002", "9000002 "],
            SIDE=[1.0, 2.0, 1.0, 2.0],
            readprj=[15.0] * 4,
            V00BARCDBU=["016600000011"] * 2 + ["016600000022"] * 2,
            V00XRJSM=[0.0, 1.4, 0.5, float("nan")],
            v00XRKL=[0.0, 2.0, 1.0, 3.0],
        )
    )
    (tmp_path / "sas").mkdir()
    (tmp_path / "sas/KXR_SQ_BU00.sas7bdat").write_bytes(b"")
    asked = {}

    def read_sas(file, **options):
        asked.update(options)
        return as_sas

    monkeypatch.setattr(pd, "read_sas", read_sas)
    found = load_oai(tmp_path / "sas")
    assert knees(found) == WANTED and asked["encoding"] == "windows-1252"
    assert set(found.knees.barcode) == {"016600000011", "016600000022"}
    assert found.knees.XRJSM.isna().sum() == 1


def film(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0" * 128 + b"DICM")


def test_films_are_joined_by_barcode(tmp_path):
    root = table(tmp_path / "a")
    film(root / "0.C.2/9000001/20040909/00000011/001")
    film(root / "films/016600000022.dcm")
    film(root / "0.C.2/9999999/20040909/00000099/001")
    found = load_oai(root)
    first, second = "0.C.2/9000001/20040909/00000011/001", "films/016600000022.dcm"
    assert found.knees.file.tolist() == [first, first, second, second]
    assert found.unused == {"picture of no graded knee": 1}
    assert found.manifest().empty  # a film of two knees is no knee's own
    film(root / "again/016600000022.dcm")
    assert load_oai(root).unused["knee with several pictures"] == 2


def test_cut_knees_are_joined_by_name_and_loaded(tmp_path):
    root, images = table(tmp_path / "tables"), tmp_path / "images"
    images.mkdir()
    for i, name in enumerate(("9000001R", "9000001L", "9000002_R", "9000002 left")):
        Image.fromarray(KNEES[i]).save(images / f"{name}.png")
    found = load_oai(root, images)
    assert (found.knees.file != "").all() and found.unused == {}
    loaded = load_knees(images, (0, 1, 2, 3), "participant", manifest=found.manifest())
    assert sorted(zip(loaded.participant, loaded.side, loaded.kl)) == sorted(
        (code(p), s, kl) for p, s, kl in WANTED
    )
    (images / "9000002 left.png").unlink()
    film(images / "9000002/scan")  # one file in the participant's folder
    joined = load_oai(root, images)
    assert joined.knees.file[2] == "9000002/scan"
