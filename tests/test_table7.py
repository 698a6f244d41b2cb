"""koa_repro.readings and koa_repro.paper.table7: reading files and what is wrong with them,
comparisons of known outcome, and who may decide a claim."""

from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn import metrics as sk

from koa_repro import comparison as C
from koa_repro import results
from koa_repro.paper import table7 as R
from koa_repro.privacy import published_knees
from koa_repro.readings import (
    Panel,
    draw_study,
    knee_names,
    read_oai,
    read_readings,
    reading_sheet,
    simulate_readers,
)
from koa_repro.stats import Interval, Predictions, cohen_kappa, wilson
from koa_repro.study import Study

pair = partial(C.pair, margin=R.MARGIN)
RATES = pd.DataFrame(dict(sensitivity=[0.91, 0.8], specificity=[0.93, 0.99]), index=["A", "B"])


@pytest.fixture(scope="module")
def public():
    "The facts of the published knees; no image is needed."
    return published_knees()


@pytest.fixture(scope="module")
def drawn(public):
    return draw_study(public)


@pytest.fixture()
def study(tmp_path):
    return Study("paper", "reference", out=str(tmp_path / "out"), store=str(tmp_path / "runs"))


def network(knees, name, right=0.85, seeds=1, seed=0, extra=0):
    "Made-up predictions, right on a share of the knees, in an own order, with `extra` more knees."
    rng = np.random.default_rng(seed)
    file = np.concatenate([knees.file, [f"test/0/more{i}L.png" for i in range(extra)]])
    kl = np.concatenate([knees.kl, np.zeros(extra, int)])
    c = np.where(
        rng.random((seeds, len(kl))) < right,
        rng.uniform(0.5001, 1, (seeds, len(kl))),
        rng.uniform(0, 0.4999, (seeds, len(kl))),
    )
    p2 = np.where(kl == 2, c, 1 - c)
    order = rng.permutation(len(kl))
    person = np.concatenate([knees.participant, [f"m{i}" for i in range(extra)]])
    return Predictions(
        name,
        file[order].astype(str),
        person[order].astype(str),
        kl[order],
        (kl[order] == 2).astype(int),
        np.stack([1 - p2, p2], 2)[:, order],
        (0, 2),
    )


def compare(knees, tested, panel, seeds=None):
    "A comparison; runs without stated seeds have 0, 1, 2, ..."
    return C.comparison(
        knees, tested, panel, seeds or {n: range(p.seeds) for n, p in tested.items()}
    )


def panel_of(knees, grades, sure=None, real=True):
    "A panel from knees by readers, NaN where there is no read."
    frames = [
        pd.DataFrame(
            dict(
                reader=f"r{r}",
                knee_id=knees.knee_id,
                grade=g,
                confidence=np.nan if sure is None else sure[:, r],
            )
        ).dropna(subset="grade")
        for r, g in enumerate(np.asarray(grades, float).T)
    ]
    return Panel(pd.concat(frames, ignore_index=True), "made-up readers", real)


# --- the draw


def test_the_draw_on_the_published_facts(public, drawn):
    assert drawn.participant.is_unique and drawn.kl.value_counts().to_dict() == {0: 150, 2: 150}
    assert set(drawn.file) <= set(public.file[public.split == "test"]) and list(drawn) == [
        "knee_id",
        "file",
        "participant",
        "side",
        "kl",
    ]
    assert draw_study(public.sample(frac=1, random_state=0)).equals(drawn)
    assert 0.2 < len(set(drawn.file) & set(draw_study(public, seed=1).file)) / 300 < 0.7
    assert len(draw_study(public, 20)) == 40


def test_the_draw_prefers_nobody():
    "Participants with two knees are selected as often as others, and left knees as often."
    people = pd.DataFrame(
        dict(
            participant=np.repeat([f"p{i}" for i in range(600)], 2),
            side=np.tile(["L", "R"], 600),
            kl=0,
            split="test",
        )
    )
    people = people[(people.side == "L") | (people.participant.str[1:].astype(int) < 300)]
    people["file"] = "test/0/" + people.participant + people.side + ".png"
    other = people.assign(
        kl=2, participant="q" + people.participant, file=people.file.str.replace("p", "q")
    )
    chosen = pd.concat([draw_study(pd.concat([people, other]), 100, seed) for seed in range(20)])
    two = chosen.participant.str.extract(r"(\d+)$")[0].astype(int) < 300
    assert 0.46 < two.mean() < 0.54 and 0.45 < (chosen.side[two] == "R").mean() < 0.55


def test_a_grade_without_test_knees_is_refused(public):
    with pytest.raises(ValueError, match="one of them has none"):
        draw_study(public[public.kl != 2])


# --- reading files


def test_a_good_file_comes_back(tmp_path, drawn):
    sheet = pd.concat(
        [
            reading_sheet(drawn, "Dr A").assign(grade=2, confidence=0.8),
            reading_sheet(drawn, "Dr B").head(40).assign(grade=0),
        ]
    )
    sheet.to_csv(tmp_path / "r.csv", index=False)
    panel = read_readings(tmp_path / "r.csv", drawn)
    assert (
        panel.readers == ["Dr A", "Dr B"]
        and panel.real
        and (~np.isnan(panel.table("grade", drawn.knee_id))).sum(0).tolist() == [300, 40]
    )
    assert (
        np.nanmax(panel.table("confidence", drawn.knee_id)[:, 0]) == 0.8
        and np.isnan(panel.table("confidence", drawn.knee_id)[:, 1]).all()
    )
    pd.DataFrame(dict(reader=["x"], knee_id=[drawn.file[0]], grade=[4])).to_csv(
        tmp_path / "path.csv", index=False
    )  # a file's path, too, names its knee
    assert read_readings(tmp_path / "path.csv", drawn).reads.knee_id[0] == drawn.knee_id[0]


