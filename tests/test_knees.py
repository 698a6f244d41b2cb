"""Knees: what a broken folder says, and what must hold for every set. Pictures are made here."""

import shutil
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import dicom, picture
from PIL import Image

from koa_repro.data import EXAMPLES, assign_splits, example_knees, load_knees
from koa_repro.data_sets import DATA_SETS, DataSet, data_set
from koa_repro.knee_files import (
    SPLITS,
    KneeFilesError,
    KneeSet,
    fingerprint,
    quality,
    real_knees,
    scan,
)
from koa_repro.patches import COLUMNS, PATCH, ROI, ROWS, DeviceKnees, cut_patches
from koa_repro.paths import digest, manifests
from koa_repro.phantom import make_knees
from koa_repro.privacy import published_knees
from koa_repro.radiographs import UnreadableRadiograph, polarity, read_radiograph
from koa_repro.splits import SPLIT_RATIO

NAMES = [
    f"{split}/{grade}/p{i}{side}.png"
    for i, split in enumerate(SPLITS)
    for grade, side in ((0, "L"), (2, "R"))
]


@pytest.fixture
def folder(tmp_path):
    "Six synthetic knees in the published layout."
    for i, name in enumerate(NAMES):
        (tmp_path / "knees" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(i)).save(tmp_path / "knees" / name)
    return tmp_path / "knees"


def manifest_of(folder):
    knees = load_knees(folder, manifest=None, names=True)
    return knees.frame()[["file", "participant", "side", "kl", "split", "sha256"]]


def faults(folder, **options):
    with pytest.raises(KneeFilesError) as e:
        load_knees(folder, **{"manifest": None, **options})
    return e.value


# --- one radiograph


@pytest.mark.parametrize(
    "tag, value",
    [("NumberOfFrames", b"abcd"), ("RescaleSlope", b"abcd"), ("RescaleSlope", b"1\\-1 ")],
)
def test_a_tag_that_cannot_be_read_is_one_files_fault(folder, tag, value):
    dicom(folder / "train/0/x1L.dcm", picture(), bits=8, **{tag: 1})
    data = (folder / "train/0/x1L.dcm").read_bytes()
    at = data.index(
        pydicom.datadict.tag_for_keyword(tag).to_bytes(4, "little")[2:]
        + pydicom.datadict.tag_for_keyword(tag).to_bytes(4, "little")[:2]
    )
    length = int.from_bytes(data[at + 6 : at + 8], "little")
    (folder / "train/0/x1L.dcm").write_bytes(
        data[: at + 6] + len(value).to_bytes(2, "little") + value + data[at + 8 + length :]
    )
    e = faults(folder)
    assert e.unreadable == ["train/0/x1L.dcm"] and "tag that cannot be read" in str(e)


def test_a_name_that_is_no_text_is_named(folder):
    odd = bytes(folder) + b"/train/0/p\xff1L.png"
    with open(odd, "wb") as file:
        file.write((folder / NAMES[0]).read_bytes())
    assert faults(folder).misnamed == ["train/0/p\\udcff1L.png"]


def test_whole_radiograph_is_believed(tmp_path):
    wide = np.hstack([picture(0), picture(1)])
    Image.fromarray(255 - wide).save(tmp_path / "wide.png")
    with pytest.raises(UnreadableRadiograph, match="far from square"):
        read_radiograph(tmp_path / "wide.png")
    read = read_radiograph(tmp_path / "wide.png", roi=False)
    assert read.image.shape == wide.shape and not read.inverted
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        read_radiograph(tmp_path / "nowhere.png")


# --- a folder of knees


def test_reads_the_layout(folder):
    Image.fromarray(255 - picture(9, 299)).save(
        folder / "train/0/p9L.png"
    )  # inverted, and of another size
    (folder / "train/0/.DS_Store").write_text("x")
    (folder / "train/Thumbs.db").write_text("x")
    dicom(folder / "test/2/p8L.dcm", np.round(picture(8) / 255 * 4095), ImageLaterality="L")
    knees = load_knees(folder, manifest=None, names=True)
    assert (
        len(knees) == 8
        and knees.images.dtype == np.uint8
        and knees.images.shape[1:] == (ROI, ROI)
        and knees.name == "knees"
    )
    assert knees.file.tolist() == sorted(knees.file) and knees.file[knees.inverted].tolist() == [
        "train/0/p9L.png"
    ]
    assert (polarity(knees.images) > 0.9).all() and knees.label.tolist() == [
        int(k == 2) for k in knees.kl
    ]
    assert knees.summary().loc["train"].to_dict() == {0: 2, 2: 1}
    assert all(file.startswith(split) for file, split in zip(knees.file, knees.split))


