"""The report: one file, says what it must, loses nobody, and equals its tables."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from hybrid.analysis import Report, compare_models, evaluate_models
from hybrid.analysis.wording import beside_chance, interval, number, p_phrase, p_value, short_path
from hybrid.errors import InputError

FAST = {"n_bootstrap": 100}
RECORD = {
    "finished": "2024-05-06T07:08:09+00:00",
    "settings": {
        "cohort": {"file": "/home/someone/private/cohort.csv"}, "images": {"ct": {"handcrafted": "ct"}},
        "encoder": "bundled", "outcome_name": "lung metastasis", "inner_folds": 3, "seed": 20, "bootstraps": 100,
    },
    "settings_digest": "ab" * 32,
    "versions": {"python": "3.11.7", "pyradiomics-cuda": "1.0.4"},
}  # fmt: skip


class Page(HTMLParser):
    """Text of the first paragraph, ids, anchors and everything that a page could load."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.anchors, self.loads, self.open, self.images = set(), set(), [], [], []
        self.first, self.in_first, self.seen_first = "", False, False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if "id" in values:
            self.ids.add(values["id"])
        if tag == "a" and values["href"].startswith("#"):
            self.anchors.add(values["href"][1:])
        if tag in ("img", "script", "iframe", "link", "source"):
            self.loads.append(values.get("src") or values.get("href") or "")
        if tag == "img":
            self.images.append(values)
        if tag == "p" and "lead" in values.get("class", "") and not self.seen_first:
            self.in_first = self.seen_first = True
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "p":
            self.in_first = False

    def handle_data(self, data):
        if self.in_first:
            self.first += data


@pytest.fixture(scope="module")
def parts(small_predictions):
    return small_predictions, compare_models(small_predictions, **FAST), evaluate_models(small_predictions, **FAST)


@pytest.fixture(scope="module")
def saved(parts, make_cohort, make_features, make_null, tmp_path_factory):
    predictions, result, metrics = parts
    cohort = make_cohort(predictions)
    features = make_features(cohort)
    bad = cohort.iloc[[0, 0]].assign(case_id=["lost", "silent"], patient_id=["lost", "silent"])
    cohort = pd.concat([cohort, bad], ignore_index=True)
    features.loc["lost"] = np.nan
    failures = pd.DataFrame([{"case_id": "lost", "stage": "handcrafted", "error": "InputError",
                              "message": "The mask is empty.", "advice": "Draw it."}])  # fmt: skip
    report = Report(
        cohort, features, predictions, result, metrics=metrics, null=make_null(), failures=failures, run_record=RECORD,
        title="Sarcoma <study>", simulated=True,
    )  # fmt: skip
    return report.save(tmp_path_factory.mktemp("study") / "run" / "report.html")


@pytest.fixture(scope="module")
def page(saved):
    return Page(saved.read_text(encoding="utf-8"))


def test_the_page_is_well_formed_and_needs_no_other_file(saved, page):
    assert page.open == []
    assert page.loads
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.loads)
    assert not re.search(r"@import|url\(", saved.read_text(encoding="utf-8"))


def test_every_image_is_described_and_every_link_of_the_contents_leads_somewhere(page):
    assert len(page.images) == 6
    assert all(image["alt"] for image in page.images)
    assert page.anchors <= page.ids


def test_first_paragraph_says_what_how_large_how_sure_and_what_not(page, parts):
    headline = parts[1].headline
    text = page.first.replace("\N{NO-BREAK SPACE}", " ")
    assert "do not exist" in text
    assert "handcrafted or deep" in text
    assert "8 patients with lung metastasis from the 18 without" in text
    assert f"a difference of {abs(headline['difference']):.2f}" in text
    assert interval(headline["lower"], headline["upper"]) in text
    assert p_phrase(headline["p"]).replace("\N{NO-BREAK SPACE}", " ") in text
    assert "Not to be concluded. With only 8 patients in the smaller group" in text
    assert "5-fold cross-validation, repeated 3 times" in text


