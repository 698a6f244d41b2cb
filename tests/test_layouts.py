"""Folders of knees in any layout: what is taken, what is left out, what is a fault."""

import os
import shutil
import stat
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import dicom
from PIL import Image

from koa_repro.data import load_knees, scan
from koa_repro.duplicates import COPY, copies, texture
from koa_repro.knee_files import KneeFilesError
from koa_repro.layouts import (
    ABOUT,
    AUTOMATIC,
    LABELS,
    LINKED,
    LITTER,
    NO_PICTURE,
    WORKBOOK,
    by_name,
    file_meant,
    look,
    person,
    person_and_side,
    walk,
)
from koa_repro.patches import ROI
from koa_repro.phantom import make_knees
from koa_repro.privacy import code, coded, published

KNEES = make_knees(24, seed=1).images
NAMES = [f"{s}/{g}/{i}{'LR'[i % 2]}.png" for i, (s, g) in enumerate(
    (s, g) for s in ("train", "val", "test") for g in (0, 2)
)]  # fmt: skip


def tree(root, names=NAMES, edge=224):
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(KNEES[i % 24]).resize((edge, edge)).save(root / name)
    return root


def load(root, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_knees(root, **{"manifest": None, "names": True, **options})


def refused(root, **options) -> KneeFilesError:
    with pytest.raises(KneeFilesError) as e:
        load(root, **options)
    return e.value


def knees_of(knees):
    return sorted(zip(knees.participant, knees.side, knees.kl, knees.split))


@pytest.fixture
def plain(tmp_path):
    return tree(tmp_path / "knees")


# --- layouts


def test_the_fourth_folder_is_left_out_and_told(plain):
    before = load(plain)
    extra = [f"auto_test/{g}/9_{i}.png" for g in (0, 2) for i in (1, 2)]
    tree(plain, extra)
    with pytest.warns(UserWarning, match="4 files left out"):
        after = load_knees(plain, manifest=None, names=True)
    assert after.fingerprint == before.fingerprint
    found = look(plain)
    auto = found.frame[found.frame.split == "auto_test"]
    assert sorted(zip(auto.participant, auto.side)) == [("9", "L")] * 2 + [("9", "R")] * 2
    (plain / "auto_test/0/odd name.png").write_bytes(b"x")
    assert load(plain).fingerprint == before.fingerprint


def test_automatic_cuts_alone_are_test_knees(tmp_path):
    knees = load(tree(tmp_path / "auto_test", [f"{g}/{p}_{i}.png" for g, p, i in (
        (0, "9", 1), (2, "9", 2), (0, "8", 2))]))  # fmt: skip
    assert knees_of(knees) == [("8", "L", 0, "test"), ("9", "L", 2, "test"), ("9", "R", 0, "test")]


@pytest.mark.parametrize(
    "rename",
    [
        lambda n: n.replace("/0/", "/0Normal/").replace("/2/", "/2Mild/"),
        lambda n: n.replace("/0/", "/KL0/").replace("/2/", "/Grade 2/"),
        lambda n: n.replace("val/", "valid/").replace("train/", "Training/"),
        lambda n: n.replace("L.png", "_left.png").replace("R.png", "_RIGHT.png"),
        lambda n: n.replace("L.png", " L.PNG"),
        lambda n: f"one/two/{n}",
    ],
    ids=["words", "numbers", "splits", "sides", "spaces", "too high"],
)
def test_the_same_knees_in_other_words(plain, tmp_path, rename):
    other = tree(tmp_path / "other", [rename(n) for n in NAMES])
    assert knees_of(load(other)) == knees_of(load(plain))


def test_litter_around_a_set_that_begins_further_in(plain, tmp_path):
    outer = tree(tmp_path / "outer", [f"KneeXrayData/{n}" for n in NAMES])
    for name in ("__MACOSX/train/0/._1L.png", ".DS_Store", "KneeXrayData/Thumbs.db"):
        (outer / name).parent.mkdir(parents=True, exist_ok=True)
        (outer / name).write_bytes(b"x")
    knees = load(outer)
    assert knees_of(knees) == knees_of(load(plain)) and knees.file.tolist() == sorted(NAMES)
    left = look(outer).left  # a folder that is litter is one entry
    assert list(left.values()) == [LITTER] * 3 and knees.name == "KneeXrayData"


def test_one_level_too_low(plain):
    whole = load(plain)
    part = load(plain / "train")
    assert knees_of(part) == knees_of(whole.where(split="train"))
    assert part.file.tolist() == whole.where(split="train").file.tolist()
    grade = load(plain / "train" / "2", grades=(2,))
    assert grade.file.tolist() == whole.where(split="train", kl=2).file.tolist()
    table = whole.frame()[["file", "participant", "side", "kl", "split", "sha256"]]
    assert len(load(plain / "train", manifest=table)) == len(part)  # its rows of the manifest
    inner = tree(plain.parent / "test")  # a set that happens to be called test
    assert knees_of(load(inner)) == knees_of(whole)


def test_two_editions_are_two_sets(tmp_path):
    for edge in (224, 299):
        tree(tmp_path / "both" / f"knees{edge}", edge=edge)
    with pytest.raises(FileNotFoundError, match="2 sets"):
        load(tmp_path / "both")
    assert look(tmp_path / "both").sets == ["knees224", "knees299"]
    assert len(load(tmp_path / "both" / "knees299")) == 6


FLAT = ["1R.png", "1L.png", "2R.png", "2L.png"]


def labels(**changes):
    table = dict(file=FLAT, participant=list("1122"), side=list("RLRL"), kl=[0, 2, 0, 2])
    return pd.DataFrame(table | changes)


def test_a_flat_folder_with_a_table(tmp_path):
    root = tree(tmp_path / "flat", FLAT)
    given = load(root, manifest=labels(sha256=""), split="participant")
    labels().to_csv(root / "labels.csv", index=False)
    lain = load(root, split="participant")
    assert [k[:3] for k in knees_of(given)] == [k[:3] for k in knees_of(lain)]
    expected = [(who, side, kl) for who in "12" for side, kl in (("L", 2), ("R", 0))]
    assert [k[:3] for k in knees_of(lain)] == expected
    assert look(root).left == {"labels.csv": LABELS}
    with pytest.raises(ValueError, match="participant"):
        load(root)  # not divided
    other = labels(side=["1: Right", "2", "right", "LEFT"]).rename(
        columns=dict(file="Image", participant="Patient_ID", kl="KL_Grade")
    )
    other.assign(split=["train", "train", "test", "test"]).to_csv(
        root / "labels.csv", index=False, sep=";"
    )
    assert knees_of(load(root))[0] == ("1", "L", 2, "train")
    shutil.copy(root / "labels.csv", root / "more.csv")
    with pytest.raises(ValueError, match="2 tables"):
        load(root)
    (root / "more.csv").unlink()
    labels(split=["train", "train", "test", "later"]).to_csv(root / "labels.csv", index=False)
    assert refused(root).unlabelled == ["2L.png"]


def test_the_table_keeps_zeros_and_its_rows_are_judged(tmp_path):
    root = tree(tmp_path / "flat", [*FLAT, "3R.png", "4R.png"])
    table = labels(participant=["007"] * 4, kl=[0, 2, "0.5", 2], side=["R", "L", "R", "?"])
    table.loc[4] = dict(file="gone.png", participant="9", side="L", kl=0)
    table.loc[5] = dict(file="3R.png", participant="3", side="R", kl=0)
    table.loc[6] = dict(file="3R.png", participant="3", side="R", kl=2)
    table.to_csv(root / "labels.csv", index=False)
    found = look(root)
    assert set(found.frame.participant[:2]) == {"007"}
    assert sorted(found.faults["unlabelled"]) == ["2L.png", "2R.png", "3R.png", "4R.png"]
    assert found.faults["missing"] == ["gone.png"] and len(set(found.reasons.values())) == 4
    e = refused(root, split="participant")
    assert e.missing == ["gone.png"] and e.unlabelled == ["2L.png", "2R.png", "3R.png", "4R.png"]
    assert set(found.reasons) == set(e.unlabelled) and all(w in str(e) for w in e.reasons.values())
    labels(kl="none").to_csv(root / "labels.csv", index=False)
    assert refused(root).unlabelled == sorted([*FLAT, "3R.png", "4R.png"])


def test_hashes_of_a_table_are_compared(tmp_path):
    root = tree(tmp_path / "flat", FLAT)
    table = labels(sha256=["", "0" * 64, "", ""])
    assert refused(root, manifest=table, split="participant").changed == ["1L.png"]


def test_dicom_without_suffix_and_side_from_the_tag(tmp_path):
    root = tree(tmp_path / "knees", NAMES[:5])
    (root / "test/2").mkdir()
    dicom(root / "test/2/IM0001", KNEES[7], bits=8, ImageLaterality="R")
    knees = load(root)
    assert ("IM0001", "R", 2, "test") in knees_of(knees)
    dicom(root / "test/2/IM0002", KNEES[8], bits=8)
    assert refused(root).misnamed == ["test/2/IM0002"]


# --- strangers, and what cannot be listed


@pytest.mark.parametrize(
    "name, why",
    [
        ("Desktop.ini", LITTER),
        ("train/2/THUMBS.DB", LITTER),
        ("train/0/@eaDir/1L.png", LITTER),
        ("train/0/~$list.docx", LITTER),
        ("README.txt", ABOUT),
        ("labels.csv", NO_PICTURE),
        ("train/1/notes.txt", NO_PICTURE),
        ("train/0/7L", NO_PICTURE),
    ],
)
def test_strangers_are_left_out_and_told(plain, name, why):
    before = load(plain).fingerprint
    (plain / name).parent.mkdir(parents=True, exist_ok=True)
    (plain / name).write_bytes(b"x")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert load_knees(plain, manifest=None, names=True).fingerprint == before
    assert set(look(plain).left.values()) == {why}
    assert bool([w for w in told if "left out" in str(w.message)]) == (why == NO_PICTURE)
    assert not any(name in str(w.message) for w in told)  # a name may be a patient's


def test_an_empty_grade_folder_is_told(plain):
    shutil.rmtree(plain / "val/2")
    (plain / "val/2").mkdir()
    with pytest.warns(UserWarning, match="val holds no picture of KL-2"):
        assert len(load_knees(plain, manifest=None)) == 5


def test_links_in_circles_end(plain):
    for place, target in (("train/again", ".."), ("val/again", ".."), ("val/0/x", "../../..")):
        os.symlink(target, plain / place)
    frame, faults = scan(plain)
    assert len(frame) == 6 and not any(faults.values())
    left = look(plain).left
    assert left == dict.fromkeys(("train/again", "val/again", "val/0/x"), LINKED)
    other = plain.parent / "linked"
    other.mkdir()
    os.symlink(plain / "train", other / "train")  # a link is a way in like another
    assert len(scan(other)[0]) == 2
    for split in ("val", "test"):
        os.symlink(plain / split, other / split)
    assert len(scan(other)[0]) == 6
    os.symlink(plain, other / "whole")  # every folder in it is listed already
    assert look(other).left == {
        **{link: LINKED for link in ("train/again", "val/again", "val/0/x")},
        **{f"whole/{split}": LINKED for split in ("train", "val", "test")},
    }


def test_what_is_no_regular_file_is_told_without_opening(plain):
    os.mkfifo(plain / "train/0/9L.png")
    os.symlink("nowhere", plain / "train/0/8L.png")
    assert stat.S_ISFIFO(os.stat(plain / "train/0/9L.png").st_mode)
    assert refused(plain).irregular == ["train/0/8L.png", "train/0/9L.png"]


def test_a_folder_that_cannot_be_listed_is_told(plain, monkeypatch):
    real = os.scandir

    def closed(path):
        if os.fspath(path).endswith(os.path.join("val", "2")):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert walk(plain)[2]["unlisted"] == ["val/2"]
    assert refused(plain).unlisted == ["val/2"]


# --- leaks


@pytest.mark.parametrize("other", ["0R", "00R", "0_R", "0 R", " 0R", "0-R"])
def test_a_participant_written_otherwise_is_the_same(tmp_path, other):
    root = tree(tmp_path / "knees", [*NAMES, f"test/0/{other}.png"])
    assert refused(root).divided == sorted([NAMES[0], f"test/0/{other}.png"])


def test_one_participant_one_spelling(tmp_path):
    names = ["train/0/01L.png", "train/2/1R.png", "val/0/2L.png", "val/2/3L.png"]
    knees = load(tree(tmp_path / "knees", names))
    assert sorted(knees.participant) == ["1", "1", "2", "3"]
    assert person("P-007 ") == person("p7") != person("p70")
    assert person_and_side("L") is None and person_and_side("007R") == ("007", "R")
    assert person_and_side("3f2a51c09b7eL") == ("3f2a51c09b7e", "L")  # a code


def test_the_last_letter_of_a_word_is_no_side():
    for word in ("MILLER", "SCANNER", "FINAL"):
        assert person_and_side(word) is None and person_and_side(f"{word} R") == (word, "R")


def test_a_row_of_another_folder_labels_no_file_of_that_name(tmp_path):
    root = tree(tmp_path / "flat", [f"a/{f}" for f in FLAT])
    for folder, right in (("a", True), ("/data/set/a", True), ("b", False), ("", True)):
        table = labels(file=[f"{folder}/{f}".lstrip("/" * (not folder)) for f in FLAT])
        found = look(root, table)
        assert (found.faults["missing"] == []) is right, folder
        assert (found.frame.kl >= 0).all() is np.bool_(right)


@pytest.mark.parametrize(
    "name, file",
    [
        ("a/x/1R.png", "a/x/1R.png"),
        ("./a/x/1R.png ", "a/x/1R.png"),
        ("D:\\set\\a\\x\\1R.png", "a/x/1R.png"),
        ("x/1R.png", "a/x/1R.png"),
        ("1R.png", "a/x/1R.png"),
        ("1R", "a/x/1R.png"),
        ("x/1R", "a/x/1R.png"),
        ("y/1R.png", None),
        ("/x/1R.png", None),
        ("1R.jpg", None),
        ("2L", None),  # two are called so
        ("b/2L", "b/2L.png"),
        ("D:/set/b/2L.png", "b/2L.png"),
        ("D:/set/c/2L.png", None),
        ("scan.1", "scan.1"),
        ("scan.1.dcm", "scan.1"),
        ("scan", "scan.1"),
        ("nan", None),
        ("", None),
        (".", None),
    ],
)
def test_the_file_that_a_name_means(name, file):
    assert file_meant(name, by_name(["a/x/1R.png", "a/2L.png", "b/2L.png", "scan.1"])) == file


@pytest.mark.parametrize("how", ["utf-16", "cp1252", "trailing"])
def test_tables_as_spreadsheets_save_them(tmp_path, how):
    root = tree(tmp_path / "flat", FLAT)
    text = labels(participant=["Jürg", "Jürg", "2", "2"]).to_csv(index=False)
    if how == "trailing":
        head, *rows = text.splitlines()
        text, how = "\n".join([head, *(f"{row}," for row in rows)]), "utf-8"
    (root / "labels.csv").write_bytes(text.encode(how))
    found = look(root)
    assert found.left == {"labels.csv": LABELS} and set(found.frame.participant) == {"Jürg", "2"}


def test_a_table_without_its_columns_is_told(tmp_path):
    root = tree(tmp_path / "flat", FLAT)
    labels()[["file", "kl"]].to_csv(root / "labels.csv", index=False)
    (reason,) = look(root).left.values()
    assert all(name in reason for name in ("participant", "side"))
    assert not any(name in reason for name in ("file", "kl"))
    labels().to_csv(root / "labels.csv", index=False)
    (root / "labels.csv").open("a").write("3L.png,3,L,2,2,2\n")
    (reason,) = look(root).left.values()
    assert "line 6" in reason
    (root / "labels.csv").rename(root / "labels.xlsx")
    assert look(root).left == {"labels.xlsx": WORKBOOK}


@pytest.mark.parametrize("kl", ["KL2", "II", "2,0", "2.0", "grade 2", "ii"])
def test_grades_as_people_write_them(tmp_path, kl):
    root = tree(tmp_path / "flat", FLAT)
    table = labels(kl=[kl] * 4).rename(columns=dict(participant="Patient ID", kl="KL grade"))
    table["file"] = [Path(f).stem for f in table.file]  # as some write names
    table.assign(fold=range(4)).to_csv(root / "labels.csv", index=False)
    found = look(root)
    assert found.frame.kl.tolist() == [2] * 4 and not any(found.faults.values())
    assert not found.notes


def test_a_number_for_a_side_is_told(tmp_path):
    root = tree(tmp_path / "flat", FLAT)
    right = labels().side.map(dict(R="1", L="2"))
    labels(side=right).to_csv(root / "labels.csv", index=False)
    found = look(root)
    assert found.frame.side.tolist() == labels().sort_values("file").side.tolist()
    assert any("1 and 2" in note for note in found.notes)


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("P-007", "p7", True),
        ("9_001", "9-1", True),
        ("1-12", "11-2", False),
        ("1-12", "112", False),
        ("A 12", "a12", True),
    ],
)
def test_who_is_one_person(one, other, same):
    assert (person(one) == person(other)) == same


