"""Tables as the report shows them: rounded, worded, grouped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from hybrid.tables import SELECTED

from .compare import (
    HEADLINE,
    MODEL,
    REFERENCE_CLASSIFIERS,
    Comparison,
    is_reference,
    reference_name,
)
from .describe import ALL, format_description
from .metrics import AVERAGED_AUC
from .wording import MISSING, interval, number, p_value, percent

RANKING: Final = ("auc", AVERAGED_AUC, "accuracy", "balanced_accuracy", "brier")
CALLS: Final = ("sensitivity", "specificity", "ppv", "npv", "f1", "kappa")
YARDSTICKS: Final = "Yardsticks"
"""Heading of the rows of trivial, majority and clinical models."""

METRIC_NAMES: Final = {
    "auc": "AUC",
    AVERAGED_AUC: "AUC, averaged probability",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "brier": "Brier",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "f1": "F1",
    "kappa": "Kappa",
}


@dataclass(frozen=True)
class Cell:
    """A table cell: the value, and smaller text below it."""

    text: str
    below: str = ""


@dataclass(frozen=True)
class Row:
    """A table row; ``kind`` is ``""``, ``"group"`` (a heading), ``"strong"`` or ``"quiet"``."""

    cells: Sequence[Cell]
    kind: str = ""


@dataclass(frozen=True)
class View:
    """A table as the template shows it: the first ``n_names`` columns are names, the others numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Row] = ()
    note: str = ""
    n_names: int = 1


def metrics_view(metrics: pd.DataFrame, shown: Sequence[str], baselines: Sequence[str], null: pd.DataFrame) -> View:
    """Build a table of some metrics of every model; ``null`` comes from ``compare.summarise_null``."""
    wide = metrics.set_index(["feature_set", "classifier", "metric"])
    models = list(dict.fromkeys(zip(metrics["feature_set"], metrics["classifier"], strict=True)))
    rows: list[Row] = []
    previous = None
    for group, model, name in _ordered_models(models, baselines):
        if group != previous:
            rows.append(Row([Cell(group)], "group"))
            previous = group
        cells = [Cell(name), *(_metric_cell(wide.loc[(*model, metric)]) for metric in shown)]
        rows.append(Row(cells, "strong" if model[1] == SELECTED and group != YARDSTICKS else ""))
    is_ranking = "auc" in shown
    if is_ranking and len(null):
        rows += [*([] if previous == YARDSTICKS else [Row([Cell(YARDSTICKS)], "group")]), *_null_rows(null, len(shown))]
    columns = ["Model", *(METRIC_NAMES[metric] for metric in shown)]
    return View(_RANKING_CAPTION if is_ranking else _CALLS_CAPTION, columns, rows, _metric_note(metrics, shown))


def _null_rows(null: pd.DataFrame, n_metrics: int) -> list[Row]:
    """Rows of the permutation null; the AUC is the first metric."""
    return [
        Row(
            [
                Cell(f"{row.feature_set}, outcomes shuffled"),
                Cell(number(row.null_mean), _below(row.null_lower, row.null_upper)),
            ]
            + [Cell(MISSING)] * (n_metrics - 1)
        )
        for row in null.itertuples()
    ]


_RANKING_CAPTION: Final = "Discrimination and overall performance of every model (estimate, interval below)"
_CALLS_CAPTION: Final = "Performance at the cut-off chosen on training patients (estimate, interval below)"


def _metric_note(metrics: pd.DataFrame, shown: Sequence[str]) -> str:
    methods = metrics[metrics["metric"].isin(shown)]["method"].astype(str)
    kinds = [text[0].upper() + text[1:] for text in dict.fromkeys(methods)]
    note = f"{'. '.join(kinds)}." if kinds else ""
    if any(metric in shown for metric in CALLS):
        note += f" {MISSING}: not defined, because nobody was called positive (or negative)."
    return (
        note + " All rows but the declared comparison are exploratory; the best of many rows looks better than it is."
    )


def _metric_cell(row: pd.Series) -> Cell:
    return Cell(number(row["estimate"]), _below(row["lower"], row["upper"]))


def _below(lower: float, upper: float) -> str:
    text = interval(float(lower), float(upper))
    return "" if text == MISSING else text


