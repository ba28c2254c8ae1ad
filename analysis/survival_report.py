"""One self-contained HTML report of a survival study, with its figures and tables."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.files import write_text

from .figures import Album, Picture, write_tables
from .pages import render
from .survival_calibration import calibrate_survival, calibration_groups, compare_survival_validation
from .survival_curves import kaplan_meier, median_survival
from .survival_panel import GROUPS, horizon_columns
from .survival_plots import NAMES, plot_brier, plot_kaplan_meier, plot_survival_auc, plot_survival_calibration
from .survival_tables import (
    compare_risk_groups,
    compare_survival,
    evaluate_survival,
    risk_groups,
)
from .survival_views import calibration_view, survival_validation_view, with_bounds
from .views import Cell, Row, View
from .wording import MISSING, joined, number, p_phrase, p_value, settings_text, versions_text, with_interval

FEW_EVENTS: Final = 10
EVENTS_PER_PARAMETER: Final = 10
SHOWN_HORIZONS: Final = 5
"""Most horizons in one table of the report; the files hold all."""

YARDSTICKS: Final = "Yardsticks"

REFERENCES: Final = {
    "cox": ("Cox. Regression models and life-tables. J R Stat Soc B 1972", "10.1111/j.2517-6161.1972.tb00899.x"),
    "net": (
        "Simon et al. Regularization paths for Cox's proportional hazards model via coordinate descent. "
        "J Stat Softw 2011",
        "10.18637/jss.v039.i05",
    ),
    "efron": (
        "Efron. The efficiency of Cox's likelihood function for censored data. J Am Stat Assoc 1977",
        "10.1080/01621459.1977.10480613",
    ),
    "harrell": (
        "Harrell et al. Multivariable prognostic models. Stat Med 1996",
        "10.1002/(SICI)1097-0258(19960229)15:4<361::AID-SIM168>3.0.CO;2-4",
    ),
    "uno": ("Uno et al. On the C-statistics for evaluating overall adequacy. Stat Med 2011", "10.1002/sim.4154"),
    "blanche": (
        "Blanche et al. Estimating and comparing time-dependent areas under ROC curves. Stat Med 2013",
        "10.1002/sim.5958",
    ),
    "graf": (
        "Graf et al. Assessment and comparison of prognostic classification schemes for survival data. Stat Med 1999",
        "10.1002/(SICI)1097-0258(19990915/30)18:17/18<2529::AID-SIM274>3.0.CO;2-5",
    ),
    "km": ("Kaplan, Meier. Nonparametric estimation from incomplete observations. J Am Stat Assoc 1958",
           "10.1080/01621459.1958.10501452"),
    "schemper": ("Schemper, Smith. A note on quantifying follow-up in studies of failure time. Control Clin Trials "
                 "1996", "10.1016/0197-2456(96)00075-X"),
    "cv": (
        "Simon et al. Using cross-validation to evaluate predictive accuracy of survival risk classifiers. "
        "Brief Bioinform 2011",
        "10.1093/bib/bbr001",
    ),
    "bca": ("Efron. Better bootstrap confidence intervals. J Am Stat Assoc 1987", "10.1080/01621459.1987.10478410"),
    "epv": (
        "Peduzzi et al. Importance of events per independent variable in proportional hazards regression analysis II. "
        "J Clin Epidemiol 1995",
        "10.1016/0895-4356(95)00048-8",
    ),
}  # fmt: skip
"""Citation and DOI of every method of the report, in the order of their numbers."""


def cite(*keys: str) -> str:
    """Numbers of some references, for example ``"[3, 4]"``."""
    order = list(REFERENCES)
    return f"[{', '.join(str(order.index(key) + 1) for key in keys)}]"


class SurvivalReport:
    """Which features foretell the event, how well, and for whom.

    Parameters
    ----------
    predictions : DataFrame
        See :data:`hybrid.analysis.survival.SURVIVAL_COLUMNS`.
    design : DataFrame, optional
        ``feature_set, n_columns, n_parameters, events_in_training, events_per_parameter``.
    null : DataFrame, optional
        ``feature_set, permutation, c_index, chi2`` of shuffled follow-up.
    pairs : sequence of (str, str), optional
        Declared comparisons; by default all pairs of feature sets, and each against clinical and volume baselines.
    baselines : sequence of str
        Feature sets that are yardsticks.
    left_out : sequence of mapping
        ``case_id, reason`` of cases that could not be used.
    time_unit : str
        Unit of the follow-up, for axes and sentences.
    title : str
        Heading.
    simulated : bool
        Said at the top.
    run_record : mapping, optional
        Settings and versions.
    internal : DataFrame, optional
        Of frozen models whose predictions for new patients are reported: rows of
        :func:`hybrid.analysis.evaluate_survival` and :func:`hybrid.analysis.calibrate_survival` of their development.
    is_external : bool
        Whether the predictions are those of frozen models for new patients.
    horizon : float, optional
        Time at which calibration is judged; by default the middle one of the predictions.
    n_boot, seed : int
        Of all intervals.
    """

    def __init__(
        self,
        predictions: pd.DataFrame,
        *,
        design: pd.DataFrame | None = None,
        null: pd.DataFrame | None = None,
        pairs: Sequence[tuple[str, str]] | None = None,
        baselines: Sequence[str] = ("clinical", "volume", "no_features"),
        left_out: Sequence[Mapping[str, Any]] = (),
        time_unit: str = "",
        title: str = "Survival",
        simulated: bool = False,
        run_record: Mapping[str, Any] | None = None,
        internal: pd.DataFrame | None = None,
        is_external: bool = False,
        horizon: float | None = None,
        n_boot: int = 2000,
        seed: int = 0,
    ) -> None:
        self.predictions, self.design, self.null = predictions, design, null
        self.left_out, self.time_unit, self.title, self.simulated = list(left_out), time_unit, title, simulated
        self.record = dict(run_record or {})
        self.internal, self.is_external, self.horizon = internal, is_external, horizon
        self._settings: dict[str, Any] = {"n_bootstrap": n_boot, "seed": seed}
        present = list(dict.fromkeys(predictions["feature_set"].astype(str)))
        self.yardsticks = [name for name in baselines if name in present]
        self.contenders = [name for name in present if name not in self.yardsticks]
        self.pairs = self._default_pairs() if pairs is None else list(pairs)

    def _default_pairs(self) -> list[tuple[str, str]]:
        rivals = [name for name in self.yardsticks if name != "no_features"]
        return [*itertools.combinations(self.contenders, 2), *itertools.product(self.contenders, rivals)]

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """See :func:`hybrid.analysis.evaluate_survival`."""
        return evaluate_survival(self.predictions, **self._settings)

    @cached_property
    def calibration(self) -> pd.DataFrame | None:
        """See :func:`hybrid.analysis.calibrate_survival`; None when no survival probabilities were predicted."""
        if not horizon_columns(self.predictions.columns):
            return None
        return calibrate_survival(self.predictions, self.horizon, **self._settings)

    @cached_property
    def performance(self) -> pd.DataFrame:
        """Discrimination, error and calibration in one table: what stands beside a frozen model."""
        found = [self.metrics, *([] if self.calibration is None else [self.calibration])]
        return pd.concat(found, ignore_index=True)

    @cached_property
    def differences(self) -> pd.DataFrame | None:
        """See :func:`hybrid.analysis.compare_survival`; None with nothing to compare."""
        return compare_survival(self.predictions, self.pairs, **self._settings) if self.pairs else None

    @cached_property
    def groups(self) -> pd.DataFrame:
        """Risk group of each patient, see :func:`hybrid.analysis.risk_groups`."""
        table = risk_groups(self.predictions)
        return table[table["feature_set"] != "no_features"].reset_index(drop=True)

    @cached_property
    def group_tests(self) -> pd.DataFrame:
        """See :func:`hybrid.analysis.compare_risk_groups`; with a null also ``p_permutation``.

        The permutation p-value compares the first repeat with single repeats of shuffled follow-up.
        """
        table = compare_risk_groups(self.groups)
        if self.null is None or self.null.empty:
            return table
        first = self.predictions[self.predictions["repeat"] == self.predictions["repeat"].min()]
        observed = compare_risk_groups(risk_groups(first)).set_index("feature_set")["chi2"]
        chance = self.null.fillna({"chi2": 0.0}).groupby("feature_set")["chi2"]
        values = {name: (1 + (own >= np.nan_to_num(observed[name])).sum()) / (1 + len(own)) for name, own in chance}
        return table.assign(p_permutation=table["feature_set"].map(values))

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table behind the report, unrounded, by the name of its file."""
        tables = {"metrics": self.metrics, "risk_groups": self.groups, "risk_group_tests": self.group_tests}
        curves = [
            kaplan_meier(own["time"], own["event"], own["group"]).assign(feature_set=name)
            for name, own in self.groups.groupby("feature_set", sort=False)
        ]
        if curves:
            tables["kaplan_meier"] = pd.concat(curves, ignore_index=True)
        for name, table in (("differences", self.differences), ("events_per_parameter", self.design)):
            if table is not None:
                tables[name] = table
        if self.null is not None:
            tables["shuffled"] = self.null
        if self.calibration is not None:
            tables["calibration"] = self.calibration
            tables["calibration_groups"] = calibration_groups(self.predictions, self.horizon)
        if self.internal is not None:
            tables["validation"] = compare_survival_validation(self.internal, self.performance)
        if self.left_out:
            tables["left_out"] = pd.DataFrame(self.left_out)
        return tables

    def save(self, path: str | Path) -> Path:
        """Write the report, ``tables/*.csv`` and ``figures/`` beside it.

        Returns
        -------
        Path
            The same path.
        """
        path, tables = Path(path), self.tables()
        write_tables(tables, path)
        page = render(
            "survival.html.j2", title=self.title, simulated=self.simulated, sentences=self.sentences(),
            cautions=self.cautions(), discrimination=self._discrimination_view(), differences=self._differences_view(),
            over_time=self._over_time_view(), groups=self._groups_view(), design=self._design_view(),
            calibration=None if self.calibration is None else calibration_view(self.calibration, self.time_unit),
            validation=survival_validation_view(tables.get("validation"), self.time_unit),
            pictures=self._pictures(path.parent / "figures", tables),
            curves=[f"survival_{name}" for name in self._curve_sets()],
            methods=self.methods(), references=[(text, f"https://doi.org/{doi}") for text, doi in REFERENCES.values()],
            settings=settings_text(self.record),
            versions=versions_text(self.record.get("versions")),
            files=sorted(tables),
        )  # fmt: skip
        return write_text(page, path)

    def _curve_sets(self) -> list[str]:
        return list(dict.fromkeys(self.groups["feature_set"]))

    def _value(self, name: str, metric: str) -> pd.Series:
        own = self.metrics[(self.metrics["feature_set"] == name) & (self.metrics["metric"] == metric)]
        return own.iloc[0] if len(own) else pd.Series({"estimate": np.nan, "lower": np.nan, "upper": np.nan})

    def _cell(self, name: str, metric: str, digits: int = 2) -> Cell:
        row = self._value(name, metric)
        return with_bounds(row["estimate"], row["lower"], row["upper"], digits)

    def sentences(self) -> list[str]:
        """Who was followed, how well each feature set does, and the first declared comparison."""
        patients = self.predictions.drop_duplicates("patient_id")
        follow_up = median_survival(kaplan_meier(patients["time"], 1 - patients["event"]))["median"].iloc[0]
        unit = f" {self.time_unit}" if self.time_unit else ""
        known = f", median follow-up {follow_up:.4g}{unit}" if np.isfinite(follow_up) else ""
        who = f"{len(patients)} patients, {int(patients['event'].sum())} with the event{known}."
        found = []
        for name in self.contenders:
            row = self._value(name, "c_index")
            found.append(f"{name} {with_interval(row['estimate'], row['lower'], row['upper'])}")
        how = f"C-index on unseen patients, with 95 % interval (0.5 is chance, 1 is perfect): {joined(found)}."
        rivals = [name for name in self.yardsticks if name != "no_features"]
        if rivals:
            listed = [f"{NAMES.get(name, name)} {number(self._value(name, 'c_index')['estimate'])}" for name in rivals]
            how += f" Yardsticks: {joined(listed)}."
        return [who, how, *([] if self.differences is None else [self._first_difference(self.differences.iloc[0])])]

    @staticmethod
    def _first_difference(row: pd.Series) -> str:
        gap = with_interval(row["difference"], row["lower"], row["upper"])
        text = f"{row['feature_set_a']} minus {row['feature_set_b']}: {gap}, {p_phrase(row['p'])}"
        if not np.isfinite(row["lower"]) or row["lower"] <= 0 <= row["upper"]:
            return f"{text}; the data are compatible with no difference."
        better = row["feature_set_a"] if row["difference"] > 0 else row["feature_set_b"]
        return f"{text}; {better} is better."

    def cautions(self) -> list[str]:
        """List what a reader must know before trusting the numbers."""
        patients = self.predictions.drop_duplicates("patient_id")
        events = int(patients["event"].sum())
        found = []
        if events < FEW_EVENTS:
            found.append(f"Only {events} patients have the event: no conclusion about any model can rest on so few.")
        if self.design is not None:
            few = self.design[self.design["events_per_parameter"] < EVENTS_PER_PARAMETER]
            if len(few):
                listed = joined([f"{row.feature_set} {row.events_per_parameter:.1f}" for row in few.itertuples()])
                found.append(
                    f"Fewer than {EVENTS_PER_PARAMETER} events per parameter {cite('epv')}: {listed}. The penalty "
                    "shrinks such models, but does not make them stable."
                )
        if self.left_out:
            names = joined([str(row["case_id"]) for row in self.left_out[:5]])
            more = f" and {len(self.left_out) - 5} more" if len(self.left_out) > 5 else ""
            found.append(f"Left out, because they have no features: {names}{more}.")
        return found

    def _ordered_rows(self, cells: Any, *, with_none: bool = True) -> list[Row]:
        """Rows of contenders, then of yardsticks under their heading."""
        rows = [Row([Cell(name), *cells(name)]) for name in self.contenders]
        others = [name for name in self.yardsticks if with_none or name != "no_features"]
        if others:
            rows.append(Row([Cell(YARDSTICKS)], "group"))
        return rows + [Row([Cell(NAMES.get(name, name)), *cells(name)], "quiet") for name in others]

    def _discrimination_view(self) -> View:
        with_brier = (self.metrics["metric"] == "integrated_brier").any()
        columns = ["Features", "C-index (Harrell)", "C-index (Uno)"]
        columns += ["Integrated Brier"] if with_brier else []
        columns += ["C-index, shuffled follow-up"] if self.null is not None else []

        def cells(name: str) -> list[Cell]:
            found = [self._cell(name, "c_index"), self._cell(name, "uno_c")]
            found += [self._cell(name, "integrated_brier", 3)] if with_brier else []
            return found + ([self._null_cell(name)] if self.null is not None else [])

        first = self.metrics.iloc[0]
        note = (
            f"{first['n_patients']} patients, {first['n_events']} events; {first['method']} "
            f"({first['n_repeats']} repeat{'' if first['n_repeats'] == 1 else 's'}). "
            f"C-index: higher is better, 0.5 is chance {cite('harrell', 'uno')}. "
            f"Brier: lower is better {cite('graf')}; compare with the row without features."
        )
        if self.null is not None:
            n = int(self.null.groupby("feature_set").size().max())
            note += f" Shuffled follow-up: mean and central 95 % of {n} permutations of the whole procedure."
        return View("Discrimination and overall error on unseen patients (estimate, 95 % interval below)",
                    columns, self._ordered_rows(cells), note)  # fmt: skip

    def _null_cell(self, name: str) -> Cell:
        own = self.null[self.null["feature_set"] == name]["c_index"].dropna() if self.null is not None else pd.Series()
        if own.empty or name == "no_features":
            return Cell(MISSING)
        return with_bounds(own.mean(), *np.quantile(own, [0.025, 0.975]))

    def _differences_view(self) -> View | None:
        if self.differences is None:
            return None
        rows = [
            Row([
                Cell(f"{NAMES.get(row['feature_set_a'], row['feature_set_a'])} − "
                     f"{NAMES.get(row['feature_set_b'], row['feature_set_b'])}"),
                Cell(number(row["a"])), Cell(number(row["b"])),
                with_bounds(row["difference"], row["lower"], row["upper"], 3),
                Cell(p_value(row["p"])), Cell(p_value(row["p_holm"])),
            ])
            for row in self.differences.to_dict("records")
        ]  # fmt: skip
        note = (
            f"Paired by patient; percentile intervals and two-sided p of {self._settings['n_bootstrap']} patient "
            f"bootstraps; Holm's adjustment over the {len(rows)} comparisons of this table."
        )
        return View("Paired differences of Harrell's C-index",
                    ["A − B", "C-index A", "C-index B", "Difference", "p", "p, Holm"], rows, note)  # fmt: skip

    def _over_time_view(self) -> View | None:
        aucs = self.metrics[self.metrics["metric"] == "auc"]
        if aucs.empty:
            return None
        times = np.sort(aucs["horizon"].unique())
        if times.size > SHOWN_HORIZONS:
            times = times[np.linspace(0, times.size - 1, SHOWN_HORIZONS).round().astype(int)]
        wide = aucs.set_index(["feature_set", "horizon"])

        def cells(name: str) -> list[Cell]:
            own = [wide.loc[(name, time)] for time in times]
            return [with_bounds(row["estimate"], row["lower"], row["upper"]) for row in own]

        unit = f" {self.time_unit}" if self.time_unit else ""
        return View("AUC at fixed times (cumulative/dynamic; estimate, 95 % interval below)",
                    ["Features", *(f"{time:g}{unit}" for time in times)], self._ordered_rows(cells, with_none=False),
                    f"Patients with the event until t against patients without it at t {cite('blanche')}.")  # fmt: skip

    def _groups_view(self) -> View:
        tests = self.group_tests.set_index("feature_set")
        with_permutation = "p_permutation" in tests

        def cells(name: str) -> list[Cell]:
            row = tests.loc[name]
            sizes = [
                Cell(f"{row[f'events_{group}']:.0f} of {row[f'n_{group}']:.0f}", _median_text(row[f"median_{group}"]))
                for group in GROUPS
            ]
            found = [*sizes, with_bounds(row["hazard_ratio"], row["lower"], row["upper"]), Cell(p_value(row["p"]))]
            return found + ([Cell(p_value(row["p_permutation"]))] if with_permutation else [])

        columns = ["Features", "Low risk: events", "High risk: events", "Hazard ratio", "p, log-rank"]
        columns += ["p, permutation"] if with_permutation else []
        note = f" Median: time by which half of the group had the event ({MISSING}: not reached)."
        if self.is_external:
            text = f"High: above the median risk of the patients that the model was developed on.{note}"
            return View("Risk groups of new patients", columns, self._ordered_rows(cells, with_none=False), text)
        note = (
            "High: above the median risk of the training patients in at least half of the repeats."
            f"{note} The groups come from a cross-validation, "
            f"so that the usual log-rank p is too small {cite('cv')}"
        )
        if with_permutation and self.null is not None:
            n = self.null["permutation"].nunique()
            note += f"; the permutation p-value is not, and cannot fall below {p_value(1 / (n + 1))} with {n} shuffles."
        else:
            note += "; permutations give an honest one."
        return View("Risk groups of unseen patients", columns, self._ordered_rows(cells, with_none=False), note)

    def _design_view(self) -> View | None:
        if self.design is None or self.design.empty:
            return None
        rows = [
            Row([
                Cell(NAMES.get(row["feature_set"], row["feature_set"])), Cell(str(row["n_columns"])),
                Cell(str(row["n_parameters"])), Cell(number(row["events_in_training"], 0)),
                Cell(number(row["events_per_parameter"], 1)),
            ])
            for row in self.design.to_dict("records")
        ]  # fmt: skip
        columns = ["Features", "Columns", "Parameters, at most", "Events in training", "Events per parameter"]
        note = f"Parameters: what may enter the Cox model after the filters. Advice: {EVENTS_PER_PARAMETER} or more."
        return View("Events per parameter", columns, rows, f"{note} {cite('epv')}")

    def _pictures(self, folder: Path, tables: Mapping[str, pd.DataFrame]) -> dict[str, Picture]:
        album, captions = Album(folder), {}
        for name in self._curve_sets():
            own = self.groups[self.groups["feature_set"] == name]
            draw = partial(_draw_groups, own, self.time_unit)
            album.add(f"survival_{name}", draw, height=3.6, alt=f"Kaplan-Meier curves of {name}")
            row = self.group_tests.set_index("feature_set").loc[name]
            captions[f"survival_{name}"] = (
                f"{NAMES.get(name, name)}: Kaplan-Meier curves of the risk groups, 95 % bands (log-log), censored "
                f"patients as ticks; log-rank {p_phrase(row['p']) if np.isfinite(row['p']) else 'not defined'}."
            )
        if (self.metrics["metric"] == "auc").any():
            shown = self.metrics[self.metrics["feature_set"] != "no_features"]
            album.add("auc", partial(_draw_auc, shown, self.time_unit), height=3.6, alt="AUC over time")
            captions["auc"] = "Time-dependent AUC with pointwise 95 % intervals; grey line: chance."
            album.add("brier", partial(_draw_brier, self.metrics, self.time_unit), height=3.6, alt="Brier over time")
            captions["brier"] = (
                "Scaled Brier score: 1 minus the Brier score over that without features. Below the grey line at 0 a "
                "model's probabilities are worse than none."
            )
        if "calibration_groups" in tables:
            groups = tables["calibration_groups"]
            shown = groups[groups["feature_set"] != "no_features"]
            album.add("calibration", lambda ax: plot_survival_calibration(shown, ax=ax), height=3.4,
                      alt="Observed against expected risk")  # fmt: skip
            captions["calibration"] = (
                "Observed (Kaplan-Meier, 95 % interval) against expected risk in groups of equally many patients."
            )
        return album.with_captions(**captions)

    def methods(self) -> list[tuple[str, str]]:
        """Headings and sentences of what was done, with the numbers of the references."""
        n_repeats, n_folds = self.predictions["repeat"].nunique(), self.predictions["fold"].nunique()
        if self.is_external:
            validation = (
                "Models that were frozen before (preprocessing, penalty, coefficients and the cut between risk groups "
                "included) were applied unchanged to patients that are new to them."
            )
        else:
            validation = (
                f"{n_repeats} repeat(s) of {n_folds}-fold cross-validation, grouped by patient and stratified by "
                "event. Every number is computed within a repeat and averaged, never pooled."
            )
        shuffled = " The whole procedure was repeated on shuffled follow-up." if self.null is not None else ""
        return [
            (
                "Models",
                f"Cox proportional hazards models {cite('cox')} with an elastic net {cite('net')} and Efron's ties "
                f"{cite('efron')}. Inside each training set: median imputation, standardisation, one column of each "
                "cluster of correlated columns, the columns with the largest Cox score statistic, and the penalty with "
                "the best mean C-index in inner folds.",
            ),
            (
                "Validation",
                f"{validation}{shuffled}",
            ),
            (
                "Measures",
                f"Harrell's C {cite('harrell')}; Uno's C for events before the last time shown {cite('uno')}, "
                f"cumulative/dynamic AUC {cite('blanche')} and Brier score {cite('graf')} weighted against "
                "censoring by the Kaplan-Meier estimate of the censoring times, which assumes that censoring does not "
                f"depend on the features. Survival by Kaplan-Meier {cite('km')}, follow-up by the reversed estimate "
                f"{cite('schemper')}.",
            ),
            (
                "Uncertainty",
                f"{self._settings['n_bootstrap']} bootstraps of patients with all their repeats, stratified by event "
                f"but for calibration and Brier scores: BCa intervals {cite('bca')} for single values, percentile "
                "intervals for differences. The intervals "
                "do not contain the variance of training on other patients.",
            ),
        ]


def _median_text(value: float) -> str:
    return f"median {value:.4g}" if np.isfinite(value) else f"median {MISSING}"


def _draw_groups(groups: pd.DataFrame, time_unit: str, ax: Any) -> None:
    plot_kaplan_meier(groups, ax=ax, time_unit=time_unit)


def _draw_auc(metrics: pd.DataFrame, time_unit: str, ax: Any) -> None:
    plot_survival_auc(metrics, ax=ax, time_unit=time_unit)


def _draw_brier(metrics: pd.DataFrame, time_unit: str, ax: Any) -> None:
    plot_brier(metrics, ax=ax, time_unit=time_unit)
