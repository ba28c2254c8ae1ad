"""Cases and cohorts: identifiers, paths, outcome and covariates; no pixels.

A :class:`Case` is one row of the cohort table. A :class:`Cohort` is an immutable sequence of cases, read from CSV,
Excel or a DataFrame with :meth:`Cohort.from_csv`, :meth:`Cohort.from_excel` and :meth:`Cohort.from_frame`.

Columns: ``case_id`` (required), ``patient_id`` (default: the case id), ``image`` and ``mask`` (paths; further pairs as
``image_<name>`` and ``mask_<name>``, each pair on its own grid), ``roi_label``, ``outcome``, ``site``; every other
column is a covariate. Relative paths resolve against the folder of the file.
"""

from __future__ import annotations

import csv
import difflib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, overload

import numpy as np
import pandas as pd

from .errors import HybridError, InputError, unknown_name
from .tables import COHORT_COLUMNS, PROBLEM_COLUMNS

UNNAMED: Final = "image"
"""Name of the image in the plain ``image`` column."""

IMAGE_PREFIX: Final = "image_"
MASK_PREFIX: Final = "mask_"


@dataclass(frozen=True)
class Case:
    """One case: a lesion, an examination or a patient, as the study defines it.

    Parameters
    ----------
    case_id : str
        Unique in the cohort.
    patient_id : str
        Cases of one patient never fall on both sides of a split.
    image : path-like or mapping of str to path-like, optional
        One image, or several by name: ``{"ct": ..., "t2": ...}``.
    mask : path-like or mapping of str to path-like, optional
        Label mask; with several images a mask for each name.
    roi_label : int, optional
        Label of the region of interest; None takes every label that the mask holds.
    outcome : str, int, float or bool, optional
        What is to be predicted.
    site : str, optional
        Scanner or hospital.
    covariates : mapping, optional
        Clinical columns by name.
    """

    case_id: str
    patient_id: str = ""
    image: Path | Mapping[str, Path] | None = None
    mask: Path | Mapping[str, Path] | None = None
    roi_label: int | None = None
    outcome: Any = None
    site: str | None = None
    covariates: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "case_id", str(self.case_id))
        object.__setattr__(self, "patient_id", str(self.patient_id) if self.patient_id != "" else self.case_id)
        for name in ("image", "mask"):
            object.__setattr__(self, name, _as_paths(getattr(self, name)))
        object.__setattr__(self, "covariates", dict(self.covariates))

    @property
    def images(self) -> dict[str, Path]:
        """Image paths by name; a single unnamed image is called ``"image"``."""
        return _named(self.image)

    @property
    def masks(self) -> dict[str, Path]:
        """Mask paths by image name; an image without a mask of its own uses the plain ``mask``, if there is one."""
        masks = _named(self.mask)
        if UNNAMED in masks:
            masks = {**dict.fromkeys(self.images, masks[UNNAMED]), **masks}
        return {name: path for name, path in masks.items() if name in self.images or not self.images}


def _as_paths(value: Any) -> Path | Mapping[str, Path] | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        paths = {str(name): Path(path) for name, path in value.items()}
        return paths[UNNAMED] if list(paths) == [UNNAMED] else paths
    return Path(value)


def _named(value: Path | Mapping[str, Path] | None) -> dict[str, Path]:
    if value is None:
        return {}
    return {UNNAMED: value} if isinstance(value, Path) else dict(value)