def _ordered_models(
    models: Sequence[tuple[str, str]], baselines: Sequence[str]
) -> list[tuple[str, tuple[str, str], str]]:
    """Group heading, model and row name; contenders by feature set first, yardsticks last and each once."""
    ordered = []
    contenders = [model for model in models if not is_reference(model, baselines)]
    for feature_set in dict.fromkeys(name for name, _ in contenders):
        own = [model for model in contenders if model[0] == feature_set]
        own.sort(key=lambda model: model[1] != SELECTED)
        ordered += [(feature_set, model, _classifier_name(model[1])) for model in own]
    references = [model for model in models if is_reference(model, baselines)]
    selected = {feature_set for feature_set, classifier in references if classifier == SELECTED}
    seen = set()
    for model in references:
        feature_set, classifier = model
        if classifier not in REFERENCE_CLASSIFIERS and feature_set in selected and classifier != SELECTED:
            continue
        name = reference_name(model)
        if name not in seen:
            seen.add(name)
            ordered.append((YARDSTICKS, model, name))
    return ordered


def _classifier_name(name: str) -> str:
    return "selected in the inner loop" if name == SELECTED else name


def comparison_view(result: Comparison | None) -> View | None:
    """Build the table of paired comparisons, rounded for readers."""
    if result is None or result.table.empty:
        return None
    bounds = {
        (row.feature_set, row.classifier): _below(row.lower, row.upper) for row in result.models.itertuples()
    }  # fmt: skip
    rows = []
    for _, row in result.table.iterrows():
        is_headline = row["role"] == HEADLINE
        role = "headline, declared beforehand" if is_headline else row["role"]
        cells = [
            Cell(f"{row['model_a']} − {row['model_b']}", role),
            *(
                Cell(number(row[f"auc_{side}"]), bounds[row[f"feature_set_{side}"], row[f"classifier_{side}"]])
                for side in "ab"
            ),
            Cell(number(row["difference"]), _below(row["lower"], row["upper"])),
            Cell(number(row["delong_difference"]), _below(row["delong_lower"], row["delong_upper"])),
            Cell(p_value(row["p"])), Cell(p_value(row["p_holm"])),
        ]  # fmt: skip
        rows.append(Row(cells, "strong" if is_headline else ""))
    columns = ["A − B", "AUC A", "AUC B", "Difference", "Difference, averaged probability", "p", "p, Holm"]
    methods = "; ".join(dict.fromkeys(result.table["p_method"].astype(str)))
    first = result.table.iloc[0]
    family = f"Holm over {int(first['n_comparisons'])} comparison(s)"
    note = (
        f"{int(first['n_patients'])} patients, {int(first['n_events'])} with the event, {int(first['n_repeats'])} "
        f"repeats. AUC: {result.models['method'].iloc[0]}. Difference: {first['interval_method']}. Averaged "
        f"probability: DeLong's interval. p: {methods}; two-sided; {family}."
    )
    return View("Paired differences of the AUC", columns, rows, note)


def models_view(result: Comparison | None) -> View | None:
    """Build the table of compared models with yardsticks and permutation null, rounded for readers."""
    if result is None:
        return None
    with_null = result.models["n_permutations"].max() > 0
    rows = []
    for role, part in result.models.groupby("role", sort=False):
        rows.append(Row([Cell("Models" if role == MODEL else YARDSTICKS)], "group"))
        for _, row in part.iterrows():
            cells = [Cell(row["model"]), Cell(number(row["auc"]), _below(row["lower"], row["upper"]))]
            if with_null:
                cells.append(Cell(number(row["null_mean"]), _below(row["null_lower"], row["null_upper"])))
            rows.append(Row(cells))
    columns = ["Model", "AUC", *(["AUC, shuffled outcome"] if with_null else [])]
    note = f"AUC: {'; '.join(dict.fromkeys(result.models['method']))}."
    if with_null:
        note += (
            f" Shuffled outcome: mean and central {percent(result.level)} of "
            f"{int(result.models['n_permutations'].max())} permutations of the whole procedure."
        )
    return View("AUC of the compared models beside what trivial rules and chance reach", columns, rows, note)


SPLIT_NAMES: Final = {
    "train": "Training", "validation": "Validation", "test": "Test", "internal": "Development", "external": "External",
}  # fmt: skip
"""Splits in words; others are shown as they are."""


