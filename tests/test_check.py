"""`koa check`: the report of a dirty folder, and that it tells nobody's name."""

import os
import shutil
import subprocess
import sys
import warnings

import matplotlib
import numpy as np
import pandas as pd
import pytest
from made_up import dicom
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from test_layouts import FLAT, KNEES, NAMES, labels, tree

from koa_repro.check import as_page, as_text, contact_sheet, examine, find, write_report
from koa_repro.data import load_knees
from koa_repro.layouts import ABOUT, look
from koa_repro.letters import side_letters
from koa_repro.paths import repository
from koa_repro.phantom import make_knees
from koa_repro.privacy import code, published_knees
from koa_repro.tools.koa import main


def states(report):
    return report.files.state.value_counts().to_dict()


def row(report, name, kind="file"):
    rows = report.files[report.files.file.str.startswith(code(name, kind))]
    assert len(rows) == 1, name
    return rows.iloc[0]


@pytest.fixture
def plain(tmp_path):
    return tree(tmp_path / "knees")


def test_a_clean_folder(plain, tmp_path):
    report = examine(plain, names=True)
    assert report.clean and states(report) == {"used": 6}
    assert report.counts().loc["train"].to_dict() == {"KL-0": 1, "KL-2": 1, "all": 2}
    assert sorted(report.files.file) == sorted(NAMES) and report.pairs.empty
    page = write_report(report, tmp_path / "out")
    text = as_text(report)
    assert page.name == "index.html" and text == (page.parent / "report.txt").read_text()
    assert len(pd.read_csv(page.parent / "files.csv")) == 6
    assert Image.open(page.parent / "sheet.png").width > 500


def test_every_fault_is_a_row_and_one_bad_file_stops_nothing(plain, monkeypatch):
    Image.open(plain / NAMES[0]).resize((299, 299)).save(plain / "test/0/20L.png")
    Image.open(plain / NAMES[1]).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
        plain / "train/0/21L.png"
    )
    shutil.copy(plain / NAMES[2], plain / "val/2/22L.png")
    Image.open(plain / NAMES[3]).save(plain / "val/2/23L.png", compress_level=1)
    Image.fromarray(255 - KNEES[9]).save(plain / "train/0/24L.png")
    Image.fromarray(KNEES[10]).save(plain / "test/2/0R.png")  # 0L is in train
    Image.fromarray(KNEES[11]).save(plain / "train/25L.png")
    Image.fromarray(KNEES[12]).save(plain / "train/0/nameless.png")
    (plain / "train/0/26L.png").write_bytes(b"no picture")
    Image.fromarray(KNEES[13][:, :100]).save(plain / "train/0/27L.png")
    (plain / "train/2/list.txt").write_text("notes")
    os.mkfifo(plain / "train/2/28L.png")
    os.symlink("..", plain / "train/again")
    Image.fromarray(KNEES[14]).save(plain / "train/0/29L.png")
    import koa_repro.check as module

    real = module.decode
    stopper = (plain / "train/0/29L.png").read_bytes()

    def decode(data):
        if data == stopper:
            raise RecursionError("deep")
        return real(data)

    monkeypatch.setattr(module, "decode", decode)
    report = examine(plain)
    assert states(report) == {"in the way": 15, "used": 3, "left out": 2}
    how = dict(zip(report.pairs.how, report.pairs["where"]))
    assert how == {
        "equal bytes": "within val, with different grades",
        "equal pixels": "within val",
        "same picture, saved anew": "in test and train",
        "same picture, mirrored": "within train, with different grades",
    }
    for name in ("train/25L.png", "train/0/nameless.png", "train/0/26L.png", "train/0/27L.png"):
        assert row(report, name).state == "in the way"
    assert "RecursionError" in row(report, "train/0/29L.png").reason
    negative = row(report, "train/0/24L.png")
    assert negative.inverted and negative.polarity < 0 and negative.state == "used"
    split = row(report, NAMES[0]).participant
    assert split == code("0") == row(report, "test/2/0R.png").participant
    assert row(report, "train/2/list.txt").state == row(report, "train/again").state == "left out"
    assert {"negatives", "same picture twice", "no single knee"} <= set(report.sheet)
    assert len(contact_sheet(report).axes) == sum(len(p[:8]) for p in report.sheet.values())
    assert not report.clean and "LEAK" in as_text(report) and "LEAK" in as_page(report)
    with warnings.catch_warnings(), pytest.raises(ValueError):
        warnings.simplefilter("ignore")
        load_knees(plain, manifest=None)