def test_only_asked_grades_are_opened(folder):
    (folder / "train/1").mkdir()
    (folder / "train/1/p7L.png").write_text("never opened")
    assert len(load_knees(folder, manifest=None)) == 6
    assert faults(folder, grades=(0, 1, 2)).unreadable == ["train/1/p7L.png"]


def test_manifest_faults_all_at_once(folder):
    table = manifest_of(folder)
    assert len(load_knees(folder, manifest=table)) == 6
    table.to_csv(folder.parent / "list.csv", index=False)
    listed = load_knees(folder, manifest=folder.parent / "list.csv", names=True)
    assert listed.fingerprint == fingerprint(table)
    (folder / NAMES[0]).unlink()
    Image.fromarray(picture(77)).save(folder / NAMES[1])
    Image.fromarray(picture(78)).save(folder / "train/0/newL.png")
    (folder / NAMES[3]).write_bytes((folder / NAMES[3]).read_bytes()[:500])
    table.loc[table.file == NAMES[4], "participant"] = "other"
    e = faults(folder, manifest=table)
    assert (e.missing, e.unknown, e.changed) == (
        [NAMES[0]],
        ["train/0/newL.png"],
        sorted([NAMES[1], NAMES[3]]),
    )
    assert e.unreadable == [NAMES[3]] and e.relabelled == [NAMES[4]]
    for name in (NAMES[0], NAMES[1], NAMES[3], NAMES[4], "train/0/newL.png"):
        assert name in str(e)


def test_a_participant_in_two_splits_and_a_copied_file_are_faults(folder):
    (folder / "val/2/p0R.png").write_bytes((folder / NAMES[3]).read_bytes())
    e = faults(folder)
    assert e.divided == sorted([NAMES[0], NAMES[1], "val/2/p0R.png"])
    assert e.alike == sorted(
        [NAMES[3], "val/2/p0R.png"]
    ) and "more than one of train, val and test" in str(e)


@pytest.mark.parametrize(
    "kl, word",
    [
        ([0, 2, 0, 2, 0, None], "nan"),
        ([0, 2, 0, 2, 0, "two"], "two"),
        ([0, 2, 0, 2, 0, 1.5], "1.5"),
        ([0, 2, 0, 2, 0, 7], "7"),
    ],
)
def test_a_bad_grade_in_a_manifest_accuses_its_own_row(folder, kl, word):
    table = manifest_of(folder)
    with pytest.raises(ValueError, match="whole grades") as e:
        load_knees(folder, manifest=table.assign(kl=kl))
    assert (
        table.file[5] in str(e.value) and word in str(e.value) and "(1 such rows)" in str(e.value)
    )
    assert (
        len(load_knees(folder, manifest=table.assign(kl=table.kl.astype(float)))) == 6
    )  # written as 0.0 it is the same grade


@pytest.mark.parametrize("bad", [0.9, np.nan, None, "two"])
def test_a_grade_is_not_cut_off(bad):
    kl = np.array([0, 2, bad, 0], dtype=object)
    with pytest.raises(ValueError, match="position 2"):
        assign_splits(kl, list("abcd"))
    good = knee_set(4)
    with pytest.raises(ValueError, match="position 2"):
        KneeSet(
            good.images,
            kl,
            None,
            good.participant,
            good.side,
            good.split,
            None,
            good.file,
            good.sha256,
        )


BAD = {
    "misnamed": ["train/0/p77.png", "train/0/p77l.png"],
    "misplaced": [
        "train/5/p77L.png",
        "p77L.png",
        "train/p77L.png",
        "train/0/more/p77L.png",
    ],
    "repeated": ["val/2/p0L.png", "train/0/p0L.tif"],
}


@pytest.mark.parametrize(
    "kind, name", [(kind, name) for kind, names in BAD.items() for name in names]
)
def test_names_out_of_place(folder, kind, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(5)).save(folder / name)
    e = faults(folder)
    listed = getattr(e, kind)
    assert len(listed) == 1 and listed[0] in str(e) and (kind == "repeated" or listed == [name])