class Cohort(Sequence[Case]):
    """Immutable sequence of cases.

    Parameters
    ----------
    cases : iterable of Case
        Any number of cases. Doubled ids are reported by :meth:`check` and refused by every pipeline.
    """

    def __init__(self, cases: Iterable[Case]) -> None:
        self._cases = tuple(cases)
        self._position = MappingProxyType({case.case_id: i for i, case in enumerate(self._cases)})

    @classmethod
    def from_csv(cls, path: str | Path) -> Cohort:
        """Read a CSV file (comma, semicolon or tab separated, UTF-8).

        Parameters
        ----------
        path : path-like
            Relative image paths resolve against its folder.

        Raises
        ------
        InputError
            When the file is missing, empty or not a table, or a column name is wrong.
        """
        path = _existing(path)
        try:
            separator = _separator(path)
            table = pd.read_csv(
                path, sep=separator, dtype=_text_columns(path, separator), encoding="utf-8-sig",
                decimal="," if separator == ";" else ".",
            )  # fmt: skip
        except UnicodeDecodeError as error:
            raise InputError(
                "The table is not in UTF-8.", advice="Save it as 'CSV UTF-8', or as .xlsx.", path=path
            ) from error
        except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise InputError(
                f"The table cannot be read ({error}).", advice="Open it in a spreadsheet and save as CSV.", path=path
            ) from error
        return cls.from_frame(table, folder=path.parent, source=path)

    @classmethod
    def from_excel(cls, path: str | Path, *, sheet: str | int = 0) -> Cohort:
        """Read a sheet of an Excel file, see :meth:`from_csv`."""
        path = _existing(path)
        try:
            table = pd.read_excel(path, sheet_name=sheet, dtype={"case_id": str, "patient_id": str})
        except (ValueError, KeyError, OSError) as error:
            raise InputError(
                f"The sheet cannot be read ({error}).", advice="Save the file as .xlsx or CSV.", path=path
            ) from error
        return cls.from_frame(table, folder=path.parent, source=path)

    @classmethod
    def read(cls, path: str | Path) -> Cohort:
        """Read a cohort file by its ending: ``.xlsx`` and ``.xls`` as Excel, anything else as CSV."""
        if Path(path).suffix.lower() in (".xlsx", ".xls"):
            return cls.from_excel(path)
        return cls.from_csv(path)

    @classmethod
    def from_frame(cls, table: pd.DataFrame, *, folder: str | Path = ".", source: str | Path | None = None) -> Cohort:
        """Build a cohort from a DataFrame.

        Parameters
        ----------
        table : DataFrame
            One row per case; not modified.
        folder : path-like
            Relative paths resolve against it.
        source : path-like, optional
            File named in errors.

        Raises
        ------
        InputError
            When ``case_id`` is absent or empty in a row, or a column name looks like a misspelt fixed one.
        """
        table = table.reset_index() if table.index.name == "case_id" else table
        _check_columns(table, source)
        return cls(_case_from_row(row, i, Path(folder), source) for i, row in enumerate(table.to_dict("records")))

    def to_frame(self) -> pd.DataFrame:
        """One row per case with the columns that :meth:`from_frame` reads; paths as text."""
        return pd.DataFrame([_row_from_case(case) for case in self._cases])

    def subset(self, case_ids: Iterable[str]) -> Cohort:
        """Cohort of the named cases, in the order given.

        Raises
        ------
        InputError
            For an id that is not in the cohort.
        """
        return Cohort(self[case_id] for case_id in case_ids)

    def with_scans(self, **columns: Mapping[str, Path]) -> Cohort:
        """Cohort with ``image`` or ``mask`` replaced, given as ``{case_id: path}``.

        Examples
        --------
        >>> cohort = Cohort([Case("a", image="a.nii.gz")])
        >>> cohort.with_scans(mask={"a": Path("a_mask.nii.gz")})["a"].mask.name
        'a_mask.nii.gz'
        """
        return Cohort(
            replace(case, **{name: paths.get(case.case_id, getattr(case, name)) for name, paths in columns.items()})
            for case in self._cases
        )

    @property
    def outcomes(self) -> pd.Series:
        """Outcome of each case, indexed by ``case_id``."""
        return pd.Series(
            [case.outcome for case in self._cases],
            index=pd.Index([case.case_id for case in self._cases], name="case_id"),
            name="outcome",
            dtype=object,
        )

    @property
    def image_names(self) -> list[str]:
        """Names of all images that any case has, in order of first appearance."""
        return list(dict.fromkeys(name for case in self._cases for name in case.images))

    def require_unique_ids(self) -> None:
        """Raise when two cases carry one id.

        Raises
        ------
        InputError
            Naming the first doubled id.
        """
        doubled = [name for name, count in Counter(case.case_id for case in self._cases).items() if count > 1]
        if doubled:
            raise InputError(
                f"The id stands in {sum(case.case_id == doubled[0] for case in self._cases)} rows of the cohort.",
                advice="Give each case its own case_id; cases of one patient share the patient_id.",
                case_id=doubled[0],
            )

    def check(self, *, progress: bool = False) -> pd.DataFrame:
        """Look for problems before any work is done; nothing is changed and nothing raised.

        Parameters
        ----------
        progress : bool
            Show a progress bar.

        Returns
        -------
        DataFrame
            ``case_id, severity, problem, advice``; empty when all is well. ``severity`` is ``"error"`` for what makes
            a case (or the study) fail and ``"warning"`` for what should be looked at.
        """
        from .checks import check_cohort

        rows = check_cohort(self._cases, progress=progress)
        return pd.DataFrame(rows, columns=list(PROBLEM_COLUMNS))

    @overload
    def __getitem__(self, item: int | str) -> Case: ...
    @overload
    def __getitem__(self, item: slice) -> Cohort: ...
    def __getitem__(self, item: int | str | slice) -> Case | Cohort:
        if isinstance(item, slice):
            return Cohort(self._cases[item])
        if isinstance(item, str):
            if item not in self._position:
                raise unknown_name("case", item, self._position)
            return self._cases[self._position[item]]
        return self._cases[item]

    def __len__(self) -> int:
        return len(self._cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self._cases)

    def __repr__(self) -> str:
        patients = len({case.patient_id for case in self._cases})
        counts = self.outcomes.value_counts().to_dict()
        return f"Cohort({len(self)} cases of {patients} patients, images {self.image_names}, outcomes {counts})"

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(max_rows=10, index=False)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "Check the spelling and the folder."
        raise InputError("The cohort file does not exist.", advice=hint, path=path)
    return path


