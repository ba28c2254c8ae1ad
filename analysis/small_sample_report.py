"""One self-contained HTML report of a classification with about twenty patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hybrid.files import write_text

from .figures import Album, Picture, write_tables
from .pages import render
from .resampling_part import resampled_view
from .small_sample import (
    CORRELATION,
    ESTIMATES,
    plot_agreement,
    plot_estimates,
    small_sample_sentence,
    volume_sentence,
)
from .views import Cell, Row, View
from .wording import interval, number, p_value, settings_text, versions_text, with_interval

SOURCE_NAMES: Final = {"reference": "Reference masks", "predicted": "Predicted masks", "given": "Given features"}
AGREEMENT_SHOWN: Final = 10
"""Features at either end of the agreement between masks that the page shows."""

REASONS_SHOWN: Final = 30
"""Rows of missing measurements on the page; the table file has all."""


class SmallSampleReport:
    """Whether handcrafted features beat deep ones, and whether the number of patients allows saying so.

    Parameters
    ----------
    estimates : DataFrame
        Columns :data:`hybrid.analysis.small_sample.ESTIMATE_COLUMNS`.
    contrasts : DataFrame
        Rows of :attr:`hybrid.analysis.Comparison.table` with ``source`` and ``estimate``; the first row of a source is
        handcrafted against deep.
    resampled : DataFrame, optional
        Resampling estimates of the declared pipeline with ``source``, see
        :data:`hybrid.analysis.optimism.RESAMPLING_COLUMNS`.
    agreement : DataFrame, optional
        ICC of every feature between two masks, with concordance and limits of agreement.
    missing : DataFrame, optional
        ``case_id, source, reason``: what could not be measured.
    run_record : mapping, optional
        Settings, versions and the verdict on the sample size.
    title, simulated
        Heading, and whether the patients are simulated.
    """

    def __init__(
        self,
        estimates: pd.DataFrame,
        contrasts: pd.DataFrame,
        *,
        resampled: pd.DataFrame | None = None,
        agreement: pd.DataFrame | None = None,
        missing: pd.DataFrame | None = None,
        run_record: Mapping[str, Any] | None = None,
        title: str = "Handcrafted against deep features in a small cohort",
        simulated: bool = False,
    ) -> None:
        self.estimates, self.contrasts, self.agreement, self.missing = estimates, contrasts, agreement, missing
        self.resampled = resampled if resampled is not None and len(resampled) else None
        self.record, self.title, self.simulated = dict(run_record or {}), title, simulated

    @property
    def sources(self) -> list[str]:
        """Masks that were measured."""
        return list(dict.fromkeys(self.estimates["source"]))

    @property
    def threshold(self) -> float:
        """ICC above which features entered."""
        return float(self.record.get("settings", {}).get("min_icc", 0.75))

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table behind the report, unrounded, by the name of its file."""
        tables = {"estimates": self.estimates, "contrasts": self.contrasts}
        if self.agreement is not None:
            tables["agreement"] = self.agreement
        if self.missing is not None:
            tables["missing"] = self.missing
        if self.resampled is not None:
            tables["resampled"] = self.resampled
        return tables

    def sentence(self) -> str:
        """First sentence of the report, from the cross-validation with the first source."""
        rows = self.contrasts[
            (self.contrasts["estimate"] == "nested_cv") & (self.contrasts["source"] == self.sources[0])
        ]
        headline = rows[(rows["model_a"] == "handcrafted") & (rows["model_b"] == "deep")]
        if headline.empty:
            return "Handcrafted and deep features were not both there, so they cannot be compared."
        return small_sample_sentence(headline.iloc[0], source=self.sources[0])

    def save(self, path: str | Path) -> Path:
        """Write the report, ``tables/*.csv`` and ``figures/`` beside it.

        Returns
        -------
        Path
            The same path.
        """
        path = Path(path)
        write_tables(self.tables(), path)
        first = self.estimates[self.estimates["source"] == self.sources[0]]
        page = render(
            "small_sample.html.j2", title=self.title, simulated=self.simulated, sentence=self.sentence(),
            volume=volume_sentence(first), size=str(self.record.get("size", "")),
            estimates=[self._estimates_view(source) for source in self.sources],
            contrasts=[self._contrasts_view(source) for source in self.sources], missing=self._missing_view(),
            refits=self._refit_views(), agreeing=self._agreement_view(),
            pictures=self._pictures(path.parent / "figures"), agreement=self._agreement_sentence(),
            methods=self._methods(),
            settings=settings_text(self.record),
            versions=versions_text(self.record.get("versions")),
            files=sorted(self.tables()), source_names=SOURCE_NAMES, sources=self.sources,
        )  # fmt: skip
        return write_text(page, path)

    def _estimates_view(self, source: str) -> View:
        own = self.estimates[self.estimates["source"] == source]
        kinds = [kind for kind in ESTIMATES if kind in set(own["estimate"])]
        rows = []
        for name in dict.fromkeys(own["feature_set"]):
            found = own[own["feature_set"] == name].set_index("estimate")
            cells = [Cell(str(name))]
            for kind in kinds:
                if kind not in found.index:
                    cells.append(Cell("not declared"))
                    continue
                row = found.loc[kind]
                cells.append(Cell(number(row["auc"]), interval(row["lower"], row["upper"])))
            null = found.loc["nested_cv", ["null_mean", "null_lower", "null_upper"]]
            chance = f"chance {with_interval(*null)}" if null.notna().all() else ""
            cells.append(Cell(p_value(found["p_permutation"].max()), chance))
            rows.append(Row(cells, "quiet" if name == "volume" else ""))
        counts = own[own["estimate"] == "nested_cv"].iloc[0]
        columns = ["Features", *(ESTIMATES[kind] for kind in kinds), "p (permuted outcomes)"]
        held = own[own["estimate"] == "held_out"]
        extra = f"; {int(held['n_patients'].iloc[0])} held-out patients" if len(held) else ""
        return View(
            f"{SOURCE_NAMES[source]}: AUC with 95 % interval, {int(counts['n_patients'])} patients, "
            f"{int(counts['n_events'])} of them positive{extra}",
            columns, rows, note=_estimates_note(own),
        )  # fmt: skip

    def _contrasts_view(self, source: str) -> View:
        own = self.contrasts[self.contrasts["source"] == source]
        rows = [
            Row([
                Cell(f"{row['model_a']} minus {row['model_b']}"), Cell(ESTIMATES[row["estimate"]]),
                Cell(with_interval(row["difference"], row["lower"], row["upper"])), Cell(p_value(row["p"])),
                Cell(p_value(row["p_holm"])),
            ])
            for row in own.to_dict("records")
        ]  # fmt: skip
        note = "Holm's adjustment over the declared comparisons of each kind of estimate."
        columns = ["Comparison", "Estimate", "Difference of AUC (95 % CI)", "p", "p (Holm)"]
        return View(f"{SOURCE_NAMES[source]}: paired differences", columns, rows, note=note, n_names=2)

    def _refit_views(self) -> list[View]:
        """Resampling estimates of the declared pipeline, one table per source."""
        if self.resampled is None:
            return []
        found = self.resampled.groupby("source", sort=False)
        named = [(SOURCE_NAMES[str(source)], resampled_view(own, 0.95)) for source, own in found]
        return [replace(view, caption=f"{name}: the declared pipeline, by way of resampling") for name, view in named]

    def _agreement_view(self) -> View | None:
        """Features that agree best between both masks, and those that agree least."""
        if self.agreement is None or "ccc" not in self.agreement.columns:
            return None
        ranked = self.agreement.dropna(subset=["icc"]).sort_values("icc", ascending=False, kind="stable")
        few = len(ranked) <= 2 * AGREEMENT_SHOWN
        parts = [("All features", ranked)] if few else [
            (f"The {AGREEMENT_SHOWN} that agree best", ranked.head(AGREEMENT_SHOWN)),
            (f"The {AGREEMENT_SHOWN} that agree least", ranked.tail(AGREEMENT_SHOWN)),
        ]  # fmt: skip
        rows: list[Row] = []
        for heading, part in parts:
            rows.append(Row([Cell(heading)], "group"))
            rows += [Row(_agreement_cells(row)) for row in part.to_dict("records")]
        note = (
            "ICC(2,1): 1 when both masks give the same values (Shrout and Fleiss 1979, doi:10.1037/0033-2909.86.2.420)."
            " Concordance: Lin 1989 (doi:10.2307/2532051). Bias: predicted minus reference, in the unit of the feature;"
            " below it the limits between which about 95 % of differences lie (Bland and Altman 1986, "
            "doi:10.1016/S0140-6736(86)90837-8). All features are in tables/agreement.csv."
        )
        columns = ["Feature", "ICC (95 % CI)", "Concordance (95 % CI)", "Bias (limits of agreement below)"]
        return View("Agreement of each feature between reference and predicted masks", columns, rows, note)

    def _missing_view(self) -> View | None:
        if self.missing is None or self.missing.empty:
            return None
        rows = [
            Row([Cell(str(row["case_id"])), Cell(SOURCE_NAMES[str(row["source"])]), Cell(str(row["reason"]))])
            for row in self.missing.head(REASONS_SHOWN).to_dict("records")
        ]
        more = len(self.missing) - REASONS_SHOWN
        note = f"And {more} more, see tables/missing.csv." if more > 0 else ""
        return View("Not measured", ["Case", "Mask", "Reason"], rows, note=note, n_names=3)

    def _agreement_sentence(self) -> str:
        if self.agreement is None:
            return ""
        parts = []
        for block, rows in self.agreement.groupby("block", sort=False):
            above = int((rows["icc"] >= self.threshold).sum())
            parts.append(f"{above} of {len(rows)} {block} features (median ICC {number(rows['icc'].median())})")
        cases = int(self.agreement["n_subjects"].max())
        return (
            f"Between the reference and the predicted masks of {cases} cases {' and '.join(parts)} agree with an "
            f"ICC(2,1) of {self.threshold:g} or more. This table uses all cases and describes; what enters a model was "
            "chosen from the training patients of each fold."
        )

    def _pictures(self, folder: Path) -> dict[str, Picture]:
        album, captions = Album(folder), {}
        for source in self.sources:
            name = f"estimates_{source}"
            rows = self.estimates[self.estimates["source"] == source]
            album.add(name, partial(_draw_estimates, rows), height=3.6, alt=f"AUC of every feature set, {source} masks")
            captions[name] = f"{SOURCE_NAMES[source]}: AUC of every feature set by every estimate, 95 % intervals."
        if self.agreement is not None:
            draw = partial(_draw_agreement, self.agreement, self.threshold)
            album.add("agreement", draw, height=3.0, alt="Share of features above each ICC")
            captions["agreement"] = "Share of features whose ICC between both masks lies above a value."
        return album.with_captions(**captions)

    def _methods(self) -> list[tuple[str, str]]:
        settings = self.record.get("settings", {})
        declared = settings.get("declared", "handcrafted")
        return [
            (
                "Estimates",
                f"Nested cross-validation, {settings.get('repeats', '')} repeats of {settings.get('folds', '')} "
                "patient-grouped folds: the AUC is computed within each repeat and averaged; intervals resample "
                "patients. Leave-pair-out refits the whole pipeline without each pair of a positive and a negative "
                "patient (Airola et al. 2011, doi:10.1016/j.csda.2010.11.018). An AUC pooled over leave-one-out "
                "predictions is biased and is not computed. The .632+ bootstrap (Efron and Tibshirani 1997, "
                f"doi:10.1080/01621459.1997.10474007) is computed for the one declared pipeline ({declared}); the "
                "copies of a patient share an inner fold, and the no-information value of the AUC is 0.5.",
            ),
            (
                "Permutation",
                f"The whole cross-validation was repeated with {settings.get('permutations', 0)} permutations of the "
                "outcome; p = (1 + number at least as large) / (1 + permutations), one-sided, not adjusted for the "
                "number of feature sets (Phipson and Smyth 2010, doi:10.2202/1544-6115.1585).",
            ),
            (
                "Features",
                "A feature enters when its ICC(2,1) between both masks, measured in the training patients of a fold, "
                f"reaches {self.threshold:g} (Shrout and Fleiss 1979, doi:10.1037/0033-2909.86.2.420). Selection, "
                "standardisation and tuning happen inside the fold as well."
                if self.agreement is not None
                else "Selection, standardisation and tuning happen inside the fold.",
            ),
            (
                "Numbers of patients",
                "Riley et al. 2020 (doi:10.1136/bmj.m441) for the size of a prediction model. The difference that "
                "could have been found assumes an AUC of 0.7 for the weaker model and a correlation of the two AUCs of "
                f"{CORRELATION:g} (Obuchowski and McClish 1997).",
            ),
        ]


def _agreement_cells(row: Mapping[Any, Any]) -> list[Cell]:
    limits = f"{row['lower_limit']:.3g} to {row['upper_limit']:.3g}".replace("-", "−")
    return [
        Cell(str(row["feature"])), Cell(with_interval(row["icc"], row["lower"], row["upper"])),
        Cell(with_interval(row["ccc"], row["ccc_lower"], row["ccc_upper"])),
        Cell(f"{row['bias']:.3g}".replace("-", "−"), limits),
    ]  # fmt: skip


def _draw_estimates(rows: pd.DataFrame, ax: Any) -> None:
    plot_estimates(rows, ax=ax)


def _draw_agreement(agreement: pd.DataFrame, threshold: float, ax: Any) -> None:
    plot_agreement(agreement, threshold=threshold, ax=ax)


def _estimates_note(estimates: pd.DataFrame) -> str:
    """Explain what chance looks like, on both sides of one half."""
    if estimates["null_mean"].isna().all():
        return ""
    note = "Chance: AUC of the whole cross-validation with permuted outcomes, mean and middle 95 %."
    if (estimates["auc"] < 0.5).any():
        note += " An AUC below 0.5 inside that range is chance as well, not knowledge turned round."
    return note