def test_all_faults_are_named_at_once(tmp_path, drawn):
    k = list(drawn.knee_id)
    lines = [
        "reader,knee_id,grade,confidence",
        f"A,{k[0]},0,0.9",
        f"A,{k[1]},7,",
        f"A,{k[2]},x,",
        f"A,{k[0]},2,",
        "A,nobody,0,",
        f"B,{k[0]},1.5,",
        f",{k[3]},0,",
        f"B,{k[4]},2,1.2",
        f"B,{k[5]},2,sure",
    ]
    (tmp_path / "r.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError) as e:
        read_readings(tmp_path / "r.csv", drawn)
    text = str(e.value)
    assert text.startswith("r.csv") and "\n" not in text
    for words in (
        "no reader: line 8",
        "not a test knee of this study: line 6 ('nobody')",
        f"the same knee and reader again: line 5 ('{k[0]}')",
        "a grade other than 0 to 4: line 3 ('7'), line 4 ('x'), line 7 ('1.5')",
        "a confidence outside 0.5 to 1: line 9 ('1.2'), line 10 ('sure')",
    ):
        assert words in text, words
    assert "'0.9'" not in text and "line 2" not in text


@pytest.mark.parametrize(
    "text, words",
    [
        ("a,b\n1,2\n", "no column reader, knee_id, grade"),
        ("reader,knee_id,grade\n", "holds no read"),
    ],
)
def test_files_without_reads(tmp_path, drawn, text, words):
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_readings(tmp_path / "r.csv", drawn)
    with pytest.raises(FileNotFoundError, match="is not a file"):
        read_readings(tmp_path / "none.csv", drawn)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (
            b"reader,knee_id,grade\nA,KNEE,0,,\nA,KNEE,2,1,x\n",
            "line 3, has 5 fields, but the first line names 3",
        ),
        ("reader,knee_id,grade\nM\u00fcller,KNEE,0\n".encode("cp1252"), "not text in UTF-8"),
        (b'reader,knee_id,grade\n"A,KNEE,0\n', "cannot be read as a table"),
        (b"reader,knee_id,grade,grade\nA,KNEE,0,2\n", "more than one column grade"),
        (b"reader,knee_id,grade,Grade\nA,KNEE,0,2\n", "more than one column grade"),
        (
            b"reader,knee_id,grade,confidence\nA,KNEE,,\n",
            "holds no read: 1 row without a grade left out",
        ),
    ],
)
def test_files_that_are_no_tables_are_refused_in_one_sentence(tmp_path, drawn, content, words):
    path = tmp_path / "r.csv"
    path.write_bytes(content.replace(b"KNEE", drawn.knee_id[0].encode()))
    with pytest.raises(ValueError, match=words) as e:
        read_readings(path, drawn)
    assert str(e.value).startswith("r.csv") and "\n" not in str(e.value)


def test_the_byte_that_is_no_text_is_named_in_a_long_file_too(tmp_path, drawn):
    start = b"reader,knee_id,grade\n" + b"A,1L,0\n" * 4000
    (tmp_path / "r.csv").write_bytes(start + b"M\xfcller,1L,0\n")
    with pytest.raises(ValueError, match=rf"byte {len(start) + 2}\)"):
        read_readings(tmp_path / "r.csv", drawn)


def test_a_row_is_named_by_the_line_of_an_editor(tmp_path, drawn):
    k = drawn.knee_id.tolist()
    (path := tmp_path / "r.csv").write_text(f'reader,knee_id,grade\n"Dr\nA",{k[0]},0\nB,{k[1]},9\n')
    with pytest.raises(ValueError, match=r"line 4 \('9'\)"):
        read_readings(path, drawn)


def test_a_participant_may_have_dots(tmp_path, drawn):
    dotted = drawn.assign(file=[f"test/{kl}/1.2.840.{i}L.png" for i, kl in enumerate(drawn.kl)])
    sheet = reading_sheet(dotted.assign(knee_id=knee_names(dotted.file)), "A").assign(grade="0")
    sheet.to_csv(tmp_path / "r.csv", index=False)
    assert set(read_readings(tmp_path / "r.csv", dotted).reads.knee_id) == set(
        knee_names(dotted.file)
    ) and len(set(sheet.knee_id)) == len(drawn)


def test_blanks_trailing_commas_and_unread_rows_do_no_harm(tmp_path, drawn):
    k, path = list(drawn.knee_id), tmp_path / "r.csv"
    path.write_text(
        f"reader , knee_id,grade\nA,{k[0]},0,\nA ,{k[1]} , 2 ,\n A,{k[2]},,\n\nB,{k[0]},4,\n"
    )  # a comma too many in every row
    panel = read_readings(path, drawn)
    assert (
        panel.readers == ["A", "B"]
        and panel.reads.grade.tolist() == [0, 2, 4]
        and list(panel.reads.knee_id) == [k[0], k[1], k[0]]
    )
    assert (
        panel.says == "readers of r.csv (1 row without a grade left out)"
        and panel.reads.index.tolist() == [0, 1, 2]
    )
    path.write_text(f"reader,knee_id,grade\nA,{k[0]},0\nA,{k[1]},\nB,{k[0]},\nB,{k[1]},\n")
    assert (
        read_readings(path, drawn).says
        == "readers of r.csv (3 rows without a grade left out, all of B)"
    )
    path.write_text(f"reader,knee_id,grade\nA,{k[0]},0\nA,{k[2]},\nA ,{k[0]},2\n")
    with pytest.raises(ValueError, match="again: line 4"):
        read_readings(path, drawn)  # one reader, and the line as an editor counts it
    sheet = reading_sheet(drawn, "C")
    pd.concat([sheet.head(7).assign(grade=2), sheet.tail(293)]).to_csv(path, index=False)
    assert (
        len(read_readings(path, drawn).reads) == 7
        and "293 rows without a grade" in read_readings(path, drawn).says
    )


def test_many_faults_are_counted(tmp_path, drawn):
    pd.DataFrame(dict(reader="A", knee_id=[f"x{i}" for i in range(30)], grade=0)).to_csv(
        tmp_path / "r.csv", index=False
    )
    with pytest.raises(ValueError, match="and 25 more"):
        read_readings(tmp_path / "r.csv", drawn)


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["A", "B", "Ü, c."]), st.integers(0, 299)),
        st.integers(0, 4),
        min_size=1,
        max_size=60,
    )
)
def test_any_readers_and_any_sets_of_knees(tmp_path_factory, drawn, reads):
    path = tmp_path_factory.mktemp("any") / "r.csv"
    frame = pd.DataFrame(
        [dict(reader=r, knee_id=drawn.knee_id[k], grade=g) for (r, k), g in reads.items()]
    )
    frame.to_csv(path, index=False)
    panel = read_readings(path, drawn)
    got = panel.table("grade", drawn.knee_id)
    assert all(got[k, panel.readers.index(r)] == g for (r, k), g in reads.items()) and (
        ~np.isnan(got)
    ).sum() == len(reads)


