"""From a film to an answer: what is found, what is written, what a bad file does to the rest."""

import json
import os
import shutil
import signal
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import dicom
from PIL import Image, ImageDraw, ImageFont

from koa_repro import predict as films
from koa_repro.data import example_knees, real_knees
from koa_repro.grader import WEIGHTS, load_grader, own_answers, own_grader
from koa_repro.localise import find_knees
from koa_repro.paths import manifests, repository
from koa_repro.predict import COLUMNS, draw_example, phantom_film, predict, read_file, spots_of
from koa_repro.privacy import published_knees
from koa_repro.radiographs import as_knee, decode, file_bytes, region_of_interest
from koa_repro.tools.koa import main
from koa_repro.tools.release import (
    CANDIDATES,
    candidate_spec,
    card_page,
    chosen,
    doubt_threshold,
    release,
)

SHIPPED = manifests() / WEIGHTS
REAL = repository().parent / "shared" / "data"


@pytest.fixture(scope="module")
def film():
    return phantom_film()


@pytest.fixture
def folder(tmp_path, film):
    "A film, a cut knee, litter, and a file that is no picture."
    source = tmp_path / "films"
    source.mkdir()
    Image.fromarray(film).save(source / "a film.png")
    knees = example_knees().only(2)
    Image.fromarray(knees.images[0]).save(source / "P1_L.png")
    (source / "broken.png").write_bytes(b"\x89PNG no more")
    (source / ".DS_Store").write_bytes(b"x")
    (source / "notes.txt").write_text("no picture")
    return source


def test_a_folder_gives_a_row_a_knee_and_a_reason_for_every_file_without(folder, tmp_path):
    table = predict(folder, tmp_path / "out")
    assert table.columns.tolist() == COLUMNS
    by_name = table.assign(name=[Path(f).name for f in table.file]).set_index("name")
    assert by_name.loc["a film.png"].side.tolist() == ["R", "L"]
    assert by_name.loc["P1_L.png", "side"] == "L"
    assert set(by_name.index) == {"a film.png", "P1_L.png", "broken.png"}
    broken = by_name.loc["broken.png"]
    assert pd.isna(broken.grade) and broken.notes
    graded = table[table.grade.notna()]
    assert np.allclose(graded.p0 + graded.p2, 1)
    assert (graded.confidence == graded[["p0", "p2"]].max(axis=1)).all()
    assert (graded.grade == np.where(graded.p2 > graded.p0, 2, 0)).all()
    limit = own_grader().card["doubt"]["threshold"]
    assert (graded.doubtful == (graded.confidence < limit)).all()  # all of them whole knees


def test_what_is_written_is_what_is_returned(folder, tmp_path):
    table, out = predict(folder, tmp_path / "out"), tmp_path / "out"
    kept = pd.read_csv(out / "predictions.csv", keep_default_na=False, na_values={"p2": ""})
    assert kept.file.tolist() == table.file.tolist()
    assert np.allclose(kept.p2, table.p2.astype(float), atol=1e-4, equal_nan=True)
    page = (out / "index.html").read_text()
    pictures = sorted(p.name for p in (out / "pictures").iterdir())
    assert len(pictures) == 2 and all(f"pictures/{p}" in page for p in pictures)
    assert "http" not in page.replace("http-equiv", "")  # opens without a network
    assert "broken.png" in page and films.LIMITS in page