def _separator(path: Path) -> str:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        header = stream.readline()
    return max(",;\t", key=header.count)


def _text_columns(path: Path, separator: str) -> dict[str, type]:
    """Name the columns that are read as text: '007' is not 7."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        header = next(csv.reader(stream, delimiter=separator), [])
    text = {"case_id", "patient_id", "site", "image", "mask"}
    return {name: str for name in header if name in text or name.startswith((IMAGE_PREFIX, MASK_PREFIX))}


def _check_columns(table: pd.DataFrame, source: str | Path | None) -> None:
    known = set(table.columns)
    if "case_id" not in known:
        error = unknown_name("column", "case_id", map(str, table.columns))
        raise InputError("The cohort table has no column 'case_id'.", advice=error.advice, path=source)
    absent = [name for name in COHORT_COLUMNS if name not in known]
    for column in map(str, table.columns):
        if column in COHORT_COLUMNS or column.startswith((IMAGE_PREFIX, MASK_PREFIX)):
            continue
        near = difflib.get_close_matches(column.strip().lower(), absent, n=1, cutoff=0.8)
        if near:
            raise InputError(
                f"Column {column!r} looks like a misspelt {near[0]!r}.",
                advice=f"Rename it to {near[0]!r}, or to something less alike if it is a covariate.",
                path=source,
            )
    names = {column[len(MASK_PREFIX) :] for column in map(str, table.columns) if column.startswith(MASK_PREFIX)}
    images = {column[len(IMAGE_PREFIX) :] for column in map(str, table.columns) if column.startswith(IMAGE_PREFIX)}
    for name in sorted(names - images):
        raise InputError(
            f"Column 'mask_{name}' has no column 'image_{name}'.",
            advice=unknown_name("image", name, images).advice,
            path=source,
        )


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA or value is pd.NaT


def _plain(value: Any) -> Any:
    """Missing as None, whole floats as int (a column with gaps is read as float), NumPy scalars as Python's."""
    if _is_missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value.strip() if isinstance(value, str) else value