# --- the Osteoarthritis Initiative's tables


@pytest.mark.parametrize("mark, code", [("|", str), (",", str), ("|", lambda i: f"{i}: label")])
def test_oai_layout(tmp_path, drawn, mark, code):
    rows = [["id", "Side", "READPRJ", "BARCDXR", "V01XRKL"]]
    for k in drawn.head(30).itertuples():
        for project in (15, 37):
            rows.append([k.participant, code(1 if k.side == "R" else 2), project, "x", code(k.kl)])
    rows += [
        ["1234567", code(1), 15, "x", code(3)],
        [drawn.participant[40], code(1 if drawn.side[40] == "R" else 2), 42, "x", ".A: Missing"],
        [drawn.participant[41], code(1 if drawn.side[41] == "R" else 2), 42, "x", code(2)],
    ]
    (tmp_path / "kxr_sq_bu01.txt").write_text(
        "\ufeff" + "\n".join(mark.join(map(str, r)) for r in rows), encoding="utf-8"
    )
    panel = read_oai(tmp_path / "kxr_sq_bu01.txt", drawn, visit=1)
    grades = panel.table("grade", drawn.knee_id)
    assert (
        panel.readers == ["OAI project 15", "OAI project 37"]
        and not panel.real
        and "not independent" in panel.says
    )
    assert (
        (grades[:30] == drawn.kl.to_numpy()[:30, None]).all()
        and np.isnan(grades[30:41]).all()
        and grades[41].tolist()[1] == 2
        and np.isnan(grades[41, 0])
    )


def test_oai_faults(tmp_path, drawn):
    path, side = tmp_path / "t.txt", 1 if drawn.side[0] == "R" else 2
    path.write_text(
        "ID|SIDE|READPRJ|V00XRKL\n"
        + f"{drawn.participant[0]}|{side}|15|0\n{drawn.participant[0]}|{side}|15|2\n"
    )
    with pytest.raises(ValueError, match="OAI project 15 has two grades for " + drawn.knee_id[0]):
        read_oai(path, drawn)
    path.write_text("ID|SIDE|READPRJ|V00XRKL\n1|1|15|0\n")
    with pytest.raises(ValueError, match="no reading of the knees"):
        read_oai(path, drawn)
    start = "ID|SIDE|READPRJ|V00XRKL\n" + f"{drawn.participant[0]}|{side}|15|"
    for grade in ("7", "12: odd", "2.5", "two", "-1"):
        path.write_text(start + grade + "\n")
        with pytest.raises(
            ValueError, match=r"t.txt: a grade other than 0 to 4: line 2 \('" + grade
        ):
            read_oai(path, drawn)
    for grade in ("2", "2.0", "2: minimal"):
        path.write_text(
            start
            + grade
            + f"\n{drawn.participant[0]}|{side}|37|.A: Missing\n{drawn.participant[0]}|{side}|37|\n"
        )
        assert read_oai(path, drawn).reads.grade.tolist() == [2]
    both = "".join(f"{drawn.participant[0]}|{side}|{p}|{g}\n" for p, g in ((42, 3), (37, 2)))
    path.write_text("ID|SIDE|READPRJ|V00XRKL\n" + both)
    assert read_oai(path, drawn).reads.grade.tolist() == [2]  # 42 counts where 37 has none
    path.write_text("ID|SIDE|READPRJ|V00XRKL\n" + f"{drawn.participant[0]}|right|15|2\n")
    with pytest.raises(ValueError, match="line 2 .*right"):
        read_oai(path, drawn)  # a knee of the study whose side cannot be told
    path.write_text("ID|SIDE|READPRJ|V00XRKL|v00xrkl\n1|1|15|0|0\n")
    with pytest.raises(ValueError, match="more than one column V00XRKL"):
        read_oai(path, drawn)
    path.write_text("")
    with pytest.raises(ValueError, match="t.txt is empty"):
        read_oai(path, drawn)
    with pytest.raises(
        FileNotFoundError, match="none.txt is not a file: give the table kxr_sq_bu00"
    ):
        read_oai(tmp_path / "none.txt", drawn)
    path.write_text("ID|SIDE|V00XRKL\n1|1|0\n")
    with pytest.raises(ValueError, match="no column READPRJ"):
        read_oai(path, drawn)


# --- simulated readers


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(rates=100 * RATES), "the sensitivity of A, .*91.*, is not a share"),
        (dict(rates=RATES.assign(specificity=[0.9, -0.1])), "the specificity of B, .*-0.1"),
        (dict(rates=RATES.assign(specificity=[np.nan, 0.9])), "the specificity of A"),
        (dict(confidence=np.r_[np.nan, np.full(299, 0.7)]), "confidence: row 0"),
        (
            dict(rates=RATES.astype(object).assign(specificity=["high", 0.9])),
            "the specificity of A",
        ),
        (dict(confidence=np.full(3, 0.7)), "3 .* 300 knees"),
    ],
)
def test_impossible_readers_are_refused(drawn, change, words):
    with pytest.raises(ValueError, match=words):
        simulate_readers(drawn, **(dict(rates=RATES) | change))


def test_simulated_rates_hold_whatever_the_dependence(drawn):
    many = pd.DataFrame(dict(knee_id=[f"k{i}" for i in range(12_000)], kl=np.repeat([0, 2], 6000)))
    sure = np.random.default_rng(0).random(12_000)
    for dependence in (0, 0.7, 1):
        got = simulate_readers(many, RATES, sure, dependence).table("grade", many.knee_id)
        assert (
            np.abs((got[6000:] == 2).mean(0) - RATES.sensitivity).max() < 0.015
            and np.abs((got[:6000] == 0).mean(0) - RATES.specificity).max() < 0.015
        )
    counts = {
        (
            simulate_readers(drawn, RATES, seed=i).table("grade", drawn.knee_id)[drawn.kl == 2, 0]
            == 2
        ).sum()
        for i in range(20)
    }
    assert len(counts) > 5  # drawn knee by knee, no count is forced