def description_view(
    description: pd.DataFrame | None, outcome: str, title: str = "Table 1. All requested patients"
) -> View | None:
    """Build Table 1 as text.

    Parameters
    ----------
    description : DataFrame or None
        From :func:`~hybrid.analysis.describe_cohort` or :func:`~hybrid.analysis.describe_by_split`.
    outcome : str
        What the groups are values of; empty when they are splits.
    title : str
        Of the table.
    """
    if description is None or description.empty:
        return None
    text = format_description(description)
    groups = [column for column in text.columns if column not in _BESIDE_GROUPS]
    names = ["All", *(f"{outcome}: {g}" if outcome else SPLIT_NAMES.get(g, g) for g in groups if g != ALL)]
    with_smd, with_p = text["smd"].ne("").any(), "p" in text.columns and text["p"].ne("").any()
    rows, previous = [], None
    for row in text.to_dict("records"):
        label = row["variable"].replace("_", " ") if row["variable"] != previous else ""
        previous = row["variable"]
        cells = [Cell(label), Cell(row["level"]), *(_stacked(row[group]) for group in groups), Cell(row["missing"])]
        more = [*(["smd"] if with_smd else []), *(["p"] if with_p else [])]
        rows.append(Row([*cells, *(Cell(row[name] if label else "") for name in more)]))
    columns = ["Variable", "Level", *names, "Missing", *(["SMD"] if with_smd else []), *(["p"] if with_p else [])]
    note = "Mean (SD); median [quartiles], or count (percent of known values)."
    if with_smd:
        which = "the two groups" if len(groups) <= 3 else "those two groups that differ most"
        note += f" SMD: standardised mean difference between {which} (Austin 2009)."
    tests = _test_names(description) if with_p else []
    if tests:
        note += f" p: {'; '.join(tests)}; not adjusted for their number."
    return View(title, columns, rows, note, n_names=2)


def _test_names(description: pd.DataFrame) -> list[str]:
    """List the tests of a description in the order of their first use."""
    if "test_name" not in description.columns:
        return []
    return [str(name) for name in dict.fromkeys(description["test_name"].dropna()) if str(name)]


_BESIDE_GROUPS: Final = ("variable", "level", "missing", "smd", "test_name", "p")
"""Columns of Table 1 that are no groups of patients."""


def _stacked(text: str) -> Cell:
    """Show mean (SD) with median [quartiles] below."""
    first, _, second = text.partition("; ")
    return Cell(first, second)


def excluded_view(excluded: pd.DataFrame) -> View | None:
    """Build the table of failed and excluded cases."""
    if excluded.empty:
        return None
    rows = [
        Row([Cell(row.case_id), Cell("yes" if row.evaluated else "no"), Cell(row.stage or MISSING),
             Cell(row.message, row.advice)])
        for row in excluded.itertuples()
    ]  # fmt: skip
    note = (
        "A case that is evaluated although a part of its features failed was completed by imputation inside the folds."
    )
    return View(
        "Cases that failed or were not evaluated", ["Case", "Evaluated", "Stage", "Reason"], rows, note, n_names=4
    )


def problems_view(problems: pd.DataFrame) -> View | None:
    """Build the table of problems that the check of the input found."""
    if problems.empty:
        return None
    rows = [
        Row([Cell(str(row.case_id) or "cohort"), Cell(str(row.severity)), Cell(str(row.problem), str(row.advice))])
        for row in problems.itertuples()
    ]  # fmt: skip
    return View("Problems found in the input", ["Case", "Severity", "Problem"], rows, n_names=3)


LISTED: Final = 20
"""Failures that a page lists; the others are in ``failures.csv``."""


def failures_view(failures: pd.DataFrame | None, caption: str) -> View | None:
    """Build the table of cases that failed: the first :data:`LISTED`, and how many there are."""
    if failures is None or failures.empty:
        return None
    rows = [
        Row([Cell(str(row["case_id"])), Cell(str(row["message"])), Cell(str(row["advice"]))])
        for row in failures.head(LISTED).to_dict("records")
    ]
    note = "" if len(failures) <= LISTED else f"The first {LISTED} of {len(failures)}; see failures.csv."
    return View(caption, ["Case", "Problem", "What to do"], rows, note, 3)


def features_view(summary: pd.DataFrame | None) -> View | None:
    """Build the summary of features."""
    if summary is None or summary.empty:
        return None
    with_image = summary["image"].ne("").any()
    rows = []
    for row in summary.itertuples():
        cells = [Cell(row.family), *([Cell(row.image or MISSING)] if with_image else [])]
        numbers = (row.n_features, row.n_rows, row.n_rows_without_values, row.n_missing_cells, row.n_constant)
        rows.append(Row([*cells, *(Cell(f"{value}") for value in numbers)]))
    columns = ["Family", *(["Image"] if with_image else []), "Features", "Rows", "Rows without values", "Missing cells",
               "Constant features"]  # fmt: skip
    return View("Features by family", columns, rows, n_names=2 if with_image else 1)