def test_nobody_is_lost(saved):
    excluded = pd.read_csv(saved.parent / "tables" / "excluded.csv").set_index("case_id")
    assert list(excluded.index) == ["lost", "silent"]
    assert not excluded["evaluated"].any()
    assert excluded.loc["lost", "message"] == "The mask is empty."
    assert "no reason was recorded" in excluded.loc["silent", "message"]
    text = saved.read_text(encoding="utf-8")
    assert "The mask is empty." in text
    assert re.search(r"Requested</th>\s*<td>28</td>", text)
    assert re.search(r"Evaluated</th>\s*<td>26</td>", text)


def test_tables_beside_the_page_are_unrounded(saved, parts):
    read = pd.read_csv(saved.parent / "tables" / "metrics.csv")
    pd.testing.assert_frame_equal(read, parts[2], check_exact=True, check_dtype=False)
    names = {path.stem for path in (saved.parent / "tables").glob("*.csv")}
    assert {"comparison", "models", "confusion", "roc_curves", "calibration", "cohort", "features_summary"} <= names


def test_figures_beside_the_page_are_vector_and_300_dpi(saved):
    import matplotlib.image

    for name in ("roc", "auc", "probabilities", "calibration"):
        assert (saved.parent / "figures" / f"{name}.svg").read_text(encoding="utf-8").startswith("<?xml")
        width = matplotlib.image.imread(saved.parent / "figures" / f"{name}.png").shape[1]
        assert width == pytest.approx(3.5 * 300, rel=0.1)


def test_folders_of_the_user_are_not_in_the_page(saved):
    text = html.unescape(saved.read_text(encoding="utf-8"))
    assert "private" not in text
    assert "cohort.csv" in text


def test_titles_and_names_are_escaped(saved):
    assert "Sarcoma &lt;study&gt;" in saved.read_text(encoding="utf-8")


def test_methods_follow_from_what_was_run(saved):
    text = html.unescape(saved.read_text(encoding="utf-8")).replace("\n", " ")
    for words in (
        "pyradiomics-cuda 1.0.4", "with 3 inner folds", "Seed: 20", "Holm's method", "20 shuffled outcomes",
        "doi:10.2307/2531595", "random forest", "averaged over repeats, never pooled",
    ):  # fmt: skip
        assert words in text, words


def test_further_parts_are_in_the_page_with_method_and_caution(saved, page):
    text = html.unescape(saved.read_text(encoding="utf-8"))
    for words in (
        "Do the models err on the same patients?", "doi:10.1186/1471-2288-13-91", "Cochran's Q",
        "Every declared pair with every classifier", "doi:10.1023/A:1024068626366", "Friedman's test",
        "critical difference", "can be positive for a marker that carries no information", "doi:10.1002/sim.4085",
    ):  # fmt: skip
        assert words in text, words
    assert {"agreement", "family", "reclassification"} <= page.ids
    names = {path.stem for path in (saved.parent / "tables").glob("*.csv")}
    assert {"agreement", "agreement_overall", "model_family", "model_ranks", "nemenyi", "reclassification"} <= names
    family = pd.read_csv(saved.parent / "tables" / "model_family.csv")
    assert len(family) == family["n_comparisons"].iloc[0] == 6


def test_options_of_the_fold_are_told_as_they_were_recorded(parts):
    from hybrid.analysis.methods import methods_sections
    from hybrid.analysis.references import Citations
    from hybrid.fold_options import fold_facts

    predictions, result, metrics = parts
    facts = fold_facts(selector="lasso", harmonise="scanner", imbalance="class_weight", max_features=7)
    texts = [
        dict(methods_sections(predictions, metrics, result, {**RECORD, "in_fold": found}, Citations(), level=0.95,
                              is_table_one=False))["Preprocessing"]
        for found in (facts, fold_facts())
    ]  # fmt: skip
    for words in ("the lasso", "values of scanner by ComBat", "left unadjusted", "weighted inversely", "at most 7"):
        assert words in texts[0], words
        assert words not in texts[1], words
    assert "those whose own AUC lies furthest from 0.5" in texts[1]