def test_dependence_ties_errors_to_the_networks_doubts(drawn):
    n = network(drawn, "n")
    at = C.on_knees(n, drawn)
    kappa = [
        np.mean(
            [
                cohen_kappa(
                    np.where(at.score[0] >= 0.5, 2.0, 0.0),
                    simulate_readers(drawn, RATES, at.confidence[0], d, i).table(
                        "grade", drawn.knee_id
                    )[:, 0],
                    n=100,
                ).kappa
                for i in range(10)
            ]
        )
        for d in (0, 0.5, 1)
    ]
    assert kappa[0] + 0.03 < kappa[1] < kappa[2] - 0.03
    same = [simulate_readers(drawn, RATES, at.confidence[0], 0.5, 3).reads for _ in range(2)]
    assert same[0].equals(same[1]) and not same[0].equals(
        simulate_readers(drawn, RATES, at.confidence[0], 0.5, 4).reads
    )
    for bad in (-0.1, 1.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            simulate_readers(drawn, RATES, None, bad)
    assert (
        "SIMULATED" in simulate_readers(drawn, RATES).says
        and not simulate_readers(drawn, RATES).real
    )
    assert (
        "SIMULATED" in R.simulated(drawn, None).says and "printed" in R.simulated(drawn, None).says
    )


# --- the comparison


def test_predictions_are_found_by_file(drawn):
    n = network(drawn, "n", seeds=2, extra=50)
    at = C.on_knees(n, drawn)
    assert (
        (at.file == drawn.file).all()
        and (at.kl == drawn.kl).all()
        and at.probability.shape == (2, 300, 2)
    )
    i = list(n.file).index(drawn.file[7])
    assert (at.probability[:, 7] == n.probability[:, i]).all()
    with pytest.raises(ValueError, match="x.png is not among its test knees"):
        C.on_knees(n, drawn.assign(file="x.png"))


def test_rates_and_pairs_against_scikit_learn(drawn):
    rng = np.random.default_rng(1)
    grades = np.where(
        rng.random((300, 2)) < 0.9, drawn.kl.to_numpy()[:, None], 2 - drawn.kl.to_numpy()[:, None]
    ).astype(float)
    grades[:60, 1] = np.nan  # the second reader left knees out
    s = compare(drawn, {R.MODEL: network(drawn, R.MODEL)}, panel_of(drawn, grades))
    table = C.rate_table(s, [R.MODEL, R.BESIDE]).set_index("row")
    for name, call in (("r0", grades[:, 0]), ("r1", grades[:, 1])):
        at = ~np.isnan(call)
        assert (
            table.accuracy[name] == pytest.approx(100 * sk.accuracy_score(drawn.kl[at], call[at]))
            and table.knees[name] == at.sum()
        )
        assert table.sensitivity[name] == pytest.approx(
            100 * sk.recall_score(drawn.kl[at] == 2, call[at] == 2)
        )
        assert table.specificity[name] == pytest.approx(
            100 * sk.recall_score(drawn.kl[at] == 0, call[at] == 0)
        )
        assert table.accuracy_low[name] < table.accuracy[name] < table.accuracy_high[name]
    assert table.trainings[R.BESIDE] == 0 and table.loc[R.BESIDE, list(C.RATES)].isna().all()
    p = pair(s, "r0", "r1")
    assert p.knees == 240 and p.kappa.kappa == pytest.approx(
        sk.cohen_kappa_score(grades[60:, 0], grades[60:, 1])
    )
    t = p.tests[0]
    assert t.p == pytest.approx(
        scipy_stats.binomtest(t.only_a, t.discordant, 0.5).pvalue
    ) and p.difference.estimate == pytest.approx(t.difference)
    both = C.pair_table(
        [pair(s, a, b) for a, b in ((R.MODEL, "r0"), (R.MODEL, "r1"), ("r0", "r1"))]
    )
    whole = R.body(C.rate_table(s), both).set_index("row")
    assert (
        np.isnan(whole.kappa[R.MODEL])
        and whole.only_model["r0"] == both.only_a[0]
        and whole.only_this["r1"] == both.only_b[1]
    )
    shown = R.show_body(whole.reset_index(), R.printed_rates())
    assert [n.split(",")[0] for n in shown[""]] == [
        *("Model", "Siamese-GAP", "Rad 1", "Rad 2", "Rad 3", "r0", "r1")
    ]
    assert shown["McNemar p"].iloc[2] == "0.53"
    together = C.panel_table(s, R.MODEL).set_index(["measure", "among"])
    ordered = "Krippendorff's alpha, ordered grades" in together.index.get_level_values(0)
    assert ordered == (len(np.unique(s.panel.reads.grade)) > 2)  # of two it is the nominal one
    assert (
        together.knees["Fleiss' kappa, calls", "readers"] == 240
        and together.knees["Krippendorff's alpha, calls", "readers"] == 240
    )  # read by two


def test_grades_count_from_two_upwards(drawn):
    grades = np.where(drawn.kl == 2, np.resize([2, 3, 4], 300), np.resize([0, 1], 300))[:, None]
    s = compare(drawn, {}, panel_of(drawn, grades))
    assert C.rate(s, "r0", "accuracy").estimate == 1 and C.rate(s, "r0", "accuracy").low < 1


def test_several_trainings(drawn):
    n = network(drawn, R.MODEL, seeds=3)
    s = compare(drawn, {R.MODEL: n}, panel_of(drawn, drawn.kl.to_numpy()[:, None]))
    i, p = C.rate(s, R.MODEL, "accuracy"), pair(s, R.MODEL, "r0")
    assert (
        i.seeds == 3
        and i.estimate == pytest.approx(C.on_knees(n, drawn).right.mean())
        and "seeds" in i.over
    )
    assert (
        len(p.tests) == 3
        and p.kappa.seeds == p.difference.seeds == 3
        and p.difference.estimate == pytest.approx(i.estimate - 1)
    )
    two = compare(drawn, {R.MODEL: n, R.BESIDE: network(drawn, R.BESIDE, seeds=2)}, s.panel)
    assert len(pair(two, R.MODEL, R.BESIDE).tests) == 2 and len(pair(two, R.MODEL, "r0").tests) == 3
    assert len(C.pair_table([p])) == 3 and len(R.body(C.rate_table(s), C.pair_table([p]))) == 2


def test_three_error_free_trainings_are_not_certain(drawn):
    s = compare(
        drawn,
        {R.MODEL: network(drawn, R.MODEL, right=1, seeds=3)},
        panel_of(drawn, drawn.kl.to_numpy()[:, None]),
    )
    for metric in C.RATES:
        i, one = C.rate(s, R.MODEL, metric), C.rate(s, "r0", metric)
        assert (
            (i.estimate, i.high, i.seeds) == (1, 1, 3)
            and i.low == pytest.approx(one.low)
            and i.low < 0.99
        )
    alone = C.rate_table(compare(drawn.head(1), s.networks, s.panel)).set_index(
        "row"
    )  # one knee in the whole study
    assert (
        alone.accuracy_low[R.MODEL] == pytest.approx(alone.accuracy_low["r0"])
        and alone.accuracy_low["r0"] < 50
        and np.isfinite(alone.accuracy[R.MODEL])
    )


def test_networks_are_paired_by_seed(drawn):
    a, b = network(drawn, R.MODEL, seeds=3), network(drawn, R.BESIDE, seeds=3, seed=5)
    of = lambda sa, sb: pair(
        compare(
            drawn,
            {R.MODEL: a, R.BESIDE: b},
            panel_of(drawn, drawn.kl.to_numpy()[:, None]),
            {R.MODEL: sa, R.BESIDE: sb},
        ),
        R.MODEL,
        R.BESIDE,
    )
    right = [C.on_knees(p, drawn).right.sum(1) for p in (a, b)]
    gaps = lambda found: [t.only_a - t.only_b for t in found.tests]
    assert gaps(of((0, 1, 2), (0, 1, 2))) == [x - y for x, y in zip(*right)]
    assert gaps(of((0, 1, 2), (4, 2, 1))) == [
        right[0][1] - right[1][2],
        right[0][2] - right[1][1],
    ]  # seeds 1 and 2, whatever their places
    assert C.pair_table([of((0, 1, 2), (4, 2, 1))]).seed.tolist() == [1, 2]
    assert of((0, 1, 2), (3, 4, 5)) is None
    with pytest.raises(ValueError, match="has 3 runs, but 2 seeds"):
        of((0, 1), (0, 1, 2))


def test_both_knees_of_a_person_are_not_two(public):
    "A file may hold both knees of a participant: intervals and tests then count people."
    knees = (
        public[(public.split == "test") & public.kl.isin((0, 2))]
        .groupby("participant")
        .filter(lambda g: len(g) == 2 and g.kl.nunique() == 1)
    )
    knees = knees.assign(knee_id=knee_names(knees.file)).reset_index(drop=True)
    rng = np.random.default_rng(2)
    wrong = knees.participant.map(
        dict(zip(knees.participant.unique(), rng.random((knees.participant.nunique(), 2)) < 0.15))
    ).to_list()
    grades = np.where(
        np.array(wrong), 2 - knees.kl.to_numpy()[:, None], knees.kl.to_numpy()[:, None]
    )
    s = compare(knees, {}, panel_of(knees, grades))
    i, t = C.rate(s, "r0", "accuracy"), pair(s, "r0", "r1").tests[0]
    assert (
        i.worth == pytest.approx(len(knees) / 2, rel=0.02)
        and t.unit == "participants"
        and t.coins == t.discordant / 2
    )


def test_predictive_values_by_bayes(drawn):
    grades = np.where(
        np.arange(300)[:, None] % 10 < 1,
        2 - drawn.kl.to_numpy()[:, None],
        drawn.kl.to_numpy()[:, None],
    )
    s = compare(drawn, {}, panel_of(drawn, grades))
    se, sp = (C.rate(s, "r0", m).estimate for m in ("sensitivity", "specificity"))
    table = C.predictive_table(s).set_index("prevalence")
    assert table.positive[10] == pytest.approx(
        100 * se * 0.1 / (se * 0.1 + (1 - sp) * 0.9)
    ) and table.negative[10] == pytest.approx(100 * sp * 0.9 / (sp * 0.9 + (1 - se) * 0.1))
    assert (
        table.positive[50] == pytest.approx(100 * (drawn.kl[grades[:, 0] == 2] == 2).mean())
        and (table.positive_low <= table.positive).all()
    )


def test_no_false_positive_is_not_certainty(drawn):
    kl = drawn.kl.to_numpy()
    never = np.where((kl == 2) & (np.cumsum(kl == 2) <= 15), 0, kl)[
        :, None
    ]  # misses 15, calls no KL-0 knee
    s = compare(drawn, {}, panel_of(drawn, never))
    i, sp = C.predictive(s, "r0", 0.1, True), C.rate(s, "r0", "specificity")
    assert (i.estimate, i.high) == (1, 1) and i.low == pytest.approx(
        0.9 * 0.1 / (0.9 * 0.1 + (1 - sp.low) * 0.9)
    )  # .80, not 1
    twice = pd.concat([drawn, drawn.assign(knee_id=drawn.knee_id + "x")], ignore_index=True)
    both = C.predictive(
        compare(twice, {}, panel_of(twice, np.tile(never, (2, 1)))), "r0", 0.1, True
    )
    assert both.low == pytest.approx(
        i.low, abs=0.005
    )  # a participant's second knee that says the same adds nothing
    flip = compare(drawn.assign(kl=2 - kl), {}, panel_of(drawn, 2 - never))
    assert (
        C.predictive(flip, "r0", 0.9, False).low,
        C.predictive(flip, "r0", 0.9, False).high,
    ) == pytest.approx((i.low, i.high))
    one = C.predictive(compare(drawn.assign(participant="p"), {}, s.panel), "r0", 0.1, True)
    assert one.estimate == 1 and one.low < i.low


def test_predictive_values_cover():
    "Of all studies of 150 + 150 knees that a reader's rates allow, weighted by their chance."
    ends = {k: wilson(np.arange(150) < k) for k in range(151)}
    for se, sp in ((0.9, 0.99), (0.9, 0.95), (0.99, 0.9), (0.7, 0.7)):
        hits, alarms = (scipy_stats.binom(150, p) for p in (se, sp))
        found, truth = 0.0, se * 0.1 / (se * 0.1 + (1 - sp) * 0.9)
        for i, j in (
            (i, j)
            for i in range(151)
            for j in range(151)
            if hits.pmf(i) > 1e-5 and alarms.pmf(j) > 1e-5
        ):
            low, high = C._predictive_ends(ends[i], ends[j], 0.1)
            found += hits.pmf(i) * alarms.pmf(j) * (low <= truth <= high)
        assert 0.935 < found < 0.985, (se, sp, found)


def test_readers_of_another_mix(drawn):
    "Accuracy weighs the grades as they were read; the mean of the two rates does not."
    kl = drawn.kl.to_numpy(float)
    read = np.where((kl == 0) | (np.cumsum(kl == 2) <= 50), 0.0, np.nan)  # always 0, 150 + 50
    s = compare(drawn, {}, panel_of(drawn, np.stack([kl, read], 1)))
    table = C.rate_table(s).set_index("row")
    assert table.accuracy["r1"] == pytest.approx(75) and table.accuracy["r0"] == 100
    shown = R.show_body(R.body(table.reset_index(), C.pair_table([])), R.printed_rates())
    assert shown.set_index("").balanced[["r0", "r1"]].tolist() == ["100.0", "50.0"]
    assert C.knee_mix(drawn) == "150 KL-0 + 150 KL-2 knees, one a participant"
    assert C.knee_mix(drawn.assign(participant="p")).endswith("knees of 1 participant")


def test_a_reader_who_always_says_0(drawn):
    s = compare(drawn, {R.MODEL: network(drawn, R.MODEL)}, panel_of(drawn, np.zeros((300, 2))))
    assert (C.rate(s, "r0", "sensitivity").estimate, C.rate(s, "r0", "specificity").estimate) == (
        0,
        1,
    )
    assert (
        pair(s, R.MODEL, "r0").kappa.kappa == 0
        and np.isnan(pair(s, "r0", "r1").kappa.kappa)
        and pair(s, "r0", "r1").tests[0].p == 1
    )
    table = C.predictive_table(s).set_index(["row", "prevalence"])
    assert np.isnan(table.positive["r0", 10]) and table.negative["r0", 10] == pytest.approx(
        90
    )  # says nothing: the prevalence is left
    assert C.panel_table(s, R.MODEL).estimate.isna().any() and len(C.alike_table(s, swaps=5)) == 3
    pairs = [pair(s, R.MODEL, "r0"), pair(s, R.MODEL, "r1"), pair(s, "r0", "r1")]
    shown = R.show_pairs(C.pair_table(pairs)).kappa.tolist()
    assert all(k.startswith("0.00 [-0.0") for k in shown[:2]) and shown[2] == "undefined"
    zero = s.kl == 0  # only knees of one grade: nothing can be said of kappa
    low = compare(drawn[zero], {}, panel_of(drawn[zero], np.zeros((150, 2))))
    assert np.isnan(C.pair_table([pair(low, "r0", "r1")]).kappa[0])


def test_one_knee_in_all(drawn, study):
    s = compare(
        drawn.head(1),
        {R.MODEL: network(drawn, R.MODEL, seeds=2)},
        panel_of(drawn, drawn.kl.to_numpy(float)[:, None]),
    )
    pairs = [p for r in s.panel.readers if (p := pair(s, R.MODEL, r))]
    assert pairs == []
    shown = R.show_body(R.body(C.rate_table(s), C.pair_table(pairs)), R.printed_rates())
    assert shown.set_index("")["kappa with the model"]["r0"] == "too few shared knees"
    assert (
        C.pair_table(pairs).both_right.empty
        and C.predictive_table(s).prevalence.empty
        and C.alike_table(s).empty
        and C.panel_table(s, R.MODEL).empty
    )
    assert R.reader_claims(study, s, pairs).verdict[:2].tolist() == ["not decided"] * 2


# --- Fig. 7


def test_confidence_of_readers(drawn):
    kl = drawn.kl.to_numpy()
    grades, sure = np.stack([kl, 2 - kl, kl], 1).astype(float), np.full((300, 3), np.nan)
    sure[:, 1], sure[0, 2] = 0.8, 0.6
    grades[5] = np.nan
    c = C.label_confidence(compare(drawn, {}, panel_of(drawn, grades, sure)))[0]
    assert (
        c[1] == pytest.approx((1 + 0.2 + 1) / 3)
        and c[0] == pytest.approx((1 + 0.2 + 0.6) / 3)
        and np.isnan(c[5])
    )


def test_alike_and_unlike(drawn):
    n = network(drawn, R.MODEL)
    c = C.on_knees(n, drawn).confidence[0]
    grade = np.where(c >= 0.5, drawn.kl, 2 - drawn.kl)[:, None]
    twin = C.alike_table(
        compare(drawn, {R.MODEL: n}, panel_of(drawn, grade, np.maximum(c, 1 - c)[:, None])),
        swaps=20,
    )
    assert twin.spearman.to_numpy() == pytest.approx(
        1
    ) and twin.distance.to_numpy() == pytest.approx(0, abs=1e-12)
    mixed = np.concatenate(
        [np.random.default_rng(0).permutation(np.flatnonzero(drawn.kl == g)) for g in (0, 2)]
    )
    d = np.empty(300)
    d[np.concatenate([np.flatnonzero(drawn.kl == g) for g in (0, 2)])] = c[mixed]
    grade = np.where(d >= 0.5, drawn.kl, 2 - drawn.kl)[:, None]
    other = C.alike_table(
        compare(drawn, {R.MODEL: n}, panel_of(drawn, grade, np.maximum(d, 1 - d)[:, None])),
        swaps=20,
    ).set_index("knees")
    assert other.distance.to_numpy() == pytest.approx(0, abs=1e-12)  # the same curves,
    assert other.spearman_low["KL-0"] < 0 < other.spearman_high["KL-0"]  # doubt on other knees


def test_chance_swaps_participants_and_knows_every_training(drawn):
    kl, sure, one = (
        drawn.kl.to_numpy(),
        np.random.default_rng(1).uniform(0.5, 1, 300),
        C.on_knees(network(drawn, R.MODEL), drawn),
    )
    lines = lambda run, person: (
        C.alike_table(
            compare(
                drawn.assign(participant=person),
                {R.MODEL: run},
                panel_of(drawn, kl[:, None], sure[:, None]),
            ),
            swaps=200,
        )
        .set_index("knees")
        .loc["all"]
    )
    alone = lines(one, drawn.participant)
    assert alone.by_chance < 0.8 * alone.distance
    two = lines(one, np.where(np.arange(300) % 2, "a", "b"))
    assert (
        two.by_chance >= two.distance - 1e-12
    )  # two participants: half of the swaps change nothing
    same = np.where(
        kl == 2, sure, 1 - sure
    )  # a second training that says what the readers say is at no distance, however it is swapped
    half = lines(
        replace(
            one, probability=np.concatenate([one.probability, np.stack([1 - same, same], 1)[None]])
        ),
        drawn.participant,
    )
    assert half.by_chance == pytest.approx(alone.by_chance / 2) and half.distance == pytest.approx(
        alone.distance / 2
    )


def test_the_picture_says_what_it_is(drawn):
    s = compare(drawn, {R.MODEL: network(drawn, R.MODEL)}, R.simulated(drawn, None))
    fig = R.draw_confidence(s, s.panel.says)
    fig.canvas.draw()
    texts = [t.get_text() for ax in fig.axes for t in ax.texts]
    assert "SIMULATED" in fig._suptitle.get_text() and "not run" in texts
    wrong = 100 * (C.label_confidence(s, R.MODEL)[0][drawn.kl == 2] < 0.5).mean()
    assert f"KL-2: {wrong:.0f}% below 0.5" in texts[0]
    plt.close(fig)


# --- who decides


def test_only_real_readers_decide(drawn, study):
    kl, perfect = drawn.kl.to_numpy(), network(drawn, R.MODEL, right=1, seeds=2)

    def verdicts(panel, model=perfect, study=study):
        s = compare(drawn, {R.MODEL: model}, panel)
        return (
            R.reader_claims(
                study,
                s,
                [pair(s, R.MODEL, r) for r in panel.readers],
                [R.confidence_gap(model), R.confidence_gap(model, True)],
            )
            .set_index("id")
            .verdict
        )

    same = np.repeat(kl[:, None], 2, 1)
    assert verdicts(panel_of(drawn, same))[["C16", "C17"]].tolist() == ["holds", "holds"]
    assert (
        verdicts(panel_of(drawn, same, real=False))[["C16", "C17"]].tolist() == ["no verdict"] * 2
    )
    worse = network(drawn, R.MODEL, right=0.7, seeds=5)
    assert verdicts(panel_of(drawn, same), worse)[["C16", "C17"]].tolist() == ["fails", "fails"]
    assert (
        verdicts(panel_of(drawn, same), network(drawn, R.MODEL, right=1))[["C16", "C17"]].tolist()
        == ["not decided"] * 2
    )  # one training
    quick = Study("short", "reference", out=study.out, store=study.store)
    assert set(verdicts(panel_of(drawn, same), perfect, quick)) == {"no verdict"}
    assert verdicts(R.simulated(drawn, None))["C16"] == "no verdict"
    assert (
        verdicts(panel_of(drawn, np.stack([kl, 2 - kl], 1)))["C16"] == "fails"
    )  # one reader who disagrees is enough


def test_runs_that_are_under_trained_decide_nothing(drawn, study, monkeypatch):
    "Though every reader is less often right than the network, and one agrees with it in nothing."
    model = network(drawn, R.MODEL, right=1, seeds=2)
    s = compare(drawn, {R.MODEL: model}, panel_of(drawn, 2 - drawn.kl.to_numpy()[:, None]))
    spread = np.linspace(0.1, 0.2, 400)
    gap = Interval(0.15, 0.1, 0.2, 0.01, 0.95, 2, "participants", replicates=spread)
    pairs = [pair(s, R.MODEL, "r0")]
    claims = lambda: R.reader_claims(study, s, pairs, [gap, gap]).verdict.tolist()
    assert claims() == ["fails", "holds", "holds"]
    for module in (R, results):
        monkeypatch.setattr(module, "convergence", lambda runs: "under-trained")
    assert claims() == ["not decided"] * 3


def test_a_reader_of_one_knee_is_not_forgotten(drawn, study):
    kl, model = drawn.kl.to_numpy(float), network(drawn, R.MODEL, right=1, seeds=2)

    def claims(grades):
        s = compare(drawn, {R.MODEL: model}, panel_of(drawn, grades))
        return R.reader_claims(
            study, s, [p for r in s.panel.readers if (p := pair(s, R.MODEL, r))]
        ).set_index("id")

    one = np.where(np.arange(300) == 7, kl, np.nan)
    found = claims(np.stack([kl, one], 1))
    assert found.verdict[["C16", "C17"]].tolist() == ["not decided"] * 2 and all(
        found.ours[i].endswith("too few shared knees: r1") for i in ("C16", "C17")
    )
    assert claims(np.stack([kl, kl], 1)).verdict[["C16", "C17"]].tolist() == ["holds"] * 2
    assert claims(np.stack([2 - kl, one], 1)).verdict["C16"] == "fails"  # by the other reader
    assert (
        claims(one[:, None]).verdict["C16"] == "not decided"
        and claims(one[:, None]).ours["C16"] == "too few shared knees: r0"
    )


def test_nothing_run_still_goes_through(drawn, study):
    s = compare(drawn, {}, R.simulated(drawn, None))
    pairs = [pair(s, a, b) for a, b in zip(s.panel.readers, s.panel.readers[1:])]
    whole = R.body(C.rate_table(s, (R.MODEL, R.BESIDE)), C.pair_table(pairs))
    shown = R.show_body(whole, R.printed_rates())
    assert (shown.accuracy[1:3] == "not run").all() and (shown[""] != "your readers").all()
    assert R.reader_claims(study, s, pairs).ours.eq("not run").all()
    assert (
        not len(C.power_of_pairs(R.with_readers(s, pairs), R.MARGIN))
        and not len(C.alike_table(s))
        and not len(R.dependence_table(drawn, None))
        and len(C.panel_table(s, R.MODEL)) == 2
    )
    assert R.body(C.rate_table(s), C.pair_table([])).kappa.isna().all()


def test_without_readings_the_networks_stand_alone(drawn, study):
    "Nothing of a simulated reader is among what is saved, and no claim about readers is decided."
    model = network(drawn, R.MODEL, seeds=2)
    s = compare(drawn, {R.MODEL: model}, R.NO_READINGS)
    whole = R.body(C.rate_table(s, (R.MODEL, R.BESIDE)), C.pair_table([]))
    assert whole.row.tolist() == [R.MODEL, R.BESIDE] and whole.knees.tolist() == [300, 0]
    assert whole.accuracy[0] == pytest.approx(100 * C.on_knees(model, drawn).right.mean())
    assert (R.show_body(whole, R.printed_rates()).accuracy == "no readings").sum() == 1
    claims = R.reader_claims(study, s, [], [R.confidence_gap(model)]).set_index("id")
    assert claims.verdict[["C16", "C17"]].tolist() == ["no verdict"] * 2
    assert claims.ours[["C16", "C17"]].tolist() == ["no readings"] * 2
    assert C.alike_table(s).empty and np.isnan(C.label_confidence(s)).all()
    fig = R.draw_confidence(s, s.says)
    assert "no readings" in [t.get_text() for ax in fig.axes for t in ax.texts]
    plt.close(fig)


def test_where_the_readers_come_from(drawn, study, tmp_path, monkeypatch, public):
    for name in ("KOA_READINGS", "KOA_OAI_READINGS"):
        monkeypatch.delenv(name, raising=False)
    panel, knees = R.find_panel(study, drawn, None)
    assert "SIMULATED" in panel.says and knees.equals(drawn)
    (tmp_path / "oai.txt").write_text(
        "ID|SIDE|READPRJ|V00XRKL\n"
        + "".join(
            f"{k.participant}|{1 if k.side == 'R' else 2}|15|{k.kl}\n" for k in drawn.itertuples()
        )
    )
    monkeypatch.setenv("KOA_OAI_READINGS", str(tmp_path / "oai.txt"))
    assert R.find_panel(study, drawn, None)[0].readers == ["OAI project 15"]
    test = public[(public.split == "test") & public.kl.isin((0, 2))].sample(77, random_state=0)
    test.assign(reader="Dr A", knee_id=knee_names(test.file), grade=test.kl)[
        ["reader", "knee_id", "grade"]
    ].to_csv(tmp_path / "own.csv", index=False)
    monkeypatch.setenv("KOA_READINGS", str(tmp_path / "own.csv"))
    panel, knees = R.find_panel(
        study, drawn, None
    )  # a file goes before the rest, and its knees are the study's
    assert (
        panel.real
        and panel.says == "readers of own.csv"
        and set(knees.file) == set(test.file)
        and list(knees) == list(drawn)
    )
    assert C.rate(compare(knees, {}, panel), "Dr A", "accuracy").estimate == 1
    made = simulate_readers(drawn, RATES).reads
    for name in made.reader.unique()[:1].tolist() + [
        "phantom reader 2"
    ]:  # saved and given back, simulated readers stay simulated, beside others as well
        pd.concat(
            [
                made[made.reader == made.reader[0]].assign(reader=name),
                made.assign(reader="Dr A").head(40),
            ]
        ).to_csv(tmp_path / "own.csv", index=False)
        panel, knees = R.find_panel(study, drawn, None)
        assert (
            not panel.real
            and panel.says == "SIMULATED readers (1 of 2) among the readers of own.csv"
        )
    train = public[(public.split == "train") & (public.kl == 0)].head(2)
    train.assign(reader="Dr A", knee_id=knee_names(train.file), grade=0)[
        ["reader", "knee_id", "grade"]
    ].to_csv(tmp_path / "own.csv", index=False)
    with pytest.raises(ValueError, match="not a test knee of this study"):
        R.find_panel(study, drawn, None)


def test_a_reader_is_not_called_as_a_network(drawn):
    panel = panel_of(drawn, np.zeros((300, 1)))
    with pytest.raises(ValueError, match="choose another name"):
        compare(drawn, {"r0": network(drawn, "r0")}, panel)


# --- what the printed numbers allow


def test_printed_rates_are_the_papers():
    rates = R.printed_rates()
    assert (
        list(rates.index) == ["Rad 1", "Rad 2", "Rad 3", "Model"]
        and rates.sensitivity["Rad 1"] == pytest.approx(0.91)
        and rates.kappa["Rad 2"] == 0.87
        and rates.p["Rad 3"] == 0.51
    )


def test_power_of_the_printed_study():
    powers = C.power_of_rates(R.printed_rates(), "Model", R.MARGIN, 300).set_index(
        ["reader", "errors_overlap"]
    )
    rates = R.printed_rates()
    for r in ("Rad 1", "Rad 2", "Rad 3"):
        near, far = powers.loc[r, "as far as they can"], powers.loc[r, "as by chance"]
        gap = 50 * (
            rates.sensitivity["Model"]
            - rates.sensitivity[r]
            + rates.specificity["Model"]
            - rates.specificity[r]
        )
        assert near.difference == pytest.approx(gap) and far.difference == pytest.approx(gap)
        assert (
            abs(gap) - 1e-9 <= near.discordant < far.discordant
            and near.power_seen > far.power_seen
            and near["size"] < 300 < far["size"]
        )
    few = powers.discordant < 100 * R.MARGIN
    assert (
        few.any()
        and (powers.assumed[few] == 100 * R.MARGIN).all()
        and (powers.assumed[~few] == powers.discordant[~few]).all()
    )
    rng, se, sp = (
        np.random.default_rng(0),
        rates.sensitivity,
        rates.specificity,
    )  # and by drawing such studies
    share = (
        np.r_[np.full(200_000, se["Model"]), np.full(200_000, sp["Model"])],
        np.r_[np.full(200_000, se["Rad 2"]), np.full(200_000, sp["Rad 2"])],
    )
    right = [rng.random(400_000) < s for s in share]
    assert 100 * (right[0] != right[1]).mean() == pytest.approx(
        powers.discordant["Rad 2", "as by chance"], abs=0.3
    )


def test_a_test_knee_without_grade_or_person_is_no_knee_to_draw():
    frame = pd.DataFrame(
        dict(file=list("abcd"), participant=list("wxyz"), side="L", kl=[0, 2, 0, 2], split="test")
    )
    assert len(draw_study(frame)) == 4
    with pytest.raises(ValueError, match="c has no participant"):
        draw_study(frame.assign(participant=["w", "x", None, "z"]))
    for kl in ([0, 2, np.nan, 2], [0, 2, "0", 2]):
        with pytest.raises(ValueError, match="row 2"):
            draw_study(frame.assign(kl=kl))