DECISION_NOTE: Final = (
    "Decision curves (Vickers and Elkin 2006, doi:10.1177/0272989X06295361) say whether acting on a model does more "
    "good than harm at a given threshold risk; they assume calibrated probabilities and say nothing outside thresholds "
    "that a clinician would use."
)
"""How to read decision curves."""

CALIBRATION_NAMES: Final = {
    "slope": "Slope", "intercept": "Intercept", "calibration_in_the_large": "In the large",
    "scaled_brier": "Scaled Brier", "ici": "ICI", "e50": "E50", "e90": "E90",
}  # fmt: skip


def calibration_view(metrics: pd.DataFrame) -> View:
    """Build a table of the main calibration measures from :func:`~hybrid.analysis.calibration_metrics`."""
    from .plots import model_names

    wide = metrics.set_index(["feature_set", "classifier", "metric"])
    models = list(dict.fromkeys(zip(metrics["feature_set"], metrics["classifier"], strict=True)))
    rows = []
    for model, name in zip(models, model_names(models), strict=True):
        chosen = [wide.loc[(*model, metric)] for metric in CALIBRATION_NAMES]
        rows.append(Row([Cell(name), *(Cell(number(r["estimate"]), _below(r["lower"], r["upper"])) for r in chosen)]))
    smoother = next(iter(metrics.loc[metrics["metric"] == "ici", "smoother"]), "")
    note = (
        "Slope: 1 is ideal, below 1 means that the probabilities are too extreme. Intercept: of the same line; 0 is "
        "ideal. In the large: the intercept when the slope is held at 1; above 0 means that risks are too low on "
        "average. Scaled Brier: 1 perfect, 0 no better than the prevalence. ICI: mean distance between predicted and "
        f"smoothed observed risk ({smoother}); E50 and E90: its median and 90th percentile; all three are too large in "
        "small cohorts (Austin and Steyerberg 2019, doi:10.1002/sim.8281). Means over repeats."
    )
    return View("Calibration", ["Model", *CALIBRATION_NAMES.values()], rows, note)


def design_view(design: pd.DataFrame | None) -> View | None:
    """Build a table of what was checked before training; findings that need attention come first."""
    if design is None or design.empty:
        return None
    order = {"error": 0, "warning": 1, "info": 2}
    ordered = design.sort_values("level", key=lambda level: level.map(order), kind="stable")
    rows = [
        Row([Cell(str(row["level"]).capitalize()), Cell(str(row["finding"])), Cell(str(row["advice"]))],
            "strong" if row["level"] == "error" else "")
        for row in ordered.to_dict("records")
    ]  # fmt: skip
    return View("Checks before training", ["Level", "Finding", "Advice"], rows, n_names=3)


MEASURE_NAMES: Final = {
    **METRIC_NAMES, "slope": "Calibration slope", "calibration_in_the_large": "Calibration in the large",
    "observed_expected_ratio": "Observed / expected events", "scaled_brier": "Scaled Brier", "ici": "ICI",
}  # fmt: skip
"""Measures of discrimination, calls and calibration in words."""


def validation_auc_view(table: pd.DataFrame) -> View:
    """Build the table of the unpaired test of internal and external AUC."""
    rows = []
    for row in table.to_dict("records"):
        difference = Cell(number(row["difference"]), _below(row["lower"], row["upper"]))
        counts = (f"{int(row[f'n_{side}'])} ({int(row[f'events_{side}'])})" for side in _SIDES)
        aucs = (Cell(number(row[f"auc_{side}"]), count) for side, count in zip(_SIDES, counts, strict=True))
        name = " / ".join((str(row["feature_set"]), str(row["classifier"])))
        rows.append(Row([Cell(name), *aucs, difference, Cell(p_value(row["p"]))]))
    note = (
        f"One probability per patient, averaged over repeats; below each AUC: patients (with the event). Difference: "
        f"external minus internal. {table['method'].iloc[0]}; two-sided. It asks whether the AUC differs, not whether "
        "the external one is good enough, and it ignores that cross-validated patients share training patients."
    )
    return View("AUC in new patients against the internal one", ["Model", "Internal", "External", "Difference", "p"],
                rows, note)  # fmt: skip


