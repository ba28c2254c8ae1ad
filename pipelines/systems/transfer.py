"""System b: a small primary cohort borrows from a large auxiliary one; six ways, one step budget, the same patients.

After Zhu et al. 2022 (doi:10.1007/s11548-022-02587-2): 20 own and 210 public cases. Their network's wiring is not
public; ours is in :mod:`hybrid.deep.segmentation.branches`.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np
import pandas as pd
import SimpleITK as sitk

from hybrid.analysis.transfer import ARMS, AUXILIARY_WEIGHT
from hybrid.cases import Case, Cohort
from hybrid.errors import InputError, LeakageError, unknown_name
from hybrid.files import write_csv
from hybrid.images import from_array, labels_in, read_image, read_mask, to_array
from hybrid.provenance import digest, file_digest, versions
from hybrid.regions import widened

from ..files import write_json
from ..runner import Rows, run_cases
from ..train import train_and_save, train_segmenter, train_together
from ..training_cases import (
    SPLIT_COLUMN,
    all_read,
    as_fingerprint,
    fingerprint_case,
    one_image,
    prepare_cases,
    read_pair,
    split_of,
)

logger = logging.getLogger(__name__)

METRICS: Final = ("dice", "surface_dice", "hd95_mm")
NETWORKS: Final = {"joint": "dynunet_tagged", "dual_branch": "dynunet_dual"}
"""Network of an arm where it is not the plain one."""

FROZEN_SHARE: Final = 0.5
"""Share of the steps in which the encoder of ``fine_tune_frozen`` stays as it is."""

MONITORED: Final = 2
"""Cases whose Dice shows that a network learns; the arms are judged on test cases."""

LOCATE_MARGIN_MM: Final = 15.0
PRETRAINING: Final = "pretraining"
LOCATOR: Final = "locator"
LOCATED: Final = "located"


@dataclass(frozen=True)
class TransferRun:
    """One training of one arm.

    Attributes
    ----------
    arm : str
        Name in :data:`hybrid.analysis.transfer.ARMS`.
    name : str
        Of the repeat: seed and fold.
    seed : int
        Start weights and patches.
    training, test : tuple of str
        Primary cases.
    weight : float
        Of the auxiliary loss.
    """

    arm: str
    name: str
    seed: int
    training: tuple[str, ...]
    test: tuple[str, ...]
    weight: float = AUXILIARY_WEIGHT

    @property
    def folder(self) -> str:
        """Folder of the model, below the study's."""
        detail = f"{self.name}_n{len(self.training):03d}_w{self.weight:g}"
        return PRETRAINING if self.arm == "zero_shot" else f"runs/{self.arm}/{detail}"


