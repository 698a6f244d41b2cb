"""Probabilities of whatever network against grades: the numbers, and which row is of which knee."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from koa_repro.evaluate import (
    MEASURES,
    answers,
    differences,
    evaluate,
    read_labels,
    read_predictions,
)
from koa_repro.grader import own_answers, own_card
from koa_repro.tools.koa import main


@pytest.fixture(scope="module")
def public():
    own = own_answers("test")
    return pd.DataFrame(dict(file=own.file, p2=own.score[0]))


def written(folder, table, name="mine.csv", **how):
    table.to_csv(folder / name, index=False, **how)
    return folder / name


@pytest.fixture(scope="module")
def theirs(public):
    "Another network's probabilities: worse, and not the shipped ones turned about."
    draw = np.random.default_rng(0)
    p = public.assign(p2=np.clip(public.p2 + draw.normal(0, 0.3, len(public)), 0.001, 0.999))
    return p.sample(frac=1, random_state=1)


@pytest.fixture(scope="module")
def compared(theirs, tmp_path_factory):
    found = evaluate(written(tmp_path_factory.mktemp("theirs"), theirs))
    return found.measures.set_index("measure")


def test_the_shipped_networks_are_what_their_card_says(compared):
    card = {c["metric"]: c["value"] for c in own_card()["measures"] if c["split"] == "test"}
    shipped = compared.shipped_estimate
    assert shipped["accuracy"] == pytest.approx(card["accuracy (%)"])
    assert shipped["auc"] == pytest.approx(100 * card["AUC"])
    assert shipped["brier"] == pytest.approx(100 * card["Brier score"])
    assert shipped["slope"] == pytest.approx(card["calibration slope"])


def test_a_network_differs_from_itself_by_nothing():
    own = own_answers("test")
    for i in differences(own, own).values():
        assert i.estimate == i.low == i.high == 0


def short(frame):
    return frame.assign(file=frame.file.str.split("/").str[-1])


def stem(frame):
    name = frame.file.str.split("/").str[-1].str[:-4]
    return frame.assign(file=name).rename(columns=dict(p2="Probability", file="Image"))


def deep(frame):
    return frame.assign(file="D:\\kl224\\" + frame.file.str.replace("/", "\\"))


def by_knee(frame):
    name = frame.file.str.split("/").str[-1].str[:-4]
    side = name.str[-1].map(dict(L="left", R="RIGHT"))
    return frame.assign(Patient=name.str[:-1], Knee=side).drop(columns="file")


def comma(frame):
    return frame.assign(p2=frame.p2.map("{:.9f}".format).str.replace(".", ","))


@pytest.mark.parametrize("spell", [short, stem, deep, by_knee, comma])
def test_every_way_to_write_a_table_is_the_same(theirs, tmp_path, spell):
    knees, _ = read_labels()
    knees = knees[knees.kl.isin((0, 2))]
    told = read_predictions(written(tmp_path, spell(theirs), sep=";" if spell is comma else ","))
    expected = theirs.set_index("file").p2.loc[knees.file]
    assert answers(told, knees).p2.to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-8)


def test_another_network_is_told_beside_the_shipped_ones(theirs, compared):
    m, (knees, _) = compared, read_labels()
    knees = knees[knees.kl.isin((0, 2))].set_index("file").loc[theirs.file]
    assert m.estimate["auc"] == pytest.approx(100 * roc_auc_score(knees.kl == 2, theirs.p2))
    brier = brier_score_loss(knees.kl == 2, theirs.p2)
    assert m.estimate["brier"] == pytest.approx(100 * brier)
    assert (m.low <= m.estimate).all() and (m.estimate <= m.high).all()
    minus, shipped = m.minus_estimate.dropna(), m.shipped_estimate
    assert minus.to_numpy() == pytest.approx((m.estimate - shipped)[minus.index].to_numpy())
    assert minus.index.tolist() == ["accuracy", "auc", "brier"]
    assert minus["auc"] < 0 and m.minus_high["auc"] < 0 < m.minus_low["brier"]


LABELS = pd.DataFrame(
    [
        ("a.png", "1", "L", 0),
        ("a.png", "1", "R", 2),
        ("b.png", "2", "L", 0),
        ("c.png", "3", "R", 0),
        ("d.png", "4", "L", 2),
        ("e.png", "5", "L", 2),
        ("f.png", "6", "L", 1),
    ],
    columns=["file", "participant", "side", "kl"],
)
TOLD = pd.DataFrame(
    [
        ("a.png", "L", 0.2),
        ("a.png", "R", 0.9),
        ("b.png", "", 0.6),
        ("c.png", "R", 0.1),
        ("d.png", "L", 0.8),
        ("e.png", "L", 0.3),
        ("f.png", "L", 0.99),
    ],
    columns=["file", "side", "p2"],
)


def judged(folder, told=TOLD, labels=LABELS, **options):
    a, b = written(folder, told, "told.csv"), written(folder, labels, "labels.csv")
    return evaluate(a, b, **options)


@pytest.mark.parametrize(
    "threshold, sensitivity, specificity", [(0.5, 2 / 3, 2 / 3), (0.3, 1, 2 / 3), (0.61, 2 / 3, 1)]
)
def test_a_knee_is_called_from_the_threshold_up(tmp_path, threshold, sensitivity, specificity):
    m = judged(tmp_path, threshold=threshold).measures.set_index("measure")
    assert m.estimate["sensitivity"] == pytest.approx(100 * sensitivity)
    assert m.estimate["specificity"] == pytest.approx(100 * specificity)
    assert m.estimate["accuracy"] == pytest.approx(50 * (sensitivity + specificity))
    assert m.estimate["auc"] == pytest.approx(100 * 8 / 9)
    assert "minus_estimate" not in m


def test_the_knees_of_a_film_are_told_apart_by_their_sides(tmp_path):
    p = judged(tmp_path).predictions
    by = dict(zip(p.file, p.score[0]))
    assert by["a.png L"] == 0.2 and by["a.png R"] == 0.9 and by["b.png"] == 0.6
    swapped = TOLD.assign(side=TOLD.side.replace(dict(L="R", R="L")))
    p = judged(tmp_path, swapped).predictions
    by = dict(zip(p.file, p.score[0]))
    assert by["a.png L"] == 0.9 and by["a.png R"] == 0.2


def test_one_label_takes_the_knee_of_its_side(tmp_path):
    "A film of two knees of which one was graded."
    p = judged(tmp_path, labels=LABELS.drop(index=0)).predictions
    assert dict(zip(p.file, p.score[0]))["a.png"] == 0.9 and len(p.file) == 5


@pytest.mark.parametrize("spell", [lambda file: file[:-4], lambda file: "deep/er/" + file])
def test_labels_may_name_a_film_otherwise_than_predictions(tmp_path, spell):
    labels = LABELS.assign(file=LABELS.file.map(spell))
    one, other = (judged(tmp_path, labels=l).predictions for l in (LABELS, labels))
    assert (one.score == other.score).all() and (one.kl == other.kl).all()


def test_all_right_is_no_certainty(tmp_path):
    right = TOLD.assign(p2=LABELS.kl / 2 * 0.8 + 0.1)
    m = judged(tmp_path, right).measures.set_index("measure")
    rates = m.loc[["accuracy", "sensitivity", "specificity", "auc"]]
    assert rates.estimate.eq(100).all() and rates.low.lt(90).all()


def test_calls_without_doubt_are_judged(tmp_path):
    m = judged(tmp_path, TOLD.assign(p2=TOLD.p2.round())).measures.set_index("measure")
    assert m.estimate["accuracy"] == pytest.approx(100 * 4 / 6)
    assert m.estimate["brier"] == pytest.approx(100 * 2 / 6)
    assert m.estimate["auc"] == pytest.approx(100 * 2 / 3)


def test_what_has_no_answer_is_counted(tmp_path):
    told = TOLD.assign(p2=TOLD.p2.where(TOLD.file != "b.png"))
    told = pd.concat([told, told.assign(file="g" + told.file)[:3]])
    found = judged(tmp_path, told)
    assert len(found.predictions.file) == 5
    # b without a probability, f of grade 1, three rows of other films
    assert [note.split(": ")[-1] for note in found.notes[1:]] == ["1.", "1.", "3."]


@pytest.mark.parametrize(
    "change, names",
    [
        (lambda t: t.drop(columns="p2"), "p2"),
        (lambda t: t.drop(columns=["file"]), "participant"),
        (lambda t: t.assign(p4=0), "p4"),
        (lambda t: t.assign(p2=t.p2.replace(0.6, 1.6)), "row 4"),
        (lambda t: t.assign(p2=t.p2.astype(str).replace("0.6", "high")), "row 4"),
        (lambda t: pd.concat([t, t.iloc[[3]]]), "Rows 5 and 9"),
        (lambda t: pd.concat([t, t.iloc[[2]]]), "Rows 4 and 9"),
        (lambda t: t.assign(file="x" + t.file), "'xa.png' here, 'a.png' in"),
        (lambda t: t[:0], "told.csv"),
        (lambda t: t.assign(p2=""), "column p2"),
        (lambda t: t[t.file.isin(["a.png", "b.png"])], "2 participants .* 1 of grade 2"),
    ],
)
def test_a_table_that_cannot_be_judged_says_why(tmp_path, change, names):
    with pytest.raises(ValueError, match=names):
        judged(tmp_path, change(TOLD))


@pytest.mark.parametrize(
    "change, names",
    [
        (lambda t: t.drop(columns="kl"), "kl"),
        (lambda t: t[t.kl != 2], "grade 2"),
        (lambda t: pd.concat([t, t.iloc[[3]]]), "c.png"),
        (lambda t: pd.concat([t, t.iloc[[3]].assign(file="h.png")]), "by file"),
    ],
)
def test_labels_that_cannot_serve_say_why(tmp_path, change, names):
    labels = change(LABELS)
    told = labels.assign(p2=0.5).drop(columns="file") if names == "by file" else TOLD
    with pytest.raises(ValueError, match=names):
        judged(tmp_path, told, labels)


def test_a_line_that_does_not_fit_is_named(tmp_path):
    file = written(tmp_path, TOLD)
    file.write_text(file.read_text().replace("b.png", "b.png,7,7"))
    with pytest.raises(ValueError, match=f"{file}.* line 4"):
        evaluate(file)


def test_another_side_than_in_the_labels_is_told(tmp_path):
    found = judged(tmp_path, TOLD.assign(side=TOLD.side.where(TOLD.file != "d.png", "R")))
    assert "row 6 " in found.notes[-1] and len(found.predictions.file) == 6


def test_a_comparison_needs_every_public_knee(public, tmp_path):
    with pytest.raises(ValueError, match=public.file[7]):
        evaluate(written(tmp_path, public.drop(index=7)))


def test_only_the_test_part_of_labels_is_judged(tmp_path):
    labels = LABELS.assign(split=["test"] * 4 + ["train"] + ["test"] * 2)
    p = judged(tmp_path, labels=labels).predictions
    assert "d.png" not in p.file and len(p.file) == 5


def test_rows_of_labels_that_cannot_be_used_are_named(tmp_path):
    labels = LABELS.assign(kl=["7", *LABELS.kl.astype(str)[1:]])
    assert any("row 2" in note for note in judged(tmp_path, labels=labels).notes)
    with pytest.raises(ValueError, match="(?s)labels.csv.*rows 2, 3, 4, 5, 6 and 2 more"):
        judged(tmp_path, labels=LABELS.assign(side="links"))


def test_the_command(tmp_path, capsys):
    words = [written(tmp_path, TOLD, "told.csv"), written(tmp_path, LABELS, "labels.csv")]
    out = tmp_path / "new" / "numbers.csv"
    words = ["evaluate", *map(str, words), "--threshold", "0.3", "--out", str(out)]
    assert main(words) == 0
    table = pd.read_csv(out)
    assert table.measure.tolist() == list(MEASURES)
    assert table.set_index("measure").estimate["sensitivity"] == 100
    before = out.read_bytes()
    assert main(words) == 2 and out.read_bytes() == before
    assert main(["evaluate", str(tmp_path / "none.csv")]) == 2
    assert main([*words[:3], "--threshold", "2"]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 3 and all(line.startswith("koa evaluate: ") for line in told)


def test_a_table_in_memory_is_asked_for_as_a_file():
    with pytest.raises(ValueError, match="DataFrame is no file: save it"):
        evaluate(pd.DataFrame(dict(file=["a"], p2=[0.5])))