def test_one_bad_file_and_an_interruption_lose_nothing(folder, tmp_path, monkeypatch):
    real, seen = films.read_file, []

    def stopped(file, grader):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(file)
        return real(file, grader)

    monkeypatch.setattr(films, "read_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        predict(folder, tmp_path / "out")
    kept = pd.read_csv(tmp_path / "out" / "predictions.csv").set_index("file")
    read = [str(f) for f in seen]
    assert set(kept.index[kept.grade.notna()]) == set(read)
    rest = kept.drop(read)  # what was not read is told
    assert [Path(f).name for f in rest.index] == ["broken.png"] and rest.notes.all()


def test_an_interruption_ends_with_a_sentence(folder, tmp_path, monkeypatch, capsys):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(films, "read_file", stopped)
    assert main(["predict", str(folder), "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.startswith("koa predict: ")


def test_a_queue_that_stops_the_reading_gets_the_answer_so_far(folder, tmp_path, monkeypatch):
    real, before = films.read_file, signal.getsignal(signal.SIGTERM)

    def then_stopped(file, grader):
        if file.name == "broken.png":  # the last
            os.kill(os.getpid(), signal.SIGTERM)
        return real(file, grader)

    monkeypatch.setattr(films, "read_file", then_stopped)
    assert main(["predict", str(folder), "--out", str(tmp_path / "out")]) == 130
    kept = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert kept.grade.notna().sum() == 3 and signal.getsignal(signal.SIGTERM) == before


def test_half_an_answer_is_one_of_ours(folder, tmp_path, monkeypatch):
    def killed(*_):
        os._exit(9)

    out, pid = tmp_path / "out", os.fork()
    if not pid:
        monkeypatch.setattr(films, "own_grader", lambda: None)
        monkeypatch.setattr(films, "read_file", killed)
        predict(folder, out)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9 and (out / "pictures").is_dir()
    assert predict(folder / "P1_L.png", out).grade.notna().all()


def test_a_film_out_of_reach_does_not_stop_the_others(folder, monkeypatch):
    real, hidden = Path.is_dir, folder / "sub" / "P2_L.png"

    def is_dir(path):
        if path == hidden:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    read, _ = films.files_of([hidden, folder / "P1_L.png"])
    assert read == [hidden, folder / "P1_L.png"]


def test_what_is_left_out_is_named(folder):
    assert "notes.txt" in films.as_text(predict(folder))


def test_a_doubtful_knee_and_a_side_by_place_say_so(film, tmp_path):
    spots = spots_of(film)[0]
    for spot in spots:
        assert spot.by_place == any("place" in note for note in spot.notes)
    assert not any(s.by_place for s in spots_of(lettered(film, "R"))[0])
    Image.fromarray(film).save(tmp_path / "film.png")
    for row in read_file(tmp_path / "film.png").rows:
        limit = own_grader().card["doubt"]["threshold"]
        assert ("confidence below" in row["notes"]) == (row["confidence"] < limit)


@pytest.mark.parametrize("name", ["pictures/0000.png", "index.html", "predictions.csv"])
def test_a_film_is_never_replaced_by_its_answer(tmp_path, film, name):
    place = tmp_path / "out" / name
    place.parent.mkdir(parents=True)
    Image.fromarray(film).save(place, format="PNG")
    before = place.read_bytes()
    assert main(["predict", str(place), "--out", str(tmp_path / "out")]) == 2
    assert main(["predict", str(place.parent), "--out", str(tmp_path / "out")]) == 2
    assert place.read_bytes() == before


def test_what_is_no_earlier_answer_stays(folder, tmp_path):
    for name in ("index.html", "predictions.csv", "example.png"):
        out = tmp_path / name.split(".")[0]
        out.mkdir()
        (out / name).write_text("mine")
        assert main(["predict", str(folder / "P1_L.png"), "--example", "--out", str(out)]) == 2
        assert (out / name).read_text() == "mine"


def test_below_a_folder_nothing_is_passed_over_in_silence(folder, film):
    shutil.copy(folder / "P1_L.png", folder / "IM0001")
    (folder / "gone.png").symlink_to(folder / "nowhere")
    read, left = films.files_of([folder, folder / "P1_L.png"])
    assert [p.name for p in read] == ["IM0001", "P1_L.png", "a film.png", "broken.png"]
    assert {Path(p).name for p in left} == {"notes.txt", "gone.png"}
    dicom(folder / "film.dcm", film.astype(int) * 16)
    (folder / "bare").write_bytes((folder / "film.dcm").read_bytes()[132:])  # as some stations do
    assert folder / "bare" in films.files_of(folder)[0]


def test_the_negative_of_a_film_gets_the_films_answer(tmp_path, film):
    for name, grey in dict(plain=film, negative=255 - film).items():
        Image.fromarray(grey).save(tmp_path / f"{name}.png")
    plain, negative = (read_file(tmp_path / f"{n}.png") for n in ("plain", "negative"))
    assert [r["p2"] for r in negative.rows] == pytest.approx([r["p2"] for r in plain.rows])
    assert all("dark" in r["notes"] for r in negative.rows)
    assert not any("dark" in r["notes"] for r in plain.rows)


@pytest.mark.parametrize("name", ["1536577c3a31", "5f2487519a50", "54f83d14d737", "68ed80e3d2d6"])
def test_a_film_whose_knee_is_not_found_is_not_taken_for_a_negative(name):
    path = REAL / "gp" / "films" / f"{name}.png"
    if not path.exists():
        pytest.skip("the films of the second cohort are not here")
    reading = read_file(path)
    assert not reading.spots and "no knee was found" in reading.rows[0]["notes"]


def test_a_knee_and_its_mirror_image_get_the_same_answer():
    knees, grader = example_knees().images, own_grader()
    mirrored = np.ascontiguousarray(knees[:, :, ::-1])
    assert np.allclose(grader.probability(knees), grader.probability(mirrored), atol=1e-5)


def test_a_cut_knee_is_read_as_the_library_reads_it(tmp_path):
    knees = example_knees()
    probability = own_grader().probability(knees.images)
    for file, p in zip(knees.file, probability):
        (row,) = read_file(manifests() / "rois" / file).rows
        assert row["p2"] == pytest.approx(p[1], abs=1e-5)


def test_a_dicom_tells_its_side_and_nothing_of_its_patient(tmp_path):
    knee = example_knees().images[0]
    tags = dict(PatientName="Doe^Jane", PatientID="4711", ImageLaterality="R")
    tags |= dict(Modality="DX", BodyPartExamined="KNEE")
    dicom(tmp_path / "one.dcm", knee, bits=8, **tags)
    table = predict(tmp_path / "one.dcm", tmp_path / "out")
    assert table.side.tolist() == ["R"] and table.grade.notna().all()
    for file in (tmp_path / "out").rglob("*"):
        assert not file.is_file() or (b"Doe" not in (b := file.read_bytes()) and b"4711" not in b)


def test_a_marker_back_to_front_is_told_and_tells_the_side(film):
    from PIL import ImageDraw, ImageFont

    sheet = Image.fromarray(film)
    font = ImageFont.load_default(60)
    ImageDraw.Draw(sheet).text((30, 30), "R", fill=255, font=font)
    marked = np.asarray(sheet)
    assert [s.side for s in spots_of(marked)[0]] == ["R", "L"]
    over = np.ascontiguousarray(marked[:, ::-1])
    spots = spots_of(over)[0]
    assert [s.side for s in spots] == ["L", "R"]
    assert all("back to front" in "; ".join(s.notes) for s in spots)
    assert not any("back to front" in n for s in spots_of(marked)[0] for n in s.notes)


def lettered(film, letter, at=(30, 30)):
    sheet = Image.fromarray(film)
    ImageDraw.Draw(sheet).text(at, letter, fill=255, font=ImageFont.load_default(60))
    return np.asarray(sheet)


@pytest.mark.parametrize("word", ["GENERAL", "MILLER", "ERECT"])
def test_words_in_a_film_tell_no_side(film, word):
    spots = spots_of(lettered(film, word))[0]
    assert [s.side for s in spots] == ["R", "L"] and not any(
        "letter" in str(s.notes) for s in spots
    )


def test_what_tells_another_side_is_told(film, tmp_path):
    spots = spots_of(lettered(film, "L"))[0]  # at the knee at the left of the picture
    assert [s.side for s in spots] == ["L", "R"]
    assert all("by a letter" in "; ".join(s.notes) for s in spots)
    assert all("two knees" in "; ".join(s.notes) for s in spots_of(film, "L")[0])
    half = np.ascontiguousarray(lettered(film, "R")[:, : film.shape[1] // 2])
    (one,) = spots_of(half, "L")[0]
    assert one.side == "L" and any("letter" in n for n in one.notes)
    dicom(tmp_path / "pat_L.dcm", example_knees().images[0], bits=8, ImageLaterality="R")
    (row,) = read_file(tmp_path / "pat_L.dcm").rows
    assert row["side"] == "R" and "in its name" in row["notes"]


def test_what_is_no_whole_knee_is_doubtful_however_sure_the_networks_are(film, tmp_path):
    (spot, *_), _ = spots_of(film)
    small = Image.fromarray(film)
    small.thumbnail([n * 60 / spot.edge for n in small.size])
    small.save(tmp_path / "small.png")
    rows = read_file(tmp_path / "small.png").rows
    assert rows and all(r["edge"] < 80 and r["doubtful"] is True for r in rows)
    rough = Image.fromarray(example_knees().images[0]).convert("1")
    rough.save(tmp_path / "rough.png")
    assert all(r.get("doubtful", True) for r in read_file(tmp_path / "rough.png").rows)


def test_an_answer_keeps_to_its_own(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    predict([folder / "a film.png", folder / "P1_L.png"], "~/answer")
    assert (tmp_path / "answer" / "index.html").is_file() and not Path("~").exists()
    predict(folder / "P1_L.png", "~/answer")  # an answer of fewer films
    assert [p.name for p in (tmp_path / "answer" / "pictures").iterdir()] == ["0000.png"]
    table = pd.read_csv(tmp_path / "answer" / "predictions.csv").assign(mine=2)
    table.to_csv(tmp_path / "answer" / "predictions.csv", index=False)
    other = tmp_path / "other" / "pictures" / "0000.png"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"mine")
    for out in (tmp_path / "answer", tmp_path / "other", folder / "inside"):
        with pytest.raises(ValueError, match="choose another"):
            predict([folder], out)
    assert other.read_bytes() == b"mine"
    assert "mine" in pd.read_csv(tmp_path / "answer" / "predictions.csv")


def test_another_name_of_a_film_is_counted(folder):
    (folder / "P1_R.png").symlink_to(folder / "P1_L.png")
    table = predict(folder)
    assert len(table) == 4 and len(table.attrs["left"]["another name of a file that is read"]) == 1


def test_a_square_over_the_edge_is_told(film):
    (spot, *_), _ = spots_of(film)
    cut_off = film[int(spot.y + 0.3 * spot.edge) :]
    found = spots_of(np.ascontiguousarray(cut_off))[0]
    assert found and any("beyond the film" in n for s in found for n in s.notes)


def test_pixels_that_are_not_square_are_made_so(film, tmp_path):
    squeezed = np.asarray(Image.fromarray(film).resize((film.shape[1] // 2, film.shape[0])))
    dicom(tmp_path / "squeezed.dcm", squeezed, bits=8, Modality="DX", PixelSpacing=[0.2, 0.4])
    Image.fromarray(film).save(tmp_path / "film.png")
    one, other = (predict(tmp_path / name) for name in ("film.png", "squeezed.dcm"))
    assert one.side.tolist() == other.side.tolist() == ["R", "L"]
    np.testing.assert_allclose(one[["x", "y", "edge"]], other[["x", "y", "edge"]], atol=25)
    np.testing.assert_allclose(one.p2, other.p2, atol=0.2)
    assert other.notes.str.contains("0.4 x 0.2 mm").all()
    found = find_knees(tmp_path / "squeezed.dcm")  # as the library finds them
    np.testing.assert_allclose([k.x for k in found], other.x, atol=5)


@pytest.mark.parametrize("size", [(32, 32), (900, 127)])
def test_a_picture_too_small_for_a_knee_gets_no_grade(film, tmp_path, size):
    Image.fromarray(film).resize(size).save(tmp_path / "small.png")
    (row,) = predict(tmp_path / "small.png").itertuples()
    assert pd.isna(row.grade) and f"{size[0]} x {size[1]}" in row.notes


def test_a_long_note_pads_no_other_row(folder):
    table = predict(folder)
    long = table.assign(notes=[*table.notes[:-1], "x" * 300])
    lines = films.as_text(long).splitlines()
    assert sum(len(line) > 250 for line in lines[: 2 * len(table)]) == 1


def test_no_knee_is_an_answer_too(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (300, 500), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    table = predict([tmp_path / "noise.png"], tmp_path / "out")
    assert len(table) == 1 and pd.isna(table.grade[0]) and "no knee" in table.notes[0]
    assert (tmp_path / "out/pictures/0000.png").is_file()


def test_a_name_that_is_no_text_loses_nothing(tmp_path):
    name = os.fsencode(tmp_path) + b"/p\xff1L.png"
    Image.fromarray(np.zeros((300, 500), np.uint8)).save(tmp_path / "plain.png")
    os.rename(tmp_path / "plain.png", name)
    table = predict(os.fsdecode(name), tmp_path / "out")
    assert table.file[0].isascii() and table.file[0].endswith("1L.png")
    assert len(pd.read_csv(tmp_path / "out/predictions.csv")) == 1


def test_bad_questions_are_one_sentence(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        predict(tmp_path / "nowhere.png")
    for nothing in (tmp_path, "", [tmp_path, ""]):
        with pytest.raises(FileNotFoundError):
            predict(nothing)
    assert main(["predict", str(tmp_path), "--out", str(tmp_path / "inside")]) == 2
    assert main(["predict", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    assert all(l.startswith("koa predict: ") for l in capsys.readouterr().err.splitlines())
    with pytest.raises(ValueError, match="uint8"):
        own_grader().probability(np.zeros((1, 300, 300)))
    with pytest.raises(FileNotFoundError, match="card.json"):
        load_grader(tmp_path)


def test_the_example_needs_nothing(tmp_path):
    assert main(["predict", "--example", "--out", str(tmp_path)]) == 0
    assert len(pd.read_csv(tmp_path / "predictions.csv")) == 2
    draw_example(tmp_path / "again.png")
    first, again = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("example", "again"))
    assert np.array_equal(first, again)


def test_a_real_film_of_both_knees():
    if not (film := REAL / "films" / "mrkr_bilateral_512.png").exists():
        pytest.skip("no real film here")
    reading = read_file(film)
    centres = [(r["x"] + r["edge"] / 2, r["y"] + r["edge"] / 2) for r in reading.rows]
    assert np.allclose(centres, [(195, 305), (403, 305)], atol=20)
    assert all("back to front" in r["notes"] for r in reading.rows)


# what is shipped


def test_the_shipped_weights_are_those_of_the_card():
    card = json.loads((SHIPPED / "card.json").read_text())
    files = sorted(SHIPPED.glob("seed*.safetensors"))
    assert [f.name for f in files] == sorted(card["sha256"]) and len(files) == len(card["seeds"])
    for file in files:
        assert sha256(file.read_bytes()).hexdigest() == card["sha256"][file.name]
        assert file.stat().st_size < 6e6
    assert card["runs"] == [candidate_spec(chosen(), s).id for s in card["seeds"]]
    assert (SHIPPED / "README.md").read_text() == card_page(card)


def test_a_release_without_runs_removes_nothing(tmp_path):
    shutil.copytree(SHIPPED, tmp_path / "grader")
    before = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "grader").iterdir()}
    other = next(name for name in CANDIDATES if name != chosen())
    with pytest.raises(ValueError, match="--store"):
        release([], None, tmp_path / "grader", other)
    assert {f.name: f.stat().st_mtime_ns for f in (tmp_path / "grader").iterdir()} == before


def test_temperature_and_threshold_are_those_of_the_kept_validation_knees():
    p, doubt = own_answers("val"), own_grader().card["doubt"]
    confidence, right = p.probability[0].max(1), p.right[0]
    threshold, above, share = doubt_threshold(confidence, right)
    assert threshold == pytest.approx(doubt["threshold"], abs=1e-6)
    assert above >= 0.95 and share == pytest.approx(doubt["share"])


def _again(images, rows):
    for seed, p in zip(own_grader().card["seeds"], own_grader().each(np.stack(images))):
        assert np.allclose(p[:, 1], rows[f"p2_{seed}"], atol=1e-4)


@pytest.fixture(scope="module")
def kept():
    return pd.read_parquet(SHIPPED / "answers.parquet")


def test_the_shipped_weights_give_their_kept_predictions(kept):
    knees = example_knees().only(0, 2)
    _again(knees.images, kept.set_index("file").loc[knees.file])


def test_the_shipped_weights_give_their_kept_predictions_of_real_knees(kept):
    if real_knees() is None:
        pytest.skip("the public knees are not here")
    some = kept[::32]
    _again([as_knee(decode(file_bytes(real_knees() / f))[0]).roi for f in some.file], some)


def test_the_shipped_weights_give_what_is_kept_of_other_grades():
    if real_knees() is None:
        pytest.skip("the public knees are not here")
    kept = pd.read_csv(manifests() / "other_grades.csv")[::40]
    dark = published_knees().set_index("file").inverted[kept.file]
    read = lambda file: decode(file_bytes(real_knees() / file))[0]
    knees = [region_of_interest(read(f), d) for f, d in dark.items()]
    p = own_grader().probability(np.stack(knees))
    assert set(kept.kl) == {1, 3, 4} and np.allclose(p[:, 1], kept.p2, atol=1e-3)


def test_the_shipped_weights_give_what_is_kept_of_automatic_cuts():
    if real_knees() is None or not (folder := real_knees().parent / "auto_test").is_dir():
        pytest.skip("the automatic cuts are not here")
    kept = pd.read_csv(manifests() / "automatic_cuts.csv").dropna(subset="p2")[::60]
    cuts = [as_knee(decode(file_bytes(folder / f))[0]).roi for f in kept.automatic]
    assert np.allclose(own_grader().probability(np.stack(cuts))[:, 1], kept.p2, atol=1e-3)