class TransferStudy:
    """All arms on the same patients with the same number of steps.

    Parameters
    ----------
    primary, auxiliary : Cohort
        Images and masks. A column ``split`` (train, test) in the primary cohort fixes one test set; without it,
        repeated folds of the patients are used, the same for every arm.
    out : path-like
        Folder for models, tables and ``report.html``.
    label_map : mapping of int to int, optional
        Labels of the auxiliary masks to those of the primary ones; default: the same numbers mean the same.
    labels : mapping of str to int, optional
        Names of the primary labels; default: every label found.
    structures : mapping of str to sequence of int, optional
        Labels that are judged together; default: every label of its own.
    arms : sequence of str
        Names in :data:`hybrid.analysis.transfer.ARMS`.
    epochs, pretraining_epochs : int
        Length of every arm's training, and of the auxiliary one that the arms share, in epochs of ``steps`` steps.
    steps : int
        Steps per epoch.
    seeds : int
        Repeats with a fixed test set.
    folds, repeats : int
        Without a fixed test set.
    sizes : sequence of int
        Numbers of primary training patients for the learning curve.
    weights : sequence of float
        Weights of the auxiliary loss for the dilution test of ``joint``.
    plan : mapping, optional
        Overrides of the plan, see :func:`hybrid.deep.segmentation.make_plan`.
    locate_mm : float, optional
        Look for the region first with a network of this voxel size, trained on the auxiliary cohort and shared by all
        arms; for large scans.
    inference : mapping, optional
        Fields of :class:`hybrid.deep.segmentation.InferenceOptions` for all predictions, for example
        ``{"engine": "openvino"}``.
    seed : int
        Of folds, subsets and all trainings.
    title : str
        Of the report.
    simulated : bool
        Said at the top of the report.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`; with more than one job the arms are trained side by side on a thread
        each. Another number of threads adds numbers in another order: scores then differ in their last digits.
    """

    def __init__(
        self,
        primary: Cohort,
        auxiliary: Cohort,
        out: str | Path,
        *,
        label_map: Mapping[int, int] | None = None,
        labels: Mapping[str, int] | None = None,
        structures: Mapping[str, Sequence[int]] | None = None,
        arms: Sequence[str] = tuple(ARMS),
        epochs: int = 20,
        pretraining_epochs: int = 60,
        steps: int = 50,
        seeds: int = 3,
        folds: int = 5,
        repeats: int = 1,
        sizes: Sequence[int] = (),
        weights: Sequence[float] = (),
        plan: Mapping[str, Any] | None = None,
        locate_mm: float | None = None,
        inference: Mapping[str, Any] | None = None,
        seed: int = 0,
        title: str = "Transfer to a small cohort",
        simulated: bool = False,
        n_jobs: int = 1,
        backend: str = "loky",
        progress: bool = True,
    ) -> None:
        for arm in arms:
            if arm not in ARMS:
                raise unknown_name("arm", arm, ARMS)
        self.primary, self.auxiliary, self.out = one_image(primary, None), one_image(auxiliary, None), Path(out)
        self.label_map, self.labels, self.arms = dict(label_map or {}), dict(labels or {}), tuple(arms)
        self.structures = {name: list(values) for name, values in (structures or {}).items()}
        self.epochs, self.pretraining_epochs, self.steps = epochs, pretraining_epochs, steps
        self.seeds, self.folds, self.repeats, self.seed = seeds, folds, repeats, seed
        self.sizes, self.weights = tuple(sizes), tuple(weights)
        self.options, self.locate_mm, self.inference = dict(plan or {}), locate_mm, dict(inference or {})
        self.title, self.simulated = title, simulated
        self.work: dict[str, Any] = {"n_jobs": n_jobs, "backend": backend, "progress": progress}
        self.runs = self._planned_runs()

    def run(self) -> Path:
        """Train and judge everything that is not there yet, and write tables and report.

        Returns
        -------
        Path
            ``report.html``.

        Raises
        ------
        LeakageError
            When a patient or an image is in both cohorts.
        InputError
            For unmapped labels or cases that cannot be read.
        """
        from hybrid.analysis.transfer_report import TransferReport

        refuse_shared(self.primary, self.auxiliary, self.out, self.work)
        self._check_labels()
        plans = self._plans()
        prepared = {
            name: prepare_cases(cohort, plans[name], self.out / name, self._runner(name))
            for name, cohort in (("primary", self._used), ("auxiliary", self.auxiliary))
        }
        self._train_shared(plans["auxiliary"], prepared["auxiliary"])
        self._train_all(plans["primary"], prepared)
        scores = self._judge()
        write_csv(scores, self.out / "scores.csv")
        record = {"settings": self.settings, "versions": versions()}
        write_json(record, self.out / "record.json")
        return TransferReport(scores, run_record=record, title=self.title, simulated=self.simulated).save(
            self.out / "report.html"
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What the study was asked to do, as plain data."""
        return {
            "arms": list(self.arms), "primary_cases": len(self.primary), "auxiliary_cases": len(self.auxiliary),
            "epochs": self.epochs, "pretraining_epochs": self.pretraining_epochs, "steps": self.steps,
            "seeds": self.seeds, "sizes": list(self.sizes), "weights": list(self.weights), "seed": self.seed,
            "locate_mm": self.locate_mm, "label_map": {str(k): v for k, v in self.label_map.items()},
            "plan": dict(self.options), "inference": dict(self.inference),
        }  # fmt: skip

    @property
    def _used(self) -> Cohort:
        """Primary cases that any run trains on."""
        names = {name for run in self.runs for name in run.training}
        return Cohort(case for case in self.primary if case.case_id in names)

    def _runner(self, name: str) -> Any:
        return functools.partial(run_cases, out=self.out / name, **self.work)

    def _planned_runs(self) -> list[TransferRun]:
        rounds = self._rounds()
        runs = [TransferRun(arm, *parts) for parts in rounds for arm in self.arms]
        for name, seed, training, test in rounds:
            for size in self.sizes:
                subset = self._subset(training, size, seed)
                if len(subset) == len(training):
                    continue
                chosen = [arm for arm in ("primary_only", "fine_tune", "dual_branch") if arm in self.arms]
                runs += [TransferRun(arm, name, seed, subset, test) for arm in chosen]
            runs += [
                TransferRun("joint", name, seed, training, test, weight)
                for weight in self.weights if weight != AUXILIARY_WEIGHT and "joint" in self.arms
            ]  # fmt: skip
        return runs

    def _rounds(self) -> list[tuple[str, int, tuple[str, ...], tuple[str, ...]]]:
        """Name, seed, training and test cases of every repeat; the same for all arms."""
        splits = {case.case_id: split_of(case) for case in self.primary}
        if any(splits.values()):
            training = tuple(name for name, split in splits.items() if split == "train")
            test = tuple(name for name, split in splits.items() if split in ("test", "external"))
            if len(training) < 2 or not test:
                raise InputError(
                    f"The column {SPLIT_COLUMN} must name at least two training cases and a test case; found "
                    f"{len(training)} and {len(test)}.",
                    advice="Fill it for every primary case, or remove it for repeated folds.",
                )
            return [(f"seed{k}", self.seed + k, training, test) for k in range(self.seeds)]
        patients = sorted({case.patient_id for case in self.primary})
        if not 2 <= self.folds <= len(patients):
            raise InputError(f"Expected 2 to {len(patients)} folds (the number of patients); found {self.folds}.")
        rounds = []
        for repeat in range(self.repeats):
            order = np.random.default_rng([self.seed, 31, repeat]).permutation(len(patients))
            for fold in range(self.folds):
                held = {patients[i] for i in order[fold :: self.folds]}
                inside = tuple(case.case_id for case in self.primary if case.patient_id not in held)
                outside = tuple(case.case_id for case in self.primary if case.patient_id in held)
                rounds.append((f"repeat{repeat}_fold{fold}", self.seed + repeat, inside, outside))
        return rounds

    def _subset(self, training: Sequence[str], size: int, seed: int) -> tuple[str, ...]:
        """Cases of ``size`` training patients; smaller subsets lie within larger ones."""
        patients = list(dict.fromkeys(self.primary[name].patient_id for name in training))
        if not 2 <= size <= len(patients):
            raise InputError(f"A training set of {size} patients is not possible: there are {len(patients)}.")
        order = np.random.default_rng([seed, 37]).permutation(len(patients))
        kept = {patients[i] for i in order[:size]}
        return tuple(name for name in training if self.primary[name].patient_id in kept)

    def _check_labels(self) -> None:
        """Find the labels of both cohorts; every auxiliary one needs a primary one."""
        found = {name: _labels_of(cohort) for name, cohort in (("p", self.primary), ("a", self.auxiliary))}
        mapped = {self.label_map.get(value, value) for value in found["a"]}
        known = set(self.labels.values()) or found["p"]
        extra = sorted(value for value in found["a"] if self.label_map.get(value, value) not in known)
        if extra:
            raise InputError(
                f"The auxiliary masks hold the labels {extra}, which no primary label corresponds to: {sorted(known)}.",
                advice="Map them, for example --label-map 3=2.",
            )
        self.labels = self.labels or {f"label_{value}": value for value in sorted(known)}
        self.structures = self.structures or {name: [value] for name, value in self.labels.items()}
        ordered = sorted(self.labels.values())
        self.annotated = tuple(1 + ordered.index(value) for value in sorted(mapped & set(ordered)))

    def _plans(self) -> dict[str, Any]:
        """One plan for all arms, from the auxiliary cohort: no primary patient shapes it, so no test patient does."""
        from hybrid.deep.segmentation.planning import describe_plan, make_plan

        prints = self._runner("auxiliary")(fingerprint_case, self.auxiliary, stage="fingerprint", settings={})
        rows = [as_fingerprint(row[0]) for row in all_read(prints, self.auxiliary).values()]
        values = {self.label_map.get(value, value) for row in rows for value in row["labels"]}
        shared = {name: value for name, value in self.labels.items() if value in values}
        made = make_plan(
            rows, network="dynunet", labels=shared, label_map=self.label_map, **{"memory_gib": 0.5, **self.options}
        )
        for row in describe_plan(made).itertuples():
            logger.info("%s: %s", row.setting, row.value)
        ordered = sorted(self.labels, key=lambda name: self.labels[name])
        made = replace(made, labels=tuple(self.labels[name] for name in ordered), label_names=tuple(ordered))
        return {"auxiliary": made, "primary": replace(made, label_map={})}

    def _settings(self, epochs: int, seed: int) -> Any:
        from hybrid.deep.segmentation.training import TrainingSettings

        return TrainingSettings(epochs=epochs, steps=self.steps, seed=seed, monitored=MONITORED)

    def _train_shared(self, plan: Any, prepared: Mapping[str, Any]) -> None:
        """Train what the arms share: the auxiliary network, and the one that locates the region."""
        cases, patients = list(prepared.values()), [case.patient_id for case in self.auxiliary]
        settings = self._settings(self.pretraining_epochs, self.seed)
        common: dict[str, Any] = {"progress": self.work["progress"]}
        train_and_save(self.out / PRETRAINING, plan, cases, [], patients, settings, **common)
        if self.locate_mm is not None:
            values = sorted({value for case in self.auxiliary for value in _labels_of([case])})
            train_segmenter(
                self.auxiliary, self.out / LOCATOR, epochs=max(4, self.pretraining_epochs // 4), validation_share=0.0,
                seed=self.seed, settings={"steps": self.steps, "monitored": MONITORED},
                plan={"spacing": (self.locate_mm,) * 3, "labels": {"region": 1}, "width": plan.width,
                      "modality": plan.modality, "label_map": {value: 1 for value in values if value != 1}},
                **self.work,
            )  # fmt: skip

    def _train_all(self, plan: Any, prepared: Mapping[str, Mapping[str, Any]]) -> None:
        """Train every run that is not there yet: one after the other, or several at once on a thread each."""
        if self.work["n_jobs"] == 1:
            for run in self.runs:
                self._train(run, plan, prepared)
            return
        runs = {run.folder: run for run in self.runs if run.arm != "zero_shot"}
        function = functools.partial(train_run, study=self, plan=plan, prepared=prepared)
        train_together(function, runs, self.out, **self.work)

    def _train(self, run: TransferRun, plan: Any, prepared: Mapping[str, Mapping[str, Any]]) -> None:
        from hybrid.deep.segmentation.segmenter import MODEL_FILE
        from hybrid.deep.segmentation.transfer import Transfer

        if run.arm == "zero_shot":
            return
        start = None if run.arm == "primary_only" else self.out / PRETRAINING / MODEL_FILE
        transfer = None if start is None else Transfer(start)
        borrowed = tuple(prepared["auxiliary"].values())
        if run.arm == "fine_tune_frozen":
            transfer = Transfer(start, freeze=FROZEN_SHARE)
        elif run.arm in NETWORKS:
            transfer = Transfer(
                start, auxiliary=borrowed, annotated=self.annotated, weight=run.weight,
                decays=run.arm == "dual_branch",
            )  # fmt: skip
        patients = [self.primary[name].patient_id for name in run.training]
        patients += [] if start is None else [case.patient_id for case in self.auxiliary]
        logger.info("Training %s (%s, %d cases)", ARMS[run.arm], run.name, len(run.training))
        train_and_save(
            self.out / run.folder, replace(plan, network=NETWORKS.get(run.arm, "dynunet")),
            [prepared["primary"][name] for name in run.training], [], patients, self._settings(self.epochs, run.seed),
            transfer=transfer, progress=self.work["progress"],
        )  # fmt: skip

    def locate(self, cases: Cohort) -> Path | None:
        """Find the region of every case once, for the networks of all arms.

        Returns
        -------
        Path, optional
            Folder of the regions; None when the networks look at whole images.
        """
        if self.locate_mm is None:
            return None
        model = self.out / LOCATOR
        settings = {"model": file_digest(model / "model.safetensors"), "inference": self.inference}
        folder = self.out / LOCATED / digest(settings)[:12]  # regions of another locator are never taken for these
        function = functools.partial(locate_case, model=str(model), folder=str(folder), inference=self.inference)
        run_cases(
            function, cases, stage="locate", settings=settings, out=self.out,
            valid=lambda rows: Path(rows[0]["region"]).is_file(), **self.work,
        )  # fmt: skip
        return folder

    def _sizes(self) -> dict[TransferRun, int]:
        """Training patients of every run; whole training sets, which differ by a few between folds, as the largest."""
        counts = {run: len({self.primary[name].patient_id for name in run.training}) for run in self.runs}
        whole = {run.name: max(n for other, n in counts.items() if other.name == run.name) for run in self.runs}
        return {run: max(whole.values()) if n == whole[run.name] else n for run, n in counts.items()}

    def _judge(self) -> pd.DataFrame:
        parts, sizes = [], self._sizes()
        located = self.locate(Cohort(self.primary[n] for n in dict.fromkeys(n for run in self.runs for n in run.test)))
        for run in self.runs:
            tested = Cohort(self.primary[name] for name in run.test)
            model = self.out / run.folder
            settings = {
                "model": file_digest(model / "model.safetensors"), "structures": self.structures,
                "locator": None if located is None else file_digest(self.out / LOCATOR / "model.safetensors"),
                "inference": self.inference,
            }  # fmt: skip
            function = functools.partial(
                judge_case, model=str(model), structures=self.structures, located=located, inference=self.inference
            )
            # Runs of one network on the same patients (zero-shot, whatever the seed) are judged once.
            stage = "judge_" + digest([run.folder, run.test])[:10]
            results = run_cases(function, tested, stage=stage, settings=settings, out=self.out, **self.work)
            head = {"arm": run.arm, "run": run.name, "n_training": sizes[run], "weight": run.weight}
            for case_id, rows in results.rows.items():
                who = {"case_id": case_id, "patient_id": self.primary[case_id].patient_id}
                parts += [{**head, **who, **row} for row in rows]
        return pd.DataFrame(parts)


def train_run(
    run: TransferRun, seed: int, *, study: TransferStudy, plan: Any, prepared: Mapping[str, Mapping[str, Any]]
) -> Rows:
    """Train one run in a process of its own; the result is its folder."""
    study.work = {**study.work, "progress": False}
    study._train(run, plan, prepared)
    return []


def judge_case(
    case: Case,
    seed: int,
    *,
    model: str,
    structures: Mapping[str, Sequence[int]],
    located: Path | None,
    inference: Mapping[str, Any],
) -> Rows:
    """Rows ``structure, metric, value`` of one test case under one model."""
    from hybrid.mask_metrics import measure_masks

    image, reference = read_pair(case)
    prediction = drawn_labels(image, case.case_id, model=model, located=located, inference=inference)
    table = measure_masks(prediction, reference, structures, case_id=case.case_id)
    chosen = table[table["metric"].isin(METRICS)]
    return [{str(k): v for k, v in row.items()} for row in chosen.to_dict("records")]


def locate_case(case: Case, seed: int, *, model: str, folder: str, inference: Mapping[str, Any]) -> Rows:
    """Store the voxels (of the locator's grid) that the networks of all arms look at; the row names the file."""
    from hybrid.deep.segmentation.preprocessing import open_scan

    scan = open_scan(read_image(next(iter(case.images.values())), case_id=case.case_id), case_id=case.case_id)
    finder = _segmenter(model, **inference)
    region = widened(finder.run(scan, export=False).coarse > 0, LOCATE_MARGIN_MM, finder.plan.spacing)
    path = _region_file(folder, case.case_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, region=region)
    return [{"region": str(path)}]


def _region_file(folder: str | Path, case_id: str) -> Path:
    return Path(folder) / f"{quote(case_id, safe='')}.npz"


def drawn_labels(
    image: sitk.Image, case_id: str, *, model: str, located: Path | None, inference: Mapping[str, Any]
) -> sitk.Image:
    """Labels that a network of the study draws, on the grid of the image."""
    from hybrid.deep.segmentation.preprocessing import open_scan

    scan = open_scan(image, case_id=case_id)
    relevant = None
    if located is not None:
        path = _region_file(located, case_id)
        if not path.is_file():
            raise InputError(
                "The region of this case is missing.",
                advice="failures.csv says why; the same command finds it again.", case_id=case_id, path=path,
            )  # fmt: skip
        relevant = np.load(path)["region"]
    labels = _segmenter(model, **inference).run(scan, relevant=relevant).labels
    return from_array(scan.orientation.undo(labels), image)


@functools.lru_cache(maxsize=3)
def _segmenter(folder: str, **options: Any) -> Any:
    from hybrid.deep.segmentation.segmenter import load_segmenter

    return load_segmenter(folder).with_options(**options)


def _labels_of(cohort: Cohort | Sequence[Case]) -> set[int]:
    found: set[int] = set()
    for case in cohort:
        for path in case.masks.values():
            found |= set(labels_in(read_mask(path, case_id=case.case_id)))
    return found


def refuse_shared(primary: Cohort, auxiliary: Cohort, out: Path, work: Mapping[str, Any]) -> None:
    """Raise when a patient is in both cohorts, by id or by the pixels of an image.

    Raises
    ------
    LeakageError
        Naming the patients.
    """
    shared = sorted({case.patient_id for case in primary} & {case.patient_id for case in auxiliary})
    if shared:
        raise LeakageError(
            f"{len(shared)} patient(s) are in both cohorts: {', '.join(shared[:5])}.",
            advice="Remove them from the auxiliary cohort, or give different patients different ids.",
        )
    digests: dict[str, dict[str, str]] = {}
    for name, cohort in (("primary", primary), ("auxiliary", auxiliary)):
        results = run_cases(pixel_digest, cohort, stage="pixels", settings={}, out=out / name, **work)
        digests[name] = {rows[0]["pixels"]: case for case, rows in all_read(results, cohort).items()}
    same = sorted(set(digests["primary"]) & set(digests["auxiliary"]))
    if same:
        pairs = "; ".join(f"{digests['primary'][key]} and {digests['auxiliary'][key]}" for key in same[:5])
        raise LeakageError(
            f"{len(same)} image(s) are in both cohorts under different patients: {pairs} have the same pixels.",
            advice="Remove them from the auxiliary cohort.",
        )


def pixel_digest(case: Case, seed: int) -> Rows:
    """Digest of a case's pixels, whatever the file and its header."""
    path = next(iter(case.images.values()))
    image = sitk.Cast(read_image(path, case_id=case.case_id), sitk.sitkFloat32)
    array = np.ascontiguousarray(to_array(sitk.DICOMOrient(image, "LPS")))
    return [{"pixels": f"{array.shape} {hashlib.sha256(array.data).hexdigest()}"}]