def validation_view(tables: Mapping[str, pd.DataFrame]) -> View:
    """Build the table of internal and external performance side by side."""
    table = tables["validation"]
    several = table[["feature_set", "classifier"]].drop_duplicates().shape[0] > 1
    rows: list[Row] = []
    for model, part in table.groupby(["feature_set", "classifier"], sort=False):
        if several:
            rows.append(Row([Cell(" / ".join(map(str, model)))], "group"))
        first = part.iloc[0]
        rows.append(
            Row([Cell("Patients (with the event)"),
                 *(Cell(f"{int(first[f'n_{side}'])} ({int(first[f'events_{side}'])})") for side in _SIDES), Cell("")])
        )  # fmt: skip
        for row in part.to_dict("records"):
            cells = [
                Cell(number(row[side]), _below(row[f"{side}_lower"], row[f"{side}_upper"])) for side in _SIDES
            ]  # fmt: skip
            difference = Cell(number(row["difference"]), _below(row["lower"], row["upper"]))
            rows.append(Row([Cell(MEASURE_NAMES.get(str(row["metric"]), str(row["metric"]))), *cells, difference]))
    note = (
        f"Internal: cross-validation of the whole procedure. Difference: {table['method'].iloc[0]}. Predictive values "
        "and the Brier score also change when the event is more or less common."
    )
    return View("Performance of the frozen model", ["Measure", "Internal", "External", "Difference"], rows, note)


_SIDES: Final = ("internal", "external")


def agreement_view(tables: Mapping[str, pd.DataFrame], level: float) -> View:
    """Build the table of calls of pairs of models on the same patients."""
    table = tables["agreement"]
    rows = [
        Row([
            Cell(f"{row['model_a']} and {row['model_b']}"), Cell(number(row["accuracy_a"])),
            Cell(number(row["accuracy_b"])), Cell(number(row["difference"]), _below(row["lower"], row["upper"])),
            Cell(f"{row['only_a_right']} / {row['only_b_right']}"), Cell(p_value(row["p_mid_p"])),
            Cell(p_value(row["p_exact"])), Cell(p_value(row["p_corrected"])), Cell(p_value(row["p_holm"])),
            Cell(number(row["kappa"]), _below(row["kappa_lower"], row["kappa_upper"])),
        ])
        for row in table.to_dict("records")
    ]  # fmt: skip
    columns = ["A and B", "Accuracy A", "Accuracy B", "Difference", "Only A / B right", "Mid-p", "Exact p",
               "Corrected p", "Holm p", "Kappa"]  # fmt: skip
    first = table.iloc[0]
    note = (
        f"{int(first['n_patients'])} patients, one call each (the majority of the repeats, each at the cut-off chosen "
        f"on training patients). Below: {percent(level)} intervals. {first['method']}. Difference: adjusted Wald "
        "interval (Bonett and Price 2012, doi:10.3102/1076998611411915). Corrected: McNemar's chi-square with a "
        "continuity correction, which is cautious. Holm over "
        f"{int(first['n_comparisons'])} comparison(s), mid-p. Kappa: agreement of the two models' calls beyond chance, "
        "1 is full agreement."
    )
    if "agreement_overall" in tables:
        overall = tables["agreement_overall"].iloc[0]
        note += (
            f" All {int(overall['n_models'])} models together, {overall['method']}: Q = {number(overall['q'])}, "
            f"{int(overall['df'])} degrees of freedom, p {_equals(overall['p'])} ({int(overall['n_informative'])} "
            "patients on whom they do not all agree)."
        )
    return View("Calls of two models on the same patients", columns, rows, note)


def _equals(p: float) -> str:
    """Format a p-value behind the letter p."""
    text = p_value(p)
    return text if text[0] in "<>" else f"= {text}"


