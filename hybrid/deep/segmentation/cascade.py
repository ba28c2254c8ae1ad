"""The renal cascade: kidneys at low resolution, masses inside them, a class for every mass (system a).

Stage 1 looks at the whole scan at low resolution; stage 2, an ensemble, only at the kidneys and a margin; a second look
drops what is no mass; stage 3 looks at each mass. Rules between the stages are in mm and mm^3 and are part of the
model's card.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import SimpleITK as sitk
from scipy import ndimage

from hybrid.errors import InputError
from hybrid.images import from_array
from hybrid.lesions import label_lesions, lesion_table
from hybrid.provenance import digest
from hybrid.regions import bounding_box, widened

from .candidates import SecondLook, measure_candidates
from .inference import Segmentation
from .lesion_classes import LesionClassifier, load_lesion_classifier
from .preprocessing import SPECK_VOXELS, Scan, intensity_scale, network_array, network_labels, open_scan
from .segmenter import SegmentedCase, Segmenter, confidence, load_segmenter, on_plan_grid, read_card, write_card

FORMAT: Final = "hybrid-renal-cascade-1"
KIDNEY, MASS = 1, 2
"""Labels of the masks that the cascade writes."""

CLASS_OFFSET: Final = 1
"""The class map holds the number of the class in the card's list plus this; 0 is background."""


@dataclass(frozen=True)
class CascadeRules:
    """Post-processing between the stages.

    Parameters
    ----------
    margin_mm : float
        What stage 2 sees around the kidneys of stage 1.
    max_kidneys : int
        Largest regions kept in stage 1.
    min_kidney_mm3 : float
        Smaller regions of stage 1 are dropped.
    min_mass_mm3 : float
        Smaller masses are dropped, and those of fewer than four voxels of stage 2.
    max_distance_mm : float
        Masses farther than this from a kidney are dropped.
    mass_weight : float
        What stage 2's probability of a mass is multiplied by before the largest wins. Above 1 more is marked, for the
        second look to choose from; a mass that stage 2 marks without it, too, keeps that smaller shape.
    """

    margin_mm: float = 15.0
    max_kidneys: int = 2
    min_kidney_mm3: float = 10_000.0
    min_mass_mm3: float = 30.0
    max_distance_mm: float = 5.0
    mass_weight: float = 1.0