def test_unusable_pictures_all_at_once(folder):
    good = (folder / NAMES[0]).read_bytes()
    made = dict(
        truncated=good[: len(good) // 2],
        text=b"no picture",
        empty=b"",
        header=good[:40],
        dicom=b"\0" * 128 + b"DICM" + b"junk",
    )
    for i, data in enumerate(made.values()):
        (folder / f"train/0/x{i}L.png").write_bytes(data)
    pixels = dict(
        one=np.zeros((1, 1)),
        small=picture(edge=100),
        black=np.zeros((224, 224)),
        grey=np.full((224, 224), 90),
        tall=picture()[:, :150],
    )
    for i, data in enumerate(pixels.values()):
        Image.fromarray(data.astype(np.uint8)).save(folder / f"train/0/y{i}L.png")
    Image.fromarray(picture()).save(
        folder / "train/0/z0L.tif", save_all=True, append_images=[Image.fromarray(picture(1))]
    )
    dicom(folder / "train/0/z1L.dcm", picture(), bits=8, ImageLaterality="R")
    e = faults(folder)
    assert e.unreadable == sorted(
        [f"train/0/x{i}L.png" for i in range(5)]
        + [f"train/0/y{i}L.png" for i in range(5)]
        + ["train/0/z0L.tif", "train/0/z1L.dcm"]
    )
    for word in (
        "damaged",
        "is no PNG",
        "at least 128 x 128",
        "far from square",
        "shows nothing",
        "holds several pictures",
        "side R inside and L",
    ):
        assert word in str(e), word


def test_the_message_stays_short(folder):
    for i in range(50):
        (folder / f"train/0/q{i}L.png").write_text("x")
    e = faults(folder)
    assert (
        len(e.unreadable) == 50
        and str(e).count("q") <= 25
        and "50 not usable" in str(e)
        and "and more" in str(e)
    )


def test_no_folder(folder, tmp_path):
    for name in ("void", "films", "two"):
        (tmp_path / name).mkdir()
    shutil.copy(folder / NAMES[0], tmp_path / "films" / "any.png")
    for name in "ab":
        shutil.copytree(folder, tmp_path / "two" / name)
    for source, error, word in (
        (tmp_path / "gone", FileNotFoundError, "gone"),
        (folder / NAMES[0], NotADirectoryError, "is a file"),
        (tmp_path / "void", FileNotFoundError, "is empty"),
        (tmp_path / "films", FileNotFoundError, "no graded pictures"),
        (tmp_path / "two", FileNotFoundError, "2 sets"),
    ):
        with pytest.raises(error, match=word) as e:
            load_knees(source, manifest=None)
        assert "\n" not in str(e.value)


def test_other_bad_requests(folder):
    for options, word in (
        (dict(grades=(0, 7)), "grades"),
        (dict(grades=()), "grades"),
        (dict(split="random"), "split"),
        (dict(grades=(0, 3)), "grade 3"),
    ):
        with pytest.raises(ValueError, match=word):
            load_knees(folder, manifest=None, **options)
    with pytest.raises(FileNotFoundError, match="manifest"):
        load_knees(folder, manifest="nowhere.csv")
    table = manifest_of(folder)
    with pytest.raises(ValueError, match="lacks the column kl"):
        load_knees(folder, manifest=table.drop(columns="kl"))
    plain = table.drop(columns="sha256")  # all else is compared
    assert len(load_knees(folder, manifest=plain)) == len(table)
    with pytest.raises(KneeFilesError) as e:
        load_knees(folder, manifest=plain.assign(kl=2))
    assert len(e.value.relabelled) == (table.kl != 2).sum()
    with pytest.raises(ValueError, match="more than once"):
        load_knees(folder, manifest=pd.concat([table, table]))


def test_unchecked_folders_say_so(folder):
    with pytest.warns(UserWarning, match="No manifest is known for the folder knees"):
        load_knees(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_knees(folder, manifest=None)
    with pytest.raises(KneeFilesError) as e:
        load_knees(folder.rename(folder.parent / "kl224"))
    assert len(e.value.missing) == 5428 and len(e.value.unknown) == 6 and len(str(e.value)) < 5000


def test_real_knees_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("KOA_KNEES", str(tmp_path))
    assert real_knees() == tmp_path
    monkeypatch.setenv("KOA_KNEES", str(tmp_path / "gone"))
    with pytest.warns(UserWarning, match="KOA_KNEES"):
        assert real_knees() is None


def test_the_committed_manifest():
    table = published_knees()
    assert len(table) == table.file.nunique() == 8260 and table.inverted.sum() == 110
    assert table.sha256.str.fullmatch("[0-9a-f]{64}").all()
    folder = table.split + "/" + table.kl.astype(str) + "/"
    assert (table.file == folder + table.participant + table.side + ".png").all()
    assert table.groupby("participant").split.nunique().max() == 1
    assert table.groupby("participant").side.nunique().min() == 2
    train = table[table.split == "train"].kl.value_counts().sort_index()
    assert train.tolist() == [2286, 1046, 1516, 757, 173]


def test_a_file_that_the_manifest_calls_a_knee_is_not_looked_at_again(folder):
    dark, blank = NAMES[0], NAMES[1]
    Image.fromarray(255 - picture(0)).save(folder / dark)
    plain = load_knees(folder, manifest=None, names=True)
    manifest = plain.frame().drop(columns="label")
    assert plain.file[plain.inverted].tolist() == [dark]
    assert (load_knees(folder, manifest=manifest).images == plain.images).all()

    def listed(file, inverted):
        "The manifest with these pixels' file in it."
        changed = manifest.astype(dict(inverted=object)).set_index("file")
        found = digest((folder / file).read_bytes())
        changed.loc[file, ["sha256", "inverted"]] = found, inverted
        return changed.reset_index()

    Image.new("L", (224, 224), 90).save(folder / blank)
    assert faults(folder, manifest=listed(blank, None)).unreadable == [blank]
    assert faults(folder, manifest=manifest).changed == [blank]
    read = load_knees(folder, manifest=listed(blank, True), names=True)
    assert (read.images[read.file == blank] == 165).all() and read.inverted.sum() == 2


# --- knee sets


def knee_set(n, grades=(0, 2), seed=0):
    rng = np.random.default_rng(seed)
    return KneeSet(
        rng.integers(0, 256, (n, ROI, ROI), np.uint8),
        rng.choice(grades, n),
        None,
        [f"p{i // 2}" for i in range(n)],
        np.where(np.arange(n) % 2, "R", "L"),
        rng.choice(SPLITS, n),
        None,
        [f"{i}.png" for i in range(n)],
        [f"digest {i}" for i in range(n)],
        grades,
    )


def test_misfit_arrays_are_refused():
    good = knee_set(4)
    values = {
        name: getattr(good, name)
        for name in (
            "images",
            "kl",
            "label",
            "participant",
            "side",
            "split",
            "inverted",
            "file",
            "sha256",
            "grades",
            "name",
        )
    }
    for change in (
        dict(images=good.images.astype(float)),
        dict(images=good.images[:, :200]),
        dict(images=good.images[:3]),
        dict(kl=[0, 2, 0]),
        dict(kl=[0, 1, 2, 0], label=None),
        dict(label=[5, 5, 5, 5]),
        dict(side=["L", "R", "left", "R"]),
        dict(split=["train"] * 3 + ["dev"]),
        dict(participant=["a"] * 5),
    ):
        with pytest.raises(ValueError) as e:
            KneeSet(**{**values, **change})
        assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match="grade"):
        good.where(grade=2)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(8)), st.integers(0, 3))
