"""One self-contained HTML report, with its tables and figures beside it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from hybrid.errors import InputError
from hybrid.files import write_text
from hybrid.tables import FAILURE_COLUMNS, PROBLEM_COLUMNS, SELECTED, check_predictions

from . import plots
from .calibration import calibration_metrics
from .calibration_tests import calibration_tests, calibration_tests_view
from .compare import MODEL, Comparison, add_null, choose_classifier, is_reference, summarise_null
from .describe import SPLIT, describe_by_split, describe_cohort, describe_features
from .detail_part import detail_tables
from .explanation_part import explanation_figures, explanation_tables
from .exports import Section
from .figures import Album, Picture, write_tables
from .methods import methods_sections
from .metrics import confusion, evaluate_models
from .pages import render
from .panel import Model, Panel
from .references import Citations
from .report_parts import RANK_CAPTION, declared_pairs, part_tables, rank_figure, report_parts, validation_tables
from .resampling_part import resampling_tables
from .site_part import compare_sites, sites_of
from .usefulness import decision_curve, plot_decision_curve
from .views import (
    CALLS,
    DECISION_NOTE,
    RANKING,
    Cell,
    Row,
    View,
    calibration_view,
    comparison_view,
    description_view,
    design_view,
    excluded_view,
    features_view,
    metrics_view,
    models_view,
    problems_view,
)
from .wording import (
    GLOSSARY,
    Setting,
    first_paragraph,
    interval,
    number,
    p_value,
    percent,
    settings_text,
    versions_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ANALYSIS_PACKAGES: Final = ("hybrid-radiomics", "numpy", "scipy", "pandas", "matplotlib")


class Report:
    """A report that a clinician can read and a reviewer can check.

    Parameters
    ----------
    cohort : Cohort, DataFrame or None
        All requested cases; anything with ``to_frame()`` is accepted.
    features : DataFrame or None
        Feature table.
    predictions : DataFrame
        See :func:`hybrid.tables.check_predictions`.
    result : Comparison, optional
        From :func:`hybrid.analysis.compare_models`; without it models are described, not compared.
    metrics : DataFrame, optional
        From :func:`hybrid.analysis.evaluate_models`; computed when not given.
    null : DataFrame, optional
        Permutation null: ``feature_set, permutation, auc``.
    failures : DataFrame, optional
        Rows of ``failures.csv``.
    problems : DataFrame, optional
        From ``Cohort.check()``.
    dictionary : DataFrame, optional
        Feature dictionary, for the summary of features.
    design : DataFrame, optional
        From :func:`hybrid.analysis.check_design`: what was checked before training.
    internal : DataFrame, optional
        From :func:`hybrid.analysis.validation.measure_validation`: the internal performance of a frozen model whose
        external predictions are reported.
    development : Cohort or DataFrame, optional
        The patients that a frozen model was developed on, described beside those it was applied to. Without them the
        cohort is described by its column ``split``, where it has one.
    explanations : DataFrame, optional
        From :func:`hybrid.pipelines.explain_models`: what the models look at.
    relative_cost : float
        How many false positives are as bad as one missed case, for the cut-off by cost.
    resampled : DataFrame, optional
        From :func:`hybrid.pipelines.bootstrap_632` and :func:`hybrid.pipelines.optimism_bootstrap`, below each other.
    risk_categories : sequence of float
        Borders between categories of risk, declared beforehand, for the categorical NRI; none leave it out.
    run_record : mapping, optional
        What was run: ``settings``, ``versions``, digests. The methods paragraph is written from it.
    title : str
        Heading.
    simulated : bool
        Whether the patients are simulated; said at the top of the report.
    baselines : sequence of str
        Trivial feature sets, shown as yardsticks.
    outcome_name : str, optional
        The outcome in words, for example ``"lung metastasis"``; by default from the run record.
    n_bootstrap, seed : int, optional
        Of the figures and of ``metrics``; by default from the run record, otherwise 2000 and 0.
    split : str, optional
        See :func:`hybrid.analysis.evaluate_models`.

    Raises
    ------
    InputError
        For an invalid predictions table or an outcome with one class.
    """

    def __init__(
        self,
        cohort: Any,
        features: pd.DataFrame | None,
        predictions: pd.DataFrame,
        result: Comparison | None = None,
        *,
        metrics: pd.DataFrame | None = None,
        null: pd.DataFrame | None = None,
        failures: pd.DataFrame | None = None,
        problems: pd.DataFrame | None = None,
        dictionary: pd.DataFrame | None = None,
        design: pd.DataFrame | None = None,
        internal: pd.DataFrame | None = None,
        development: Any = None,
        explanations: pd.DataFrame | None = None,
        relative_cost: float = 1.0,
        resampled: pd.DataFrame | None = None,
        risk_categories: Sequence[float] = (),
        run_record: Mapping[str, Any] | None = None,
        title: str = "Model comparison",
        simulated: bool = False,
        baselines: Sequence[str] = (),
        outcome_name: str | None = None,
        n_bootstrap: int | None = None,
        seed: int | None = None,
        split: str | None = None,
    ) -> None:
        settings = dict((run_record or {}).get("settings") or {})
        self.title = title
        self.simulated = simulated
        self.baselines = tuple(baselines)
        self.record = dict(run_record or {})
        self.n_bootstrap = int(n_bootstrap if n_bootstrap is not None else settings.get("bootstraps", 2000))
        self.seed = int(seed if seed is not None else settings.get("seed", 0))
        self.level = 0.95 if result is None else result.level
        self.outcome = outcome_name or str(settings.get("outcome_name") or "the event").replace("_", " ")
        self.cohort, self.development = _as_frame(cohort), _as_frame(development)
        self.features = features
        self.panel = Panel.from_predictions(predictions, split=split)
        table = check_predictions(predictions)
        self.predictions = table[table["split"] == self.panel.split]
        self.null = null
        self.classifier = choose_classifier(self.panel, SELECTED, self.baselines)
        self.result = None if result is None else add_null(result, null, self.classifier)
        self.failures = _filled(failures, FAILURE_COLUMNS)
        self.problems = _filled(problems, PROBLEM_COLUMNS)
        self.dictionary, self.design, self.internal = dictionary, design, internal
        self.explanations, self.relative_cost = explanations, relative_cost
        self.resampled, self.risk_categories = resampled, tuple(risk_categories)
        self._tables: dict[str, pd.DataFrame] = {}
        self.metrics = metrics if metrics is not None else evaluate_models(
            self.predictions, n_bootstrap=self.n_bootstrap, seed=self.seed, split=self.panel.split
        )  # fmt: skip

    def save(self, path: str | Path) -> Path:
        """Write the report, ``tables/*.csv`` (unrounded) and ``figures/*.svg`` and ``*.png`` (300 dpi) beside it.

        Parameters
        ----------
        path : path-like
            The HTML file.

        Returns
        -------
        Path
            The same path. The page needs no other file.

        Raises
        ------
        InputError
            When the path is a folder.
        """
        path = Path(path)
        if path.is_dir():
            raise InputError(
                "The report needs a file name; found a folder.", advice="Example: run/report.html", path=path
            )
        tables = self.tables()
        write_tables(tables, path)
        pictures = self._pictures(path.parent / "figures", tables)
        return write_text(self._render(tables, pictures), path)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table behind the report, unrounded, by the name of its file; computed once."""
        if not self._tables:
            self._tables = self._compute()
        return dict(self._tables)

    def _compute(self) -> dict[str, pd.DataFrame]:
        drawn = self._drawn_models()
        settings: dict[str, Any] = {"models": drawn, "seed": self.seed, "split": self.panel.split}
        tables = {
            "metrics": self.metrics,
            "confusion": confusion(self.predictions, split=self.panel.split),
            "roc_curves": plots.roc_curves(
                self.predictions, n_bootstrap=self.n_bootstrap, level=self.level, **settings
            ),
            "calibration": plots.calibration_curves(self.predictions, level=self.level, **settings),
            "calibration_metrics": calibration_metrics(self.predictions, level=self.level, **settings),
            "calibration_tests": calibration_tests(self.panel, drawn),
            "decision_curve": decision_curve(self.predictions, level=self.level, **settings),
            "excluded": self.excluded(),
            "problems": self.problems,
        }  # fmt: skip
        if self.result is not None:
            tables |= {"comparison": self.result.table, "models": self.result.models}
        if self.cohort is not None:
            tables["cohort"] = describe_cohort(self.cohort, tests=True)
            tables |= self._by_split(self.cohort)
        if self.design is not None:
            tables["design_checks"] = self.design
        if self.features is not None:
            tables["features_summary"] = describe_features(self.features, self.dictionary)
        if self.null is not None and len(self.null):
            tables["permutation_null"] = self.null
        return (
            tables
            | validation_tables(self.internal, self.metrics, tables["calibration_metrics"])
            | self._by_site(drawn)
            | part_tables(
                self.predictions, self.panel, self.result, baselines=self.baselines,
                risk_categories=self.risk_categories, **self._drawing,
            )
            | resampling_tables(self.predictions, drawn, self.null, self.resampled, level=self.level)
            | detail_tables(
                self.predictions, self.panel, drawn, declared_pairs(self.result), relative_cost=self.relative_cost,
                **self._drawing,
            )
            | explanation_tables(self.explanations, self.features, self.panel, **self._drawing)
        )  # fmt: skip

    @property
    def _drawing(self) -> dict[str, Any]:
        """Settings of the bootstrap."""
        return {"n_bootstrap": self.n_bootstrap, "seed": self.seed, "level": self.level}

    def _by_split(self, cohort: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Table 1 by split: development beside external patients, or the splits that the cohort table names."""
        if self.development is not None:
            return {"cohort_by_split": describe_by_split({"internal": self.development, "external": cohort})}
        if SPLIT in cohort.columns and cohort[SPLIT].nunique() > 1:
            return {"cohort_by_split": describe_cohort(cohort, SPLIT, tests=True)}
        return {}

    def _by_site(self, models: Sequence[Model]) -> dict[str, pd.DataFrame]:
        """AUC by centre, where the cohort names centres and two of them are large enough."""
        found = compare_sites(self.panel, sites_of(self.cohort), models, level=self.level)
        return {"auc_by_site": found} if len(found) else {}

    def _descriptions(self, tables: Mapping[str, pd.DataFrame]) -> list[View]:
        """Table 1 by outcome and, where there are splits, by split."""
        views = (
            description_view(tables.get("cohort"), self.outcome),
            description_view(tables.get("cohort_by_split"), "", "The patients by split"),
        )
        return [view for view in views if view is not None]

    def excluded(self) -> pd.DataFrame:
        """Cases that failed somewhere or were not evaluated.

        Returns
        -------
        DataFrame
            ``case_id, evaluated, stage, error, message, advice``; a case that is missing from the predictions without
            a recorded reason is there with an empty ``stage``.
        """
        evaluated = set(self.panel.units["case_id"])
        rows = self.failures[list(FAILURE_COLUMNS)].astype(str)
        requested = [] if self.cohort is None else list(dict.fromkeys(self.cohort["case_id"].astype(str)))
        known = set(rows["case_id"])
        silent = [case for case in requested if case not in evaluated and case not in known]
        if silent:
            note = ("", "", "Not in the predictions table; no reason was recorded.", self._advice_for_silent())
            rows = pd.concat(
                [rows, pd.DataFrame([(case, *note) for case in silent], columns=list(FAILURE_COLUMNS))],
                ignore_index=True,
            )
        rows.insert(1, "evaluated", [case in evaluated for case in rows["case_id"]])
        return rows

    def _advice_for_silent(self) -> str:
        return "Check that the case has an outcome and features."

    def sections(self, figures: Path, tables: Mapping[str, pd.DataFrame]) -> list[Section]:
        """Draw the figures and return the parts of the page in order, for other formats than HTML.

        Parameters
        ----------
        figures : Path
            Folder that the figures are drawn into.
        tables : mapping of str to DataFrame
            From :meth:`tables`.

        Returns
        -------
        list of Section
            With the tables and figures of the HTML page.
        """
        cite = Citations()
        pictures = self._pictures(Path(figures), tables)
        null = summarise_null(self.null, self.level, self.classifier)
        notes = () if self.result is None else self.result.notes
        patients = (
            self._flow_view(), excluded_view(tables["excluded"]), *self._descriptions(tables),
            design_view(self.design), problems_view(self.problems), features_view(tables.get("features_summary")),
        )  # fmt: skip
        compared = (comparison_view(self.result), models_view(self.result))
        ranked = [metrics_view(self.metrics, shown, self.baselines, null) for shown in (RANKING, CALLS)]
        methods = methods_sections(
            self.predictions, self.metrics, self.result, self.record, cite, level=self.level,
            is_table_one=self.cohort is not None, tables=tables,
        )  # fmt: skip
        # The page calls its description of the patients Table 1; a document numbers its tables itself.
        methods = [(heading, text.replace("Table 1", "The table of patients")) for heading, text in methods]
        return [
            Section("Summary", first_paragraph(self._setting(), self.result, self.metrics, self.level)),
            Section(
                "Result" if compared[0] is None else "Declared comparison", [("", note) for note in notes],
                [view for view in compared if view], [pictures["roc"], pictures["auc"]],
            ),
            Section("All models", (), ranked, [pictures["probabilities"]]),
            Section(
                "Calibration and usefulness", [("", DECISION_NOTE)], self._calibration_views(tables),
                [pictures["calibration"], pictures["decision"]],
            ),
            *(part.section for part in report_parts(tables, pictures, self.level, self.panel.split)),
            Section("Patients", (), [view for view in patients if view]),
            Section("Methods", [(f"{heading}.", text) for heading, text in methods]),
            Section("References", [(f"[{i}]", f"{text}. {url}") for i, text, url in cite.entries()]),
            Section("Run record", [(f"{label}:", value) for label, value in self._record_rows()]),
        ]  # fmt: skip

    def _calibration_views(self, tables: Mapping[str, pd.DataFrame]) -> list[View]:
        """Calibration of the drawn models, and its tests."""
        tested = calibration_tests_view(tables["calibration_tests"])
        return [calibration_view(tables["calibration_metrics"]), *([tested] if tested else [])]

    def _drawn_models(self) -> list[tuple[str, str]]:
        """Models of the figures: those compared, else those not meant as yardsticks; eight at most."""
        if self.result is not None:
            models = self.result.models[self.result.models["role"] == MODEL]
            drawn = list(zip(models["feature_set"], models["classifier"], strict=True))
        else:
            drawn = [m for m in self.panel.models if not is_reference(m, self.baselines)] or list(self.panel.models)
            drawn = [m for m in drawn if m[1] == SELECTED] or drawn
        return drawn[: len(plots.COLOURS)]

    def _pictures(self, folder: Path, tables: Mapping[str, pd.DataFrame]) -> dict[str, Picture]:
        drawn = self._drawn_models()
        names, tall = ", ".join(plots.model_names(drawn)), 3.75 + 0.17 * len(drawn)
        level = percent(self.level)
        shown = self.metrics if self.result is None else self.result.models
        n_rows = len(shown) if self.result is not None else int((shown["metric"] == "auc").sum())
        album = Album(folder)
        album.add(
            "roc", lambda ax: plots.draw_roc(tables["roc_curves"], ax=ax), height=tall, alt=f"ROC curves of {names}"
        )
        album.add(
            "auc", lambda ax: plots.plot_auc(shown, ax=ax, baselines=self.baselines), height=0.9 + 0.27 * n_rows,
            alt="AUC of each model with its interval",
        )  # fmt: skip
        album.add("probabilities", self._draw_probabilities, height=3.1, alt=f"Predicted probabilities of {names}")
        album.add(
            "calibration", lambda ax: plots.draw_calibration(tables["calibration"], ax=ax), height=tall,
            alt=f"Calibration of {names}",
        )  # fmt: skip
        album.add(
            "decision", lambda ax: plot_decision_curve(tables["decision_curve"], ax=ax), height=tall,
            alt=f"Decision curves of {names}",
        )  # fmt: skip
        captions = {}
        if (ranks := rank_figure(tables)) is not None:
            album.add("ranks", ranks[0], height=ranks[1], alt="Mean ranks of the models with the critical difference")
            captions["ranks"] = RANK_CAPTION
        captions |= explanation_figures(album, tables)
        band = (
            f"Bands: pointwise {level}, percentiles of {self.n_bootstrap} resamples of patients. "
            if len(drawn) <= plots.MAX_BANDS
            else ""
        )
        return album.with_captions(
            roc=f"ROC curves, averaged over repeats at equal false positive rate. {band}Legend: AUC averaged over "
            "repeats, BCa bootstrap of patients.",
            auc=f"AUC averaged over repeats with {level} interval (BCa bootstrap of patients). Hollow: yardsticks. "
            f"Grey bars: central {level} of the permutation null, where it was run. Dotted: chance.",
            probabilities="Predicted probability of each patient, averaged over repeats. Bars: medians.",
            calibration="Calibration: observed fraction with event against mean predicted probability, in bins of "
            f"equally many patients; {level} intervals, percentile bootstrap of patients with fixed bins (exact at 0 "
            "and 1).",
            decision="Net benefit of acting on the prediction against the risk from which one would act, beside acting "
            f"on everybody and on nobody; bands: pointwise {level}, percentiles of resamples of patients.",
            **captions,
        )

    def _draw_probabilities(self, ax: Axes) -> None:
        plots.plot_probabilities(
            self.predictions, ax=ax, models=self._drawn_models(), seed=self.seed, split=self.panel.split
        )

    def _render(self, tables: Mapping[str, pd.DataFrame], pictures: Mapping[str, Picture]) -> str:
        cite = Citations()
        methods = methods_sections(
            self.predictions, self.metrics, self.result, self.record, cite, level=self.level,
            is_table_one=self.cohort is not None, tables=tables,
        )  # fmt: skip
        setting = self._setting()
        null = summarise_null(self.null, self.level, self.classifier)
        return render(
            "report.html.j2",
            title=self.title,
            simulated=self.simulated,
            date=str(self.record.get("finished", ""))[:10],
            sentences=first_paragraph(setting, self.result, self.metrics, self.level),
            tiles=self._tiles(setting),
            comparison=comparison_view(self.result),
            notes=() if self.result is None else self.result.notes,
            models=models_view(self.result),
            ranking=metrics_view(self.metrics, RANKING, self.baselines, null),
            calls=metrics_view(self.metrics, CALLS, self.baselines, null),
            pictures=pictures,
            flow=self._flow_view(),
            descriptions=self._descriptions(tables),
            excluded=excluded_view(tables["excluded"]),
            design=design_view(self.design),
            calibrations=self._calibration_views(tables),
            decision_note=DECISION_NOTE,
            parts=report_parts(tables, pictures, self.level, self.panel.split),
            problems=problems_view(self.problems),
            features=features_view(tables.get("features_summary")),
            methods=methods,
            references=cite.entries(),
            record=self._record_rows(),
            settings=settings_text(self.record),
            files=sorted(tables),
            glossary=GLOSSARY,
        )

    def _setting(self) -> Setting:
        return Setting(
            outcome=self.outcome,
            n_patients=self.panel.n_patients,
            n_events=self.panel.n_events,
            split=self.panel.split,
            repeats=int(self.predictions["repeat"].nunique()),
            folds=int(self.predictions["fold"].nunique()),
            simulated=self.simulated,
        )

    def _tiles(self, setting: Setting) -> list[tuple[str, str, str]]:
        """Label, value and detail of the key figures."""
        tiles = [("Patients", f"{setting.n_patients}", f"{setting.n_events} with {self.outcome}")]
        headline = None if self.result is None else self.result.headline
        if self.result is None or headline is None:
            return tiles
        models = self.result.models.set_index(["feature_set", "classifier"])
        for side in ("a", "b"):
            row = models.loc[(headline[f"feature_set_{side}"], headline[f"classifier_{side}"])]
            detail = f"{percent(self.level)} CI {interval(row['lower'], row['upper'])}"
            tiles.append((f"AUC {headline[f'model_{side}']}", number(headline[f"auc_{side}"]), detail))
        detail = f"{percent(self.level)} CI {interval(headline['lower'], headline['upper'])}"
        tiles.append((f"{headline['model_a']} − {headline['model_b']}", number(headline["difference"]), detail))
        test = "DeLong" if str(headline["p_method"]).startswith("DeLong") else "bootstrap"
        detail = f"Holm-adjusted {p_value(headline['p_holm'])}" if headline["n_comparisons"] > 1 else "two-sided"
        tiles.append((f"p ({test})", p_value(headline["p"]), detail))
        return tiles

    def _flow_view(self) -> View:
        rows = []
        evaluated = self.panel.units
        if self.cohort is not None:
            patients = self.cohort["patient_id"] if "patient_id" in self.cohort.columns else self.cohort["case_id"]
            rows.append(("Requested", len(self.cohort), patients.nunique()))
        if self.features is not None and self.cohort is not None:
            ids = self.features.index.get_level_values("case_id") if "case_id" in self.features.index.names else (
                self.features["case_id"])  # fmt: skip
            filled = (
                self.features.drop(columns=["case_id", "roi_label"], errors="ignore").notna().any(axis=1).to_numpy()
            )
            present = set(pd.Index(ids)[filled].astype(str))
            has = self.cohort["case_id"].astype(str).isin(present)
            rows.append(("With features", int(has.sum()), patients[has].nunique()))
        rows.append(("Evaluated", evaluated["case_id"].nunique(), evaluated["patient_id"].nunique()))
        cells = [Row([Cell(name), Cell(str(cases)), Cell(str(people))]) for name, cases, people in rows]
        return View("Cases from request to result", ["Step", "Cases", "Patients"], cells)

    def _record_rows(self) -> list[tuple[str, str]]:
        names = {
            "finished": "Finished", "model": "Frozen model", "settings_digest": "Settings digest",
            "code_version": "Code digest", "features_digest": "Features digest",
            "predictions_digest": "Predictions digest",
        }  # fmt: skip
        rows = [(text, str(self.record[key])) for key, text in names.items() if self.record.get(key)]
        rows.append(
            ("Statistics", f"{self.n_bootstrap} bootstrap draws, seed {self.seed}, level {percent(self.level)}")
        )
        versions = self.record.get("versions") or _analysis_versions()
        rows.append(("Versions", versions_text(versions)))
        return rows


def _as_frame(cohort: Any) -> pd.DataFrame | None:
    if cohort is None:
        return None
    frame = cohort if isinstance(cohort, pd.DataFrame) else cohort.to_frame()
    return frame.reset_index() if "case_id" in frame.index.names else frame.copy()


def _filled(table: pd.DataFrame | None, columns: Sequence[str]) -> pd.DataFrame:
    """Table with all contract columns, in order; empty text where one is absent."""
    if table is None:
        return pd.DataFrame(columns=list(columns))
    return table.reindex(columns=list(columns)).fillna("")


def _analysis_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ANALYSIS_PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