def test_what_check_calls_clean_is_loaded_and_the_reverse(plain):
    "The report and `load_knees` agree on what stands in the way, grade by grade."
    tree(plain, [f"auto_test/0/{i}_{k}.png" for i in (0, 9) for k in (1, 2)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        count = len(load_knees(plain, manifest=None))
    report = examine(plain)
    assert report.clean and states(report) == {"used": count, "left out": 4}
    assert len(report.pairs) == 4  # the same pictures, but left out


def test_two_editions_are_told_and_no_fault(tmp_path):
    for edge in (224, 299):
        tree(tmp_path / "both" / f"knees{edge}", edge=edge)
    report = examine(tmp_path / "both")
    assert states(report) == {"used": 12}
    assert [s[0] for bad, s in report.findings if bad] == ["2"]  # give the folder of one
    with pytest.raises(FileNotFoundError, match="2 sets"):
        load_knees(tmp_path / "both", manifest=None)
    assert examine(tmp_path / "both" / "knees224").clean
    assert report.pairs["where"].value_counts().to_dict() == {"two editions of one knee": 6}
    moved = tmp_path / "both/knees299/train/0/0L.png"
    moved.rename(tmp_path / "both/knees299/test/0/0L.png")
    again = examine(tmp_path / "both")
    assert sum(bad for bad, _ in again.findings) > 1
    assert again.pairs["where"].value_counts().to_dict() == {
        "two editions of one knee": 5, "in train and test": 1,
    }  # fmt: skip


@pytest.mark.parametrize("mirrored", (False, True))
def test_another_cut_of_a_film_is_asked_about(plain, mirrored):
    "Cut at one side, stretched by two factors: told, and in nobody's way."
    knee = Image.open(plain / NAMES[0])
    edge = knee.width
    again = knee.crop([round(edge * s) for s in (0.02, 0.07, 0.97, 0.97)]).resize((224, 224))
    again = again.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else again
    again.save(plain / "test/0/20L.png")
    report = examine(plain)
    how = "same picture, cut anew" + " and mirrored" * mirrored
    told = report.pairs[["how", "where", "grave"]].values.tolist()
    assert told == [[how, "in test and train", False]] and "cut anew?" in report.sheet
    assert report.clean and "LEAK?" in as_text(report) and states(report) == {"used": 7}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(load_knees(plain, manifest=None)) == 7


def test_a_folder_that_cannot_be_listed_is_told(plain, monkeypatch):
    real = os.scandir

    def closed(path):
        if os.fspath(path).endswith("2") and "val" in os.fspath(path):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    report = examine(plain)
    assert not report.clean and row(report, "val/2").state == "in the way"
    assert states(report)["used"] == 5


def test_a_folder_of_films_is_no_reason_to_stop(tmp_path):
    (tmp_path / "films").mkdir()
    Image.fromarray(np.hstack(KNEES[:2])).save(tmp_path / "films/a.png")
    Image.fromarray(np.hstack(KNEES[2:4])).save(tmp_path / "films/b.jpg", quality=95)
    report = examine(tmp_path / "films")
    assert states(report) == {"in the way": 2} and list(report.sheet) == ["no single knee"]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("x")
    empty = examine(tmp_path / "texts")
    assert states(empty) == {"left out": 1}
    contact_sheet(empty), as_page(empty), as_text(empty)


def marked(image, letter, at=(40, 40), size=30):
    "A film with a side marker burned in."
    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/STIXGeneralBol.ttf", size)
    film = Image.fromarray(image)
    ImageDraw.Draw(film).text(at, letter, fill=255, font=font)
    return np.asarray(film)


@pytest.mark.parametrize("letter", "LR")
def test_a_letter_says_which_way_round_a_film_is(letter):
    film = np.pad(KNEES[0] // 2, ((0, 0), (120, 0)))
    film = marked(film, letter)
    (seen,) = side_letters(film)
    assert (seen.letter, seen.mirrored) == (letter, False)
    left, top, right, bottom = seen.box
    assert 35 < left < right < 80 and 40 < top < bottom < 80
    (turned,) = side_letters(np.ascontiguousarray(film[:, ::-1]))
    assert (turned.letter, turned.mirrored) == (letter, True)
    assert side_letters(film.astype(np.float32) / 255) == [seen]
    large = np.asarray(Image.fromarray(film).resize((film.shape[1] * 5, film.shape[0] * 5)))
    (found,) = side_letters(large)
    assert found.letter == letter and abs(found.box[0] - 5 * left) <= 10
    assert not side_letters(KNEES[0]) and not side_letters(np.zeros((9, 9), np.uint8))


@pytest.mark.parametrize("word", ["HOSPITAL", "MILLER", "LEFT", "RL", "DR. L"])
def test_a_letter_of_a_word_is_no_marker(word):
    film = np.pad(KNEES[0] // 2, ((0, 0), (120, 0)))
    assert side_letters(marked(film, "L")) and not side_letters(marked(film, word))


def test_a_letter_back_to_front_is_warned_of(plain):
    film = marked(KNEES[8] // 2, "R")
    Image.fromarray(film[:, ::-1].copy()).save(plain / "train/0/31L.png")
    report = examine(plain)
    assert sum(s.startswith("MIRRORED?") for _, s in report.findings) == 1
    assert len(report.sheet["letters back to front"]) == 1


@pytest.mark.parametrize("swapped, told", [(0, 0), (12, 1), (24, 1)])
def test_names_that_give_another_side_than_the_pictures_are_warned_of(tmp_path, swapped, told):
    knees = make_knees(24, 3)
    for i, (image, side) in enumerate(zip(knees.images, knees.side)):
        side = "LR"[side == "L"] if i < swapped else side
        Image.fromarray(image).save(tmp_path / f"{i:03d}{side}.png")
    said = [s for _, s in examine(tmp_path).findings]
    assert sum(s.startswith("MIRRORED?") for s in said) == told


def test_the_real_film_is_mirrored():
    film = repository().parent / "shared/data/films/mrkr_bilateral_512.png"
    if not film.is_file():
        pytest.skip("the film is not here")
    (seen,) = side_letters(np.asarray(Image.open(film).convert("L")))
    assert (seen.letter, seen.mirrored) == ("R", True)


@pytest.mark.parametrize("names", [None, True])
def test_names_that_are_no_text_are_told(plain, tmp_path, names):
    for name, data in ((b"/train/0/p\xff1L.png", (plain / NAMES[0]).read_bytes()), (b"/\xfe", b"")):
        with open(bytes(plain) + name, "wb") as file:
            file.write(data)
    report = examine(plain, names=names)
    write_report(report, tmp_path / "out")
    assert states(report) == {"used": 6, "in the way": 1, "left out": 1}
    if names:
        assert {"train/0/p\\udcff1L.png", "\\udcfe"} <= set(report.files.file)


def test_the_automatic_cuts_are_half_the_test_participants():
    source = repository().parent / "shared/data/auto_test"
    if not source.is_dir():
        pytest.skip("the automatic cuts are not here")
    found = look(source)
    assert len(found.frame) == 753 and set(found.frame.split) == {"test"}
    assert not any(found.faults.values()) and list(found.left.values()) == [ABOUT]
    report = examine(source / "4")  # the smallest grade
    assert report.clean and states(report) == {"used": 25}


def test_the_kaggle_copy_is_the_published_set(knees_folder, tmp_path):
    automatic = knees_folder.parent / "auto_test"
    if not automatic.is_dir():
        pytest.skip("the automatic cuts are not here")
    root = tmp_path / "archive" / "kl224"
    root.mkdir(parents=True)
    for split in ("train", "val", "test"):
        os.symlink(knees_folder / split, root / split)
    os.symlink(automatic, root / "auto_test")
    found = look(tmp_path)
    assert len(found.frame) == 8260 + 753 and not any(found.faults.values())
    assert found.root == root and found.sets == [""]
    columns = ["file", "participant", "side", "kl", "split"]
    listed = published_knees()[columns]
    knees = found.frame.loc[found.frame.split != "auto_test", columns]
    assert sorted(map(tuple, knees.values)) == sorted(map(tuple, listed.values))


def test_the_second_cohort_holds_films_and_copies(tmp_path):
    films = repository().parent / "shared/data/gp/films"
    if not films.is_dir():
        pytest.skip("the films are not here")
    listed = pd.read_csv(films.parent / "gp.csv")
    twice = listed[listed.sha256.duplicated(keep=False)].sort_values("sha256").file[:4]
    (tmp_path / "films").mkdir()
    for file in twice:
        shutil.copy(films.parent / file, tmp_path / file)
    report = examine(tmp_path)
    assert states(report) == {"in the way": 4}
    assert report.pairs.how.tolist() == ["equal bytes"] * 2


# --- names

PLANTED = ["Lovelace", "19151210", "MRN-48151", "St-Elsewhere", "0042-1337"]


@pytest.fixture
def named(tmp_path):
    "Knees whose file names, folders, tags, PNG texts and EXIF name patients."
    root = tmp_path / "knees"
    names = [f"{s}/{g}/Lovelace_{i}{'LR'[i % 2]}.png" for i, (s, g) in enumerate(
        (s, g) for s in ("train", "val", "test") for g in (0, 2) for _ in range(2)
    )]  # fmt: skip
    for i, name in enumerate(names):
        text, exif = PngImagePlugin.PngInfo(), Image.Exif()
        for key, value in zip(("Title", "Author", "Comment", "Source", "Software"), PLANTED):
            text.add_text(key, value)
        text.add_itxt("Description", PLANTED[2])
        for tag, value in zip((0x010E, 0x013B, 0x0132, 0x8298, 0x0131), PLANTED):
            exif[tag] = value
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(KNEES[i]).save(root / name, pnginfo=text, exif=exif)
    tags = dict(
        PatientName=PLANTED[0], PatientBirthDate=PLANTED[1], PatientID=PLANTED[2],
        InstitutionName=PLANTED[3], AccessionNumber=PLANTED[4], StudyDescription=PLANTED[0],
        StudyID=PLANTED[2], StudyDate=PLANTED[1], OperatorsName=PLANTED[0],
        SeriesDescription=PLANTED[2], PatientComments=" ".join(PLANTED), PatientAddress=PLANTED[3],
    )  # fmt: skip
    dicom(root / "train/0/MRN-48151_19151210L.dcm", KNEES[20], bits=8, **tags)
    dicom(root / "train/2/MRN-48152_19151210R.dcm", KNEES[21], bits=8, **tags)
    Image.fromarray(KNEES[22]).save(root / "test/0/St-Elsewhere_R.jpg", exif=exif, quality=95)
    return root


def planted_in(*folders):
    "Files below that hold one of the planted words, as text in one or two bytes, or as a name."
    words = [w.encode(e) for w in PLANTED for e in ("utf-8", "utf-16-le", "utf-16-be")]
    found = []
    for path in (p for folder in folders for p in folder.rglob("*")):
        inside = path.read_bytes() if path.is_file() else b""
        if any(w in path.name for w in PLANTED) or any(w in inside for w in words):
            found.append(path.name)
    return found


def test_planted_words_are_found_where_they_are(named):
    assert len(planted_in(named)) == 15


def test_no_name_in_any_file_of_a_report(named, tmp_path, capsys):
    (named / "Lovelace.txt").write_text("19151210")
    (named / "test/2/Lovelace_broken9L.png").write_bytes(b"MRN-48151")
    shutil.copy(named / "train/0/Lovelace_0L.png", named / "test/2/Lovelace_77L.png")
    write_report(examine(named), tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 5 and planted_in(tmp_path / "out") == []
    assert main(["check", str(named), "--out", str(tmp_path / "more")]) == 1
    said = capsys.readouterr()
    assert planted_in(tmp_path / "more") == []
    assert not any(w in said.out + said.err for w in PLANTED)


def test_folders_named_after_people_are_not_told(named, tmp_path, capsys):
    root = tmp_path / "people"
    for word, files in zip(PLANTED, ("train/0", "train/2")):
        shutil.copytree(named / files, root / word / files)
    assert planted_in(root)
    assert main(["check", str(root), "--out", str(tmp_path / "more")]) == 1
    assert planted_in(tmp_path / "more") == []
    with pytest.raises(FileNotFoundError) as e:
        load_knees(root, manifest=None)
    said = str(e.value) + "".join(capsys.readouterr())
    assert not any(word in said for word in PLANTED)


@pytest.mark.parametrize("name", ["index.html", "files.csv", "report.txt"])
def test_what_is_no_earlier_report_stays(plain, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    assert main(["check", str(plain), "--out", str(tmp_path / "out")]) == 2
    with pytest.raises(ValueError, match="no earlier report"):
        write_report(examine(plain), tmp_path / "out")
    assert (tmp_path / "out" / name).read_text() == "mine"
    for _ in range(2):
        assert main(["check", str(plain), "--out", str(tmp_path / "other")]) == 0


def test_nothing_that_can_be_used_is_no_success(tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "notes.txt").write_text("none")
    assert main(["check", str(tmp_path / "films"), "--out", str(tmp_path / "out")]) == 1


def test_a_tag_that_a_reason_quotes_is_not_told(named, tmp_path):
    file = named / "train/0/0-1L.dcm"
    dicom(file, KNEES[18], kind="Lovelace^Ada", bits=8)
    report = examine(named)
    write_report(report, tmp_path / "out")
    assert planted_in(tmp_path / "out") == [] and not report.clean
    with pytest.raises(ValueError) as e:
        load_knees(named, manifest=None)
    assert e.value.unreadable == ["train/0/0-1L.dcm"]
    assert not any(word in str(e.value.coded()) for word in PLANTED)


def test_no_name_in_any_file_of_a_study(named, tmp_path):
    "The store and a table of its runs, from a folder of named patients."
    from koa_repro.results import save_table
    from koa_repro.study import Study, study_frame, study_runs, study_spec

    study = Study("smoke", str(named), 1, str(tmp_path / "store"), str(tmp_path / "out"))
    (run,) = study_runs(study, [study_spec(study)])
    table = run.predictions().merge(study_frame(study)[["file", "sha256"]])
    assert len(table) == len(run.predictions()) == 9
    assert not any(word in run.everything.to_csv() for word in PLANTED)
    save_table(table, "predictions", tmp_path / "out", study=study.says)
    assert (tmp_path / "store" / run.spec.id / "predictions.parquet").is_file()
    assert planted_in(tmp_path / "store", tmp_path / "out") == []


def test_no_name_in_the_error_of_a_study(named, tmp_path):
    from koa_repro.study import Study, study_knees

    (named / "test/2/Lovelace_brokenL.png").write_bytes(b"MRN-48151")
    study = Study("smoke", str(named), 1, str(tmp_path / "store"), str(tmp_path / "out"))
    with pytest.raises(ValueError) as e:
        study_knees(study)
    assert not any(w in str(e.value) for w in PLANTED) and e.value.__cause__ is None
    assert e.value.unreadable == [code("test/2/Lovelace_brokenL.png", "file")]


def test_a_code_is_found_again(named):
    report = examine(named)
    at = report.files.file[report.files.file.str.endswith(".jpg")].iloc[0]
    assert find(named, at) == ["test/0/St-Elsewhere_R.jpg"]
    assert find(named, code("St-Elsewhere")) == ["test/0/St-Elsewhere_R.jpg"]
    assert find(named, f"test/0/{code('St-Elsewhere')}R.png") == ["test/0/St-Elsewhere_R.jpg"]
    (named / "notes.txt").write_text("no picture")
    assert find(named, "000000000000") == find(named, "no code") == []
    assert "Lovelace" in "".join(examine(named, names=True).files.file)


# --- the command


def test_the_command(plain, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["check", str(plain), "--out", out]) == 0
    Image.open(plain / NAMES[0]).resize((299, 299)).save(plain / "test/0/20L.png")
    assert main(["check", str(plain), "--out", out]) == 1
    assert main(["check", str(plain), "--find", code("test/0/20L.png", "file")]) == 0
    assert capsys.readouterr().out.endswith("test/0/20L.png\n")
    assert main(["check", str(plain), "--out", str(plain / "report")]) == 2
    assert not (plain / "report").exists()
    assert main(["check", str(tmp_path / "nowhere"), "--out", out]) == 2
    assert main(["check", str(plain / NAMES[0]), "--out", out]) == 2
    with pytest.raises(SystemExit):
        main(["chek", str(plain)])
    assert main(["check", str(plain), "--out", out, "--names"]) == 1
    assert "test/0/20L.png" in (tmp_path / "out/files.csv").read_text()


def from_a_shell(words, folder):
    "What Python says to these words in a process of its own."
    env = os.environ | dict(PYTHONPATH=str(repository()))
    words = [sys.executable, *words]
    return subprocess.run(words, capture_output=True, text=True, cwd=folder, env=env)


def test_the_command_from_a_shell(plain, tmp_path):
    words = ["-m", "koa_repro.tools.koa", "check", str(plain), "--out", str(tmp_path / "out")]
    done = from_a_shell(words, tmp_path)
    assert done.returncode == 0 and (tmp_path / "out/index.html").exists(), done.stderr[-800:]


def test_help_needs_no_pytorch(tmp_path):
    "It takes seconds to load."
    code = (
        "import sys\nfrom koa_repro.tools.koa import main\ntry:\n    main(['check', '--help'])\n"
        "except SystemExit as e:\n    assert e.code == 0 and 'torch' not in sys.modules"
    )
    done = from_a_shell(["-c", code], tmp_path)
    assert done.returncode == 0 and "--names" in done.stdout, done.stderr


def test_each_reason_is_counted(tmp_path):
    root, table = tree(tmp_path / "flat", FLAT), labels(kl=[0, 2, "1.5", 0])
    pd.concat([table, table[:1]]).to_csv(root / "labels.csv", index=False)
    told, reasons = examine(root).findings, look(root).reasons
    assert len(set(reasons.values())) == len(reasons) == 2  # a row twice, a grade that is none
    for why in reasons.values():
        assert sum(why in text for grave, text in told if grave) == 1