def test_fingerprint_and_selection(order, seed):
    knees = knee_set(8, seed=seed)
    turned = knees.select(order)
    assert turned.fingerprint == knees.fingerprint == fingerprint(knees.frame(), (0, 2))
    assert (
        turned.file.tolist() == knees.file[order].tolist()
        and (turned.images == knees.images[order]).all()
    )
    assert knees.select(np.arange(8) < 7).fingerprint != knees.fingerprint
    assert sum(len(knees.where(split=s)) for s in SPLITS) == 8 and len(knees.select([])) == 0
    assert len(knees.only(2)) == (knees.kl == 2).sum() and not knees.only(2).label.any()
    assert len(quality(knees)) == 8


# --- splits

people = st.lists(
    st.lists(st.sampled_from((0, 1, 2, 3, 4)), min_size=1, max_size=2), min_size=1, max_size=60
)


@settings(max_examples=60, deadline=None)
@given(people, st.integers(0, 5), st.randoms())
def test_splits(grades, seed, random):
    rows = [(kl, f"p{i}", "LR"[j]) for i, pair in enumerate(grades) for j, kl in enumerate(pair)]
    kl, who, side = map(np.array, zip(*rows))
    order = np.array(random.sample(range(len(rows)), len(rows)))
    for how in ("knee", "participant"):
        split = assign_splits(kl, who, how, seed, side)
        assert set(split) <= set(SPLITS) and len(split) == len(
            rows
        )  # every knee in exactly one part
        assert (assign_splits(kl[order], who[order], how, seed, side[order]) == split[order]).all()
        units = len(rows) if how == "knee" else len(grades)
        counted = pd.Series(split) if how == "knee" else pd.Series(split).groupby(who).first()
        strata = (
            kl
            if how == "knee"
            else pd.Series(kl).groupby(who).apply(lambda g: str(sorted(g))).values
        )
        counts = pd.crosstab(strata, counted.values).reindex(columns=SPLITS, fill_value=0)
        quota = counts.sum(axis=1).values[:, None] * np.array(SPLIT_RATIO) / sum(SPLIT_RATIO)
        assert (
            np.abs(counts.values - quota) < 1 + 1e-9
        ).all() and counts.values.sum() == units  # each group to the nearest whole unit
        if how == "participant":
            assert pd.Series(split).groupby(who).nunique().max() == 1