def _resolve(value: str, folder: Path) -> Path:
    # Spreadsheets written on Windows carry backslashes, which are ordinary characters elsewhere.
    text = value.replace("\\", "/") if os.sep == "/" else value
    path = Path(text).expanduser()
    return path if path.is_absolute() else folder / path


def _case_from_row(row: Mapping[Any, Any], number: int, folder: Path, source: str | Path | None) -> Case:
    values = {str(name): _plain(value) for name, value in row.items()}
    if values["case_id"] is None:
        raise InputError(f"Row {number + 1} of the cohort table has no case_id.", advice="Fill it in.", path=source)
    scans = {
        kind: {
            UNNAMED if name == kind else name[len(kind) + 1 :]: _resolve(str(value), folder)
            for name, value in values.items()
            if value is not None and (name == kind or name.startswith(f"{kind}_"))
        }
        for kind in ("image", "mask")
    }
    return Case(
        case_id=str(values["case_id"]),
        patient_id=str(values.get("patient_id") or values["case_id"]),
        image=scans["image"] or None,
        mask=scans["mask"] or None,
        roi_label=_label(values.get("roi_label"), str(values["case_id"]), source),
        outcome=values.get("outcome"),
        site=None if values.get("site") is None else str(values["site"]),
        covariates={
            name: value
            for name, value in values.items()
            if name not in COHORT_COLUMNS and not name.startswith((IMAGE_PREFIX, MASK_PREFIX))
        },
    )


def _label(value: Any, case_id: str, source: str | Path | None) -> int | None:
    if value is None or (isinstance(value, int) and value > 0):
        return value
    raise InputError(
        f"The 'roi_label' must be a whole number above 0; found {value!r}.",
        advice="Leave it empty to use every label of the mask.",
        case_id=case_id,
        path=source,
    )


def _row_from_case(case: Case) -> dict[str, Any]:
    row: dict[str, Any] = {"case_id": case.case_id, "patient_id": case.patient_id}
    for kind, paths in (("image", _named(case.image)), ("mask", _named(case.mask))):
        row |= {kind if name == UNNAMED else f"{kind}_{name}": str(path) for name, path in paths.items()}
    row |= {"roi_label": case.roi_label, "outcome": case.outcome, "site": case.site, **case.covariates}
    return row


def load_pair(case: Case, name: str = UNNAMED) -> tuple[Any, Any, Any]:
    """Read one image of a case with its mask put on the image's grid.

    Parameters
    ----------
    case : Case
        The case.
    name : str
        Which of its images.

    Returns
    -------
    image, mask : SimpleITK.Image
        On one grid.
    report : GeometryReport
        What was found when the grids were compared.

    Raises
    ------
    InputError
        When the case has no such image or no mask for it, or a file cannot be used.
    """
    from .images import align_mask, nonfinite_voxels, read_image, read_mask, to_array

    if name not in case.images:
        error: HybridError = unknown_name("image", name, case.images, case_id=case.case_id)
        raise error
    if name not in case.masks:
        raise InputError(
            f"Image {name!r} has no mask.",
            advice="Fill the mask column of the cohort table, or segment the images first.",
            case_id=case.case_id,
            path=case.images[name],
        )
    image = read_image(case.images[name], case_id=case.case_id)
    mask = read_mask(case.masks[name], case_id=case.case_id)
    aligned, report = align_mask(image, mask, case_id=case.case_id, path=case.masks[name])
    broken = nonfinite_voxels(case.images[name], image)
    if broken is not None and (broken & (to_array(aligned) > 0)).any():
        raise InputError(
            f"{(broken & (to_array(aligned) > 0)).sum()} voxels inside the mask are NaN or infinite.",
            advice="Replace them before use.",
            case_id=case.case_id,
            path=case.images[name],
        )
    return image, aligned, report