def test_external_performance_stands_beside_the_internal_one(small_predictions, tmp_path):
    from hybrid.analysis.validation import measure_validation

    model = small_predictions.query("feature_set == 'deep' and classifier == 'selected'")
    internal = measure_validation(model, **FAST)
    external = model.query("repeat == 0").assign(split="external", fold=0)
    report = Report(None, None, external, internal=internal, title="External", **FAST)
    text = report.save(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Does the model do in new patients what it promised?" in text
    assert "validation" in Page(text).ids
    table = pd.read_csv(tmp_path / "tables" / "validation.csv").set_index("metric")
    assert table.loc["auc", "internal"] == internal.set_index("metric").loc["auc", "estimate"]


def test_a_second_save_gives_the_same_bytes(parts, tmp_path):
    predictions, result, metrics = parts
    pages = [
        Report(None, None, predictions, result, metrics=metrics, **FAST).save(tmp_path / name / "r.html").read_bytes()
        for name in ("a", "b")
    ]
    assert pages[0] == pages[1]


def test_predictions_alone_are_enough(tmp_path):
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 15)
    table = pd.DataFrame(
        {"case_id": [f"c{i}" for i in range(30)], "y_true": y, "y_prob": rng.random(30) * 0.6 + 0.3 * y}
    )
    page = Page(Report(None, None, table, **FAST).save(tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "predictions were taken as given" in page.first
    assert "Simulated" not in page.first


def test_external_validation_is_called_so(small_predictions, tmp_path):
    model = small_predictions.query("feature_set == 'deep' and classifier == 'selected' and repeat == 0")
    report = Report(None, None, model.assign(split="external", fold=0), title="External", **FAST)
    text = report.save(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "new to the models" in Page(text).first
    assert "applied unchanged to new patients" in text
    assert "another hospital" not in Page(text).first


def test_a_baseline_that_does_as_well_is_said_in_the_first_paragraph(make_predictions, tmp_path):
    table = make_predictions(feature_sets=("noise", "deep", "volume"), classifiers=("selected",), repeats=2, seed=2)
    volume = table["feature_set"] == "volume"
    table.loc[volume, "y_prob"] = 0.1 + 0.8 * table.loc[volume, "y_true"]
    result = compare_models(table, contrast=[("noise", "deep")], baselines=["volume"], **FAST)
    report = Report(None, None, table, result, baselines=["volume"], **FAST)
    page = Page(report.save(tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "volume (1.00) did no worse than the models" in page.first


def test_a_clear_difference_is_said_plainly_but_its_size_is_not_promised(make_predictions, tmp_path):
    table = make_predictions(n=300, n_events=150, feature_sets=("fused", "noise"), classifiers=("selected",), repeats=1)
    result = compare_models(table, contrast=[("fused", "noise")], **FAST)
    page = Page(Report(None, None, table, result, **FAST).save(tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "fused did better in these patients" in page.first
    assert "the difference is as large as measured here" in page.first
    assert "equally good" not in page.first
    assert "With only" not in page.first


def test_exploratory_comparisons_never_name_a_winner(make_predictions, tmp_path):
    table = make_predictions(classifiers=("logistic", "knn"), repeats=1)
    result = compare_models(table, **FAST)
    page = Page(Report(None, None, table, result, **FAST).save(tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "No comparison was declared beforehand" in page.first
    assert "in favour" not in page.first


def test_a_tiny_study_still_makes_a_report(tmp_path):
    table = pd.DataFrame(
        {"case_id": list("abc") * 2, "feature_set": ["x"] * 3 + ["y"] * 3, "y_true": [0, 0, 1] * 2,
         "y_prob": [0.1, 0.7, 0.5, 0.2, 0.3, 0.9]}
    )  # fmt: skip
    page = Page(
        Report(None, None, table, compare_models(table, **FAST), **FAST).save(tmp_path / "r.html").read_text("utf-8")
    )
    assert "nan" not in page.first.lower().split()
    assert "no statement about chance is possible" in page.first


def test_empty_failures_table_without_columns_is_accepted(parts, tmp_path):
    predictions, result, metrics = parts
    report = Report(None, None, predictions, result, metrics=metrics, failures=pd.DataFrame([]), **FAST)
    assert "No case failed" in report.save(tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_cohort_object_is_accepted(parts, make_cohort, tmp_path):
    from hybrid.cases import Cohort

    predictions, result, metrics = parts
    cohort = Cohort.from_frame(make_cohort(predictions))
    report = Report(cohort, None, predictions, result, metrics=metrics, **FAST)
    assert "Table 1" in report.save(tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_folder_in_place_of_a_file_is_refused(parts, tmp_path):
    with pytest.raises(InputError, match="needs a file name"):
        Report(None, None, parts[0], parts[1], metrics=parts[2]).save(tmp_path)


def test_one_class_is_refused_when_the_report_is_made(small_predictions):
    with pytest.raises(InputError, match="one class only"):
        Report(None, None, small_predictions.assign(y_true=0))


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0004, "< 0.001"), (0.0042, "0.004"), (0.031, "0.03"), (0.049, "0.049"), (0.0501, "0.050"), (0.5, "0.50"),
     (0.999, "> 0.99"), (np.nan, "–")],
)  # fmt: skip
def test_p_values_are_written_as_in_journals(p, text):
    assert p_value(p) == text


def test_numbers_never_show_a_minus_zero():
    assert number(-0.001) == "0.00"
    assert number(-0.126) == "−0.13"
    assert interval(-0.2, 0.3) == "−0.20 to 0.30"
    assert interval(0.5, 0.75) == "0.50–0.75"


def test_absolute_paths_are_shortened_and_nothing_else():
    value = {"a": "/x/y/z.csv", "b": ["C:\\data\\t.xlsx", "ct", 0.5], "c": {"d": "rel/path.csv"}}
    assert short_path(value) == {"a": "z.csv", "b": ["t.xlsx", "ct", 0.5], "c": {"d": "rel/path.csv"}}


def test_patients_are_described_by_outcome_and_by_split_with_tests(parts, make_cohort, tmp_path):
    predictions, result, metrics = parts
    cohort = make_cohort(predictions)
    cohort["split"] = np.where(np.arange(len(cohort)) < 16, "train", "test")
    report = Report(cohort, None, predictions, result, metrics=metrics, **FAST)
    tables = report.tables()
    for name, groups in (("cohort", {"0", "1"}), ("cohort_by_split", {"train", "test"})):
        own = tables[name].set_index(["variable", "group"])
        assert groups | {"all"} == set(tables[name]["group"])
        assert own.loc[("age", "all"), "test_name"] == "Mann-Whitney test"
        assert 0 < own.loc[("age", "all"), "p"] < 1
        assert own.loc[("age", "all"), "smd"] > 0
    text = html.unescape(report.save(tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "The patients by split" in text
    assert text.index(">Training<") < text.index(">Test<")
    assert "Mann-Whitney test between two groups" in text


def test_development_patients_stand_beside_the_new_ones(parts, make_cohort):
    predictions, _, metrics = parts
    cohort = make_cohort(predictions)
    old = cohort.assign(case_id="old" + cohort["case_id"], patient_id="old" + cohort["patient_id"], age=90.0)
    report = Report(cohort, None, predictions, None, metrics=metrics, development=old, **FAST)
    own = report.tables()["cohort_by_split"].set_index(["variable", "group"])
    assert own.loc[("age", "internal"), "mean"] == 90
    assert own.loc[("patients", "external"), "count"] == 26
    assert own.loc[("age", "internal"), "p"] < 1e-6


@pytest.mark.parametrize(
    ("lower", "upper", "where"),
    [(0.51, 0.7, "lies above"), (0.27, 0.54, "includes"), (0.2, 0.45, "lies below"), (0.5, 0.7, "includes")],
)
def test_an_interval_below_chance_is_not_said_to_reach_down_to_it(lower, upper, where):
    assert beside_chance(pd.Series({"lower": lower, "upper": upper})) == where