def test_splits_use_their_seed():
    kl, who = np.tile([0, 2], 100), np.repeat(np.arange(100), 2)
    assert (assign_splits(kl, who, "knee", 0) != assign_splits(kl, who, "knee", 1)).any()
    with pytest.raises(ValueError, match="official"):
        assign_splits(kl, who, "official")
    with pytest.raises(ValueError, match="participants"):
        assign_splits(kl, who[:5], "knee")


def test_load_splits(folder):
    assert (
        load_knees(folder, manifest=None, split="participant", seed=1).fingerprint
        == load_knees(folder, manifest=None).fingerprint
    )


# --- patches


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 99),
    st.lists(st.sampled_from("LR"), min_size=1, max_size=5),
    st.sampled_from(("numpy", "torch")),
)
def test_a_mirrored_knee_has_the_same_patches(seed, sides, kind):
    images = np.random.default_rng(seed).integers(0, 256, (len(sides), ROI, ROI), np.uint8)
    mirrored = images[..., ::-1].copy()
    if kind == "torch":
        torch = pytest.importorskip("torch")
        images, mirrored = torch.from_numpy(images), torch.from_numpy(mirrored)
    lateral, medial = cut_patches(images, sides)
    for ours, theirs in zip(
        (lateral, medial), cut_patches(mirrored, ["LR"[s == "L"] for s in sides])
    ):
        assert (
            type(ours) is type(images)
            and tuple(ours.shape) == (len(sides), PATCH, PATCH)
            and bool((ours == theirs).all())
        )