def test_a_table_may_be_given(tmp_path):
    "Beside a folder that nobody may write to: by its place or as it is, under usual other names."
    root = tree(tmp_path / "flat", FLAT)
    table = labels().rename(columns=dict(participant="patient", file="image"))
    table.to_csv(tmp_path / "mine.csv", index=False)
    for given in (tmp_path / "mine.csv", str(tmp_path / "mine.csv"), table):
        assert len(load(root, manifest=given, split="participant")) == len(FLAT)


CHANGES = {
    "other size": lambda p: p.resize((299, 299)),
    "encoded anew": lambda p: p,
    "mirrored": lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "negative": lambda p: p.point(lambda v: 255 - v),
    "brighter": lambda p: p.point(lambda v: 255 * (v / 255) ** 0.7),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_training_knee_again_in_test(plain, change):
    picture = CHANGES[change](Image.open(plain / NAMES[0]))
    picture.save(plain / "test/0/999L.png", compress_level=1)
    e = refused(plain)
    assert e.copied == ["test/0/999L.png", NAMES[0]] and not e.alike


def test_files_without_a_side_are_compared_all_the_same(tmp_path):
    places = [(s, g) for s in ("train", "test") for g in ("0Normal", "2Mild")]
    names = [f"{s}/{g}/{g[1:]}G{g[0]} ({i}).png" for s, g in places for i in (1, 2)]
    root = tree(tmp_path / "g", names)
    for file in (root / "train").rglob("*.png"):
        shutil.copy(file, root / "test" / file.relative_to(root / "train"))
    e = refused(root)
    assert len(e.alike) == len(e.misnamed) == 8 and not e.divided  # whose they are is not known


def test_a_manifest_with_hashes_vouches_for_copies(plain):
    shutil.copy(plain / NAMES[0], plain / "test/0/998L.png")
    Image.open(plain / NAMES[2]).save(plain / "val/2/999L.png", compress_level=1)
    assert refused(plain).alike and refused(plain).copied
    (plain / "test/0/998L.png").unlink()
    (plain / "val/2/999L.png").unlink()
    frame = load(plain).frame()
    Image.open(plain / NAMES[2]).save(plain / "val/2/999L.png", compress_level=1)
    assert refused(plain, manifest=frame).copied  # not vouched for: it is not listed


def test_copies_by_value():
    seen = texture(KNEES)
    assert seen.shape == (24, 50, 50) and np.allclose((seen**2).sum((1, 2)), 1, atol=1e-4)
    assert copies(seen).empty
    again = texture(np.concatenate([KNEES[:3], KNEES[1:2, :, ::-1]]))
    pairs = copies(again)
    assert pairs[["first", "second", "mirrored"]].values.tolist() == [[1, 3, True]]
    assert pairs.correlation[0] > 0.999 > COPY
    flat = np.full((2, ROI, ROI), 90, np.uint8)
    assert copies(texture(flat)).empty and copies(texture(KNEES[:0])).empty


# --- names


def test_names_are_coded_but_for_the_published(plain, tmp_path):
    plain_names, hidden = load(plain), load_knees(plain, manifest=None)
    assert hidden.participant.tolist() == [code(p) for p in plain_names.participant]
    assert (hidden.images == plain_names.images).all() and hidden.name == "private"
    assert load_knees(plain, manifest=None).fingerprint == hidden.fingerprint
    assert not set(hidden.file) & set(plain_names.file)
    with pytest.raises(KneeFilesError) as e:
        shutil.copy(plain / NAMES[0], plain / "test/0/SmithL.png")
        load_knees(plain, manifest=None)
    safe = e.value.coded()
    assert "Smith" in str(e.value) and "Smith" not in str(safe) and len(safe.alike) == 2
    assert code("test/0/SmithL.png", "file") in safe.alike
    frame = plain_names.frame()
    assert not any(published(frame)) and coded(frame)[1] == hidden.participant.tolist()


def test_the_key_stays_outside_the_repository(tmp_path, monkeypatch):
    from koa_repro.paths import repository

    monkeypatch.setenv("KOA_KEY", str(tmp_path / "deep" / "key"))
    first = code("a")
    file = tmp_path / "deep" / "key"
    assert file.stat().st_mode & 0o777 == 0o600 and len(file.read_bytes()) == 32
    assert code("a") == first != code("b") and code("a", "file") != first
    monkeypatch.setenv("KOA_KEY", str(tmp_path / "other"))
    assert code("a") != first
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KOA_KEY", str(tmp_path / "file" / "key"))  # cannot be written
    with pytest.warns(UserWarning, match="KOA_KEY"):
        lost = code("a")
    assert code("a") == lost  # as long as the program lives

    def nobody():
        raise RuntimeError

    monkeypatch.delenv("KOA_KEY")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    with pytest.warns(UserWarning, match="KOA_KEY"):
        code("a")
    monkeypatch.setattr(os, "link", lambda *_: os.stat(tmp_path / "no links here"))
    monkeypatch.setenv("KOA_KEY", str(tmp_path / "unlinked"))
    assert code("a") == code("a") and [p.name for p in tmp_path.glob("*unlinked*")] == ["unlinked"]
    monkeypatch.setenv("KOA_KEY", str(repository() / "build" / "key"))
    with pytest.raises(ValueError, match="repository"):
        code("a")
    (tmp_path / "short").write_bytes(b"abc")
    monkeypatch.setenv("KOA_KEY", str(tmp_path / "short"))
    with pytest.raises(ValueError, match="16 bytes"):
        code("a")


def test_a_knee_of_the_published_set_keeps_its_name(tmp_path):
    from koa_repro.paths import manifests

    part = tmp_path / "part"
    shutil.copytree(manifests() / "rois", part)
    for file in part.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    known = load_knees(part, manifest=None)
    assert "9003175" in known.participant and len(known) == 8
    Image.fromarray(KNEES[0]).save(part / "test/0/SmithL.png")
    assert "9003175" not in load_knees(part, manifest=None).participant  # one stranger hides all
    assert AUTOMATIC not in look(part).left.values()