@dataclass(frozen=True)
class RenalCascade:
    """Three stages and the rules between them.

    Parameters
    ----------
    kidney : Segmenter
        Stage 1; any foreground counts as kidney (with its masses).
    mass : Segmenter
        Stage 2; its labels are 1 kidney and 2 mass.
    classifier : LesionClassifier, optional
        Stage 3.
    rules : CascadeRules
        Margins and limits.
    path : Path
        The folder.
    second_look : SecondLook, optional
        Drops masses of stage 2; its score is then their confidence.
    """

    kidney: Segmenter
    mass: Segmenter
    classifier: LesionClassifier | None = None
    rules: CascadeRules = field(default_factory=CascadeRules)
    path: Path = Path()
    second_look: SecondLook | None = None

    @property
    def digest(self) -> str:
        """Digest of all weights, options and rules."""
        parts = [self.kidney.digest, self.mass.digest, self.classifier.digest if self.classifier else None]
        return digest([parts, asdict(self.rules), self.second_look.to_dict() if self.second_look else None])

    @property
    def labels(self) -> dict[int, str]:
        """Labels of the mask."""
        return {KIDNEY: "kidney", MASS: "mass"}

    @property
    def smallest_mass_mm3(self) -> float:
        """Smaller masses are dropped: by the rules, and because stage 2 is not taught to find specks of few voxels."""
        return max(self.rules.min_mass_mm3, SPECK_VOXELS * math.prod(self.mass.plan.spacing))

    @property
    def patients(self) -> frozenset[str]:
        """Hashed patients that any stage was trained on."""
        own = self.classifier.card.get("patients", []) if self.classifier else []
        return self.kidney.patients | self.mass.patients | frozenset(own)

    def refuse_trained(self, patients: Iterable[str]) -> None:
        """Raise when one of the patients was trained on; see :meth:`Segmenter.refuse_trained`."""
        for stage in (self.kidney, self.mass):
            stage.refuse_trained(patients)

    def with_options(self, **changes: Any) -> RenalCascade:
        """Return the same cascade with other inference options in both segmentation stages."""
        return replace(self, kidney=self.kidney.with_options(**changes), mass=self.mass.with_options(**changes))

    def describe(self) -> dict[str, Any]:
        """Plain data for provenance."""
        return {
            "path": self.path.name, "kidney": self.kidney.describe(), "mass": self.mass.describe(),
            "classes": list(self.classifier.classes) if self.classifier else [], "rules": asdict(self.rules),
            "second_look": self.second_look.card if self.second_look else {},
        }  # fmt: skip

    def segment(self, image: sitk.Image, *, case_id: str | None = None) -> SegmentedCase:
        """Run all stages on one CT.

        Parameters
        ----------
        image : SimpleITK.Image
            CT in Hounsfield units, any orientation and voxel size.
        case_id : str, optional
            Named in errors.

        Returns
        -------
        SegmentedCase
            ``mask`` (1 kidney, 2 mass); ``maps`` with ``kidney``, ``mass`` (numbered masses), ``class`` and ``dropped``
            (numbered); one row per mass with class probabilities; embeddings.
        """
        begin = time.monotonic()
        scan = open_scan(image, case_id=case_id)
        coarse, fine = self._stages(scan)
        scores = self._scores(fine, scan)
        labels, numbers, refused = self._clean(fine, scan, scores)
        lesions, embeddings = self._masses(numbers, image, scan, fine, scores, case_id)
        dropped = _scored(refused, fine, scores)
        details = {
            "windows": coarse.windows.total + fine.windows.total,
            "windows_run": coarse.windows.run + fine.windows.run, "seconds": time.monotonic() - begin,
        }  # fmt: skip
        back = lambda array: from_array(scan.orientation.undo(array), image)  # noqa: E731
        maps = {"kidney": back((labels > 0).astype(np.uint8)), "mass": back(numbers.astype(np.uint16))}
        if self.classifier is not None:
            maps["class"] = back(self._class_map(numbers, lesions))
        if self.second_look is not None:
            maps["dropped"] = back(refused)
        return SegmentedCase(back(labels), lesions, maps, embeddings, dropped, details)

    def _stages(self, scan: Scan, *, export: bool = True) -> tuple[Segmentation, Segmentation]:
        """Both segmentation stages, the second one at the kidneys that the first one found."""
        coarse = self.kidney.run(scan, export=False)
        kidneys = keep_kidneys(coarse.coarse > 0, self.kidney.plan.spacing, self.rules)
        relevant = widened(kidneys, self.rules.margin_mm, self.kidney.plan.spacing)
        weights = None if self.rules.mass_weight == 1 else (1.0, 1.0, self.rules.mass_weight)
        return coarse, self.mass.run(scan, relevant=relevant, weights=weights, export=export)

    def candidates(self, image: sitk.Image, mask: sitk.Image, *, case_id: str | None = None) -> pd.DataFrame:
        """Measure what stage 2 marks as mass, and say what of it is one: what a second look learns from.

        Parameters
        ----------
        image : SimpleITK.Image
            CT in Hounsfield units.
        mask : SimpleITK.Image
            Reference labels on the same grid, as stage 2 was trained on.
        case_id : str, optional
            Named in errors.

        Returns
        -------
        DataFrame
            One row per candidate: :data:`~hybrid.deep.segmentation.candidates.FEATURES`, and ``is_mass`` (1 when it
            shares a voxel with a mass of the reference).
        """
        scan = open_scan(image, case_id=case_id)
        _, fine = self._stages(scan, export=False)
        numbers, table = self._measured(fine, scan)
        reference = network_labels(mask, scan, self.mass.plan, case_id=case_id)[fine.box] == MASS
        real = np.unique(numbers[reference])
        return table.assign(is_mass=np.isin(np.arange(1, len(table) + 1), real).astype(int))

    def _measured(self, fine: Segmentation, scan: Scan) -> tuple[np.ndarray, pd.DataFrame]:
        """Candidates of stage 2, numbered on its own grid inside ``fine.box``, and what was measured on them."""
        plan, labels = self.mass.plan, fine.coarse[fine.box]
        organ = keep_kidneys(labels > 0, plan.spacing, self.rules)
        smallest = self.smallest_mass_mm3
        numbers, _ = label_lesions(organ & (labels == MASS), plan.spacing, min_volume_mm3=smallest)
        mean, sd = intensity_scale(scan, plan)[2:]
        values = network_array(scan, plan, fine.box) * np.float32(sd) + np.float32(mean)
        return numbers, measure_candidates(numbers, organ, fine.probability, values, plan.spacing)

    def _scores(self, fine: Segmentation, scan: Scan) -> np.ndarray | None:
        """Score of the second look at every voxel of a candidate (inside ``fine.box``), 0 elsewhere."""
        if self.second_look is None:
            return None
        numbers, table = self._measured(fine, scan)
        return np.concatenate([[0.0], self.second_look.scores(table)])[numbers]

    def _clean(
        self, fine: Segmentation, scan: Scan, scores: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels after the rules of stage 2 and the second look, and numbers of the masses, kept and dropped by it."""
        labels = fine.labels.copy()
        box = bounding_box(labels)
        numbers, refused = np.zeros(labels.shape, np.int32), np.zeros(labels.shape, np.uint16)
        if box is None:
            return labels, numbers, refused
        inside = labels[box]
        kept = keep_kidneys(inside > 0, scan.spacing, self.rules)
        near = widened(kept & (inside == KIDNEY), self.rules.max_distance_mm, scan.spacing)
        found, count = label_lesions(inside == MASS, scan.spacing, min_volume_mm3=self.smallest_mass_mm3)
        close = np.unique(found[near & (found > 0)])
        alone = not (inside == KIDNEY).any()
        allowed = [number for number in range(1, count + 1) if alone or number in close]
        wanted = allowed
        if scores is not None and self.second_look is not None:
            corner = [part.start for part in box]
            best = {n: best_score(np.argwhere(found == n) + corner, labels.shape, fine, scores) for n in allowed}
            wanted = [number for number in allowed if best[number] >= self.second_look.threshold]
        sure = inside if fine.sure is None else fine.sure[box]
        masses, others = (
            self._shaped(_only(found, chosen, count), sure, scan)
            for chosen in (wanted, [number for number in allowed if number not in wanted])
        )
        cleaned = np.where(kept & (sure > 0), KIDNEY, 0).astype(np.uint8)
        cleaned[masses > 0] = MASS
        labels[box], numbers[box] = cleaned, masses
        refused[box] = label_lesions(others > 0, scan.spacing)[0]
        return labels, numbers, refused

    def _shaped(self, masses: np.ndarray, sure: np.ndarray, scan: Scan) -> np.ndarray:
        """Masses in the shape that stage 2 gives them without weights, where it is large enough to be one."""
        known, _ = label_lesions((sure == MASS) & (masses > 0), scan.spacing, min_volume_mm3=self.smallest_mass_mm3)
        doubtful = ~np.isin(masses, np.unique(masses[known > 0]))
        return np.where((known > 0) | doubtful, masses, 0)

    def _masses(
        self, numbers: np.ndarray, image: sitk.Image, scan: Scan, fine: Segmentation, scores: np.ndarray | None,
        case_id: str | None,
    ) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
        box = bounding_box(numbers)
        original = scan.orientation.undo(numbers)
        table = lesion_table(original > 0, image)
        if box is None:
            return self._named(table, np.zeros((0, len(self.classes)))), pd.DataFrame()
        ordered, _ = label_lesions(original > 0, image.GetSpacing()[::-1])
        canonical = scan.orientation.apply(ordered)
        regions = [canonical == number for number in table["lesion_id"]]
        sure = [confidence(region, fine, MASS) for region in regions]
        table = table.assign(confidence=[s[0] for s in sure], mean_probability=[s[1] for s in sure])
        if scores is not None:
            best = [best_score(np.argwhere(region), region.shape, fine, scores) for region in regions]
            table = table.assign(confidence=best)
        numbers[:] = canonical
        if self.classifier is None:
            return self._named(table, np.zeros((len(table), 0))), pd.DataFrame()
        inputs = [
            self.classifier.input(image, from_array((ordered == number).astype(np.uint8), image), case_id=case_id)
            for number in table["lesion_id"]
        ]
        probabilities, vectors = self.classifier.classify(inputs)
        columns = [f"deep_{i:04d}" for i in range(vectors.shape[1])]
        embeddings = pd.DataFrame(vectors, columns=columns).assign(lesion_id=table["lesion_id"].to_numpy())
        return self._named(table, probabilities), embeddings[["lesion_id", *columns]]

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of stage 3."""
        return self.classifier.classes if self.classifier else ()

    def _named(self, table: pd.DataFrame, probabilities: np.ndarray) -> pd.DataFrame:
        table = table.assign(label=MASS, label_name="mass")
        for column in ("confidence", "mean_probability"):
            if column not in table:
                table[column] = pd.Series(dtype=float)
        if self.classes:
            names = np.array(self.classes, dtype=object)
            table = table.assign(predicted_class=names[probabilities.argmax(1)] if len(table) else [])
            table = table.assign(**{f"y_prob_{name}": probabilities[:, i] for i, name in enumerate(self.classes)})
        return table

    def _class_map(self, numbers: np.ndarray, lesions: pd.DataFrame) -> np.ndarray:
        values = np.zeros(int(numbers.max()) + 1, np.uint8)
        for row in lesions.itertuples():
            values[row.lesion_id] = self.classes.index(row.predicted_class) + CLASS_OFFSET
        return values[numbers]


def _scored(numbers: np.ndarray, fine: Segmentation, scores: np.ndarray | None) -> pd.DataFrame:
    """Tabulate number and score of each numbered region of the source's grid (canonical orientation)."""
    best = []
    if scores is not None:
        for number, box in enumerate(ndimage.find_objects(numbers), start=1):
            places = np.argwhere(numbers[box] == number) + [part.start for part in box]
            best.append(best_score(places, numbers.shape, fine, scores))
    return pd.DataFrame({"lesion_id": np.arange(1, len(best) + 1), "confidence": np.asarray(best, dtype=float)})


def _only(numbers: np.ndarray, chosen: Sequence[int], count: int) -> np.ndarray:
    """Keep the chosen ones of ``count`` numbered regions, numbered anew."""
    renumbered = np.zeros(count + 1, np.int32)
    renumbered[list(chosen)] = np.arange(1, len(chosen) + 1)
    return renumbered[numbers]


def best_score(places: np.ndarray, shape: Sequence[int], fine: Segmentation, scores: np.ndarray) -> float:
    """Score of a mass, given by its places on the source's grid: the best of the candidates of stage 2 under it."""
    return float(scores[on_plan_grid(places, shape, fine, MASS)].max(initial=0.0))


def keep_kidneys(region: np.ndarray, spacing: tuple[float, float, float], rules: CascadeRules) -> np.ndarray:
    """Keep the largest connected regions (26-neighbourhood): at most ``max_kidneys``, none below ``min_kidney_mm3``."""
    numbers, count = label_lesions(region, spacing, min_volume_mm3=rules.min_kidney_mm3)
    return (numbers > 0) & (numbers <= min(count, rules.max_kidneys))


def save_cascade(
    folder: str | Path,
    rules: CascadeRules,
    *,
    classifier: bool,
    second_look: SecondLook | None = None,
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Write the card of a cascade whose stages lie in ``kidney``, ``mass`` and ``classifier`` inside the folder."""
    folder = Path(folder)
    stages = {"kidney": "kidney", "mass": "mass", **({"classifier": "classifier"} if classifier else {})}
    look = {} if second_look is None else {"second_look": second_look.to_dict()}
    write_card(folder, {"format": FORMAT, "stages": stages, "rules": asdict(rules), **look, **(card or {})})
    return folder


def load_cascade(folder: str | Path) -> RenalCascade:
    """Load a cascade folder.

    Raises
    ------
    InputError
        When the folder is no cascade, or stage 2 does not know kidney and mass.
    """
    folder = Path(folder)
    card = read_card(folder)
    if card.get("format") != FORMAT:
        raise InputError(f"The folder holds no cascade (format {card.get('format')!r}).", path=folder)
    stages = card["stages"]
    mass = load_segmenter(folder / stages["mass"])
    if mass.plan.labels != (KIDNEY, MASS):
        raise InputError(
            f"Stage 2 of a cascade needs the labels 1 (kidney) and 2 (mass); this model has {mass.labels}.",
            advice="The stage comes from another label set; train it with `hybrid renal-mass`.",
            path=folder / stages["mass"],
        )
    classifier = load_lesion_classifier(folder / stages["classifier"]) if "classifier" in stages else None
    look = SecondLook.from_dict(card["second_look"]) if "second_look" in card else None
    kidney, rules = load_segmenter(folder / stages["kidney"]), CascadeRules(**card["rules"])
    return RenalCascade(kidney, mass, classifier, rules, folder, look)


def load_model(folder: str | Path) -> Segmenter | RenalCascade:
    """Load a segmentation model of any kind: single network, ensemble or cascade."""
    return load_cascade(folder) if read_card(folder).get("format") == FORMAT else load_segmenter(folder)


def read_rules(folder: str | Path) -> dict[str, Any]:
    """Rules of a cascade as plain data."""
    content = json.loads((Path(folder) / "model.json").read_text(encoding="utf-8"))
    return dict(content["rules"])