def test_a_table_that_cannot_label_is_told_with_its_missing_column(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text("file,participant,kl\na.png,9000001,2\n")
    with pytest.raises(FileNotFoundError, match="labels.csv is .* column side"):
        load_knees(tmp_path)


def test_a_choice_of_knees_that_cannot_be_is_refused():
    knees = make_knees(30, seed=1, grades=(0, 2))
    one = knees.participant[0]
    assert len(knees.where(participant=int(one) if one.isdigit() else one))
    assert len(knees.where(split=["train", "val"], kl=2, side="L"))
    for values, word in (
        (dict(split="Test"), "'Test' is not known: use train"),
        (dict(side=["L", "left"]), "'left'"),
        (dict(kl="2"), "kl='2'"),
        (dict(kl=[0, 2.5]), "kl="),
        (dict(grade=2), "'grade'"),
    ):
        with pytest.raises(ValueError, match=word):
            knees.where(**values)
    assert set(knees.only(2).kl) == set(knees.only([2]).kl) == {2}
    for grades in ((0, 3), (), ("0",)):
        with pytest.raises(ValueError, match=r"only.*\(0, 2\)"):
            knees.only(*grades)


@pytest.mark.parametrize("nobody", ["", np.nan, None])
def test_a_knee_without_a_participant_is_refused(nobody):
    knees = make_knees(4, seed=1)
    people = knees.participant.astype(object)
    people[2] = nobody
    with pytest.raises(ValueError, match="participant: row 2"):
        replace(knees, participant=people)


def test_knees_on_a_device_have_a_size_and_a_view_that_there_are():
    knees = make_knees(4, seed=1)
    for values, word in (
        (dict(pixels=100), "128"),
        (dict(pixels=256), "128"),
        (dict(view="whole"), "joint"),
    ):
        with pytest.raises(ValueError, match=word):
            DeviceKnees(knees, "cpu", **values)
    with pytest.raises(ValueError, match="no knee"):
        DeviceKnees(knees.select([]), "cpu")


def test_patches_are_where_they_should_be():
    images = np.random.default_rng(0).integers(0, 256, (2, ROI, ROI), np.uint8)
    (a, b), (c, d) = COLUMNS
    left, right = images[:, slice(*ROWS), a:b], images[:, slice(*ROWS), c:d]
    lateral, medial = cut_patches(images, ["R", "L"])
    np.testing.assert_array_equal(lateral[0], left[0])
    np.testing.assert_array_equal(medial[0], right[0][:, ::-1])
    np.testing.assert_array_equal(lateral[1], right[1][:, ::-1])
    np.testing.assert_array_equal(medial[1], left[1])
    copy = images.copy()
    lateral[:] = 0
    assert (images == copy).all()  # patches are copies


def test_bad_patches_are_refused():
    images = np.zeros((2, ROI, ROI), np.uint8)
    for bad, side, word in (
        (images[:, :128], "L", "shape"),
        (images[0], "L", "shape"),
        (images, ["L"] * 3, "3 sides"),
        (images, ["L", "M"], "neither L nor R"),
    ):
        with pytest.raises(ValueError, match=word):
            cut_patches(bad, side)


# --- sets by name


def test_the_eight_examples_are_the_published_files():
    knees = example_knees()
    table = published_knees().set_index("file")
    assert knees.file.tolist() == [f"test/{name}.png" for name in EXAMPLES]
    assert knees.sha256.tolist() == table.sha256[knees.file].tolist()
    assert knees.kl.tolist() == [0] * 4 + [2] * 4 and set(knees.split) == {"test"}
    assert {s: (knees.side == s).sum() for s in "LR"} == dict(L=4, R=4)
    assert not knees.inverted.any() and len(set(knees.participant)) == 8
    for name in EXAMPLES:
        assert Image.open(manifests() / "rois" / f"test/{name}.png").size == (224, 224)


def test_a_readme_beside_the_splits_is_no_knee(folder):
    (folder / "README.md").write_text("about these knees")
    (folder / "LICENSE").write_text("CC BY 4.0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_knees(folder, manifest=None)) == 6
    (folder / "train/0/README.md").write_text("out of place")
    with pytest.warns(UserWarning):
        assert len(load_knees(folder, manifest=None)) == 6


def test_data_sets_by_name(folder, monkeypatch):
    for name in ("no/such", ""):  # nor is the folder that one happens to stand in meant
        with pytest.raises(FileNotFoundError, match=f"data={name!r}"):
            data_set(name)
    assert data_set(str(folder)) is DATA_SETS["folder"] and data_set("phantom").real is False
    facts = data_set("reference").facts((0, 2), "official")
    assert len(facts) == 5428 and data_set("reference").load is None
    knees = data_set("phantom").load("phantom", (0, 2), "knee", 12)
    assert len(knees) == 12
    monkeypatch.setenv("KOA_KNEES", str(folder / "gone"))
    with pytest.warns(UserWarning), pytest.raises(FileNotFoundError, match="KOA_KNEES"):
        data_set("kl224").load("kl224", (0, 2), "official", 0)


def test_a_set_added_to_the_registry_is_a_studys(folder, tmp_path, monkeypatch):
    from koa_repro.study import Study, study_frame, study_knees

    here = dict(store=str(tmp_path / "runs"), out=str(tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="mine"):
        Study(data="mine", **here)

    def load(data, grades, split, count):
        return load_knees(folder, grades, split, manifest=None)

    monkeypatch.setitem(DATA_SETS, "mine", DataSet(lambda data: data == "mine", load))
    study = Study(data="mine", **here)
    assert study.real and not study.published and len(study_knees(study)) == 6
    coded = load_knees(folder, manifest=None)
    assert sorted(study_frame(study).file) == sorted(coded.file)
    assert not set(coded.file) & set(NAMES) and not set("p0 p1 p2".split()) & {*coded.participant}


# --- the real knees, where they are


def test_real_knees_load():
    source = real_knees()
    if source is None:
        pytest.skip("no real knees here")
    frame, wrong = scan(source)
    assert not any(wrong.values()) and len(frame) == 8260
    knees = load_knees(source, grades=(4,))  # the smallest grade: read and checked byte for byte
    assert len(knees) == 251 and (polarity(knees.images) > 0.25).all()