def family_view(tables: Mapping[str, pd.DataFrame], level: float) -> View | None:
    """Build the table of all pairs of the family of models; None when it was not computed."""
    table = tables.get("model_family")
    if table is None or table.empty:
        return None
    rows: list[Row] = []
    for classifier, part in table.groupby("classifier_a", sort=False):
        rows.append(Row([Cell(_classifier_name(str(classifier)))], "group"))
        for row in part.to_dict("records"):
            shares = [number(row[name]) for name in ("p_a_better", "p_equivalent", "p_b_better")]
            rows.append(
                Row([Cell(f"{row['feature_set_a']} − {row['feature_set_b']}"),
                     Cell(number(row["difference"]), _below(row["lower"], row["upper"])), Cell(number(row["t"])),
                     *(Cell(p_value(row[name])) for name in ("p", "p_holm", "p_hochberg", "p_benjamini_hochberg")),
                     *map(Cell, shares)])
            )  # fmt: skip
    first = table.iloc[0]
    columns = ["A − B", "Difference of the AUC", "t", "p", "p, Holm", "p, Hochberg", "p, BH", "A better", "Equivalent",
               "B better"]  # fmt: skip
    methods = table["method"].dropna()
    note = (
        f"Mean over {int(first['n_folds'])} test folds (about {int(first['n_train'])} training and "
        f"{int(first['n_test'])} test patients; {int(first['n_folds_left_out'])} folds without both outcomes left "
        f"out), with a {percent(level)} interval. {methods.iloc[0] if len(methods) else 'No test is defined'}. Holm "
        f"and Hochberg (1988, doi:10.1093/biomet/75.4.800) hold the chance of any false claim, BH (Benjamini and "
        f"Hochberg 1995, doi:10.1111/j.2517-6161.1995.tb02031.x) the share of false claims, all over the whole family "
        f"of {int(first['n_comparisons'])} comparisons. Better, equivalent: posterior "
        f"probabilities; differences below {number(first['rope'])} count as equivalent. AUCs of small folds are "
        "coarse: the declared comparison above is the one to cite."
    )
    return View("Every declared pair with every classifier", columns, rows, note)


def ranks_view(tables: Mapping[str, pd.DataFrame]) -> View | None:
    """Build the table of mean ranks with Friedman's test; None when it was not computed."""
    table = tables.get("model_ranks")
    if table is None:
        return None
    rows = [
        Row([Cell(row["model"]), Cell(number(row["mean_rank"])), Cell(number(row["mean_squared_error"], 3))])
        for row in table.to_dict("records")
    ]
    first, critical = table.iloc[0], float(tables["nemenyi"]["critical_difference"].iloc[0])
    test = f"F({int(first['df1'])}, {int(first['df2'])}) = {number(first['f'])}, p {_equals(first['p'])}"
    note = (
        f"{first['method']}: {test}. Mean ranks that differ by {number(critical)} or more differ by Nemenyi's test "
        f"(Demsar 2006, J Mach Learn Res 7:1). Blocks are the {int(first['n_blocks'])} patients, never folds; that "
        "they were predicted by models with overlapping training sets is ignored. Small and consistent differences can "
        "rank first without mattering."
    )
    return View("Models ranked by the squared error of each patient", ["Model", "Mean rank", "Brier"], rows, note)


def reclassification_view(table: pd.DataFrame, level: float) -> View:
    """Build a table of NRI and IDI; without p-values, which are not valid."""
    kind = str(table.loc[table["measure"] == "nri", "method"].iloc[0]).split(";")[0]
    is_continuous = kind == "continuous"
    shown = _RECLASSIFIED if is_continuous else {k: text for k, text in _RECLASSIFIED.items() if k.startswith("nri")}
    rows = []
    for (reference, new), part in table.groupby(["model_reference", "model_new"], sort=False):
        values = part.set_index("measure")
        cells = [
            Cell(number(values.loc[name, "estimate"]),
                 _below(values.loc[name, "bootstrap_lower"], values.loc[name, "bootstrap_upper"]))
            for name in shown
        ]  # fmt: skip
        rows.append(Row([Cell(f"{reference} → {new}"), *cells]))
    what = _CONTINUOUS if is_continuous else f"Categorical NRI: {kind}, declared beforehand (−2 to 2)"
    source = "Pencina et al. 2008 (doi:10.1002/sim.2929) and 2011 (doi:10.1002/sim.4085)"
    note = f"{what}; {percent(level)} percentile bootstrap intervals of patients. {source}."
    caption = "Change of the predicted risk" if is_continuous else "Change of the risk category"
    return View(caption, ["Reference → new", *shown.values()], rows, note)


_CONTINUOUS: Final = "Continuous NRI (any change of the predicted risk counts; −2 to 2)"

_RECLASSIFIED: Final = {
    "nri_events": "NRI, with event", "nri_nonevents": "NRI, without", "nri": "NRI, sum",
    "idi_events": "IDI, with event", "idi_nonevents": "IDI, without", "idi": "IDI, sum",
}  # fmt: skip
