"""Image series below a folder, and what their DICOM tags say they are.

DICOM files are grouped by SeriesInstanceUID. One series may hold several volumes (a diffusion series with all its
b-values, a localiser in three planes): it is divided by orientation and matrix, and where slice positions repeat by
b-value, echo time, image type and acquisition. Patient data is not read: only the tags of :data:`TAGS` are kept, in
memory; series are named by their folder below the one that was searched, never by an identifier from a header.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import SimpleITK as sitk
from tqdm.auto import tqdm

from hybrid.errors import InputError

VOLUME_SUFFIXES: Final = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
DICOM_SUFFIXES: Final = (".dcm", ".ima")

TAGS: Final[Mapping[str, str]] = {
    "series": "0020|000e", "modality": "0008|0060", "image_type": "0008|0008", "description": "0008|103e",
    "scanning_sequence": "0018|0020", "scan_options": "0018|0022", "sequence_name": "0018|0024",
    "repetition_time": "0018|0080", "echo_time": "0018|0081", "inversion_time": "0018|0082", "b_value": "0018|9087",
    "b_value_siemens": "0019|100c", "b_value_ge": "0043|1039", "b_value_philips": "2001|1003",
    "b_value_uih": "0065|1009",
    "position": "0020|0032", "orientation": "0020|0037", "instance": "0020|0013", "acquisition": "0020|0012",
    "temporal": "0020|0100", "rows": "0028|0010", "columns": "0028|0011", "frames": "0028|0008",
}  # fmt: skip
"""DICOM tags that are read, by name."""

B_VALUE_TAGS: Final = ("b_value", "b_value_siemens", "b_value_philips", "b_value_uih", "b_value_ge")
NO_SCAN: Final = ("SEG", "SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "DOC")
"""Modalities that are not scans."""

SEPARATORS: Final = ("b_value", "echo_time", "image_type", "acquisition", "temporal")
"""What divides a series whose slice positions repeat, tried in this order."""

HIGH_B: Final = 500.0
"""A diffusion-weighted image has a high b-value from here (s/mm2)."""

T2_LEAST_TE: Final = 60.0
SHORT_TE: Final = 40.0
SHORT_TR: Final = 1200.0
LONG_TR: Final = 1800.0
"""Echo and repetition times (ms) by which a spin echo without telling words is called T1, T2 or PD."""

SAME_POSITION_MM: Final = 0.01
LARGEST_GAP: Final = 1.5
"""A slice distance above this multiple of the median means a missing slice."""

_WORDS: Final = (
    ("localizer", r"\b(localizer|localiser|scout|survey|loc)\b"),
    ("adc", r"\badc\b|apparent diff|\bd?adc map\b"),
    ("flair", r"flair"),
    ("t1", r"\bt1w?\b|\bt1[ _]"),
    ("t2", r"\bt2w?i?\b(?! ?(star|\*))|\bt2[ _](?!star)"),
    ("pd", r"\bpdw?\b|proton dens"),
)
_DIFFUSION: Final = r"\b(dwi|diff|diffusion|dw|tracew?|resolve)\b|calc ?bval"
_FAT_SATURATED: Final = (
    r"\b(fs|fatsat|fat sat\w*|fat sup\w*|fat suppressed|fat saturated|spair|spir|stir|tirm|chess|dixon w|w dixon)\b"
)
_B_IN_TEXT: Final = r"\bb ?(?:values? ?|val ?)?(\d{1,4})\b(?! ?\d)"
_B_IN_SEQUENCE: Final = r"ep_b(\d{1,5})(?:t|#\d+)?$"


@dataclass(frozen=True)
class Series:
    """One volume on disk.

    Attributes
    ----------
    name : str
        Path below the searched folder; ``#2`` and so on where a folder holds several.
    files : tuple of Path
        One file, or the DICOM files of a stack in the order of their positions.
    place : str
        File or folder, below the searched folder.
    header : dict of str to str
        Tags by the names of :data:`TAGS`; empty for other files than DICOM.
    note : str
        How it was made from its files, where that is not plain.
    problem : str
        Why it cannot be used; empty when it can.
    skipped : bool
        Whether it is no scan at all (a segmentation, a report).
    """

    name: str
    files: tuple[Path, ...]
    place: str
    header: dict[str, str] = field(default_factory=dict, repr=False)
    note: str = ""
    problem: str = ""
    skipped: bool = False


@dataclass(frozen=True)
class TagOpinion:
    """What the tags of a series say.

    Attributes
    ----------
    sequence : str
        ``t1``, ``t2``, ``pd`` (each also with ``_fs``), ``flair``, ``dwi_low``, ``dwi_high``, ``dwi`` (b-value not
        given), ``adc``, ``localizer``, or the modality in small letters (``ct``, ``pet``); empty when they do not say.
    reason : str
        The rule, without text from the header.
    b_value : float
        In s/mm2; NaN when there is none.
    """

    sequence: str
    reason: str
    b_value: float = float("nan")


@dataclass(frozen=True)
class _File:
    path: Path
    tags: dict[str, str]


# Finding


def find_series(folder: str | Path, *, progress: bool = False) -> list[Series]:
    """Find every image series below a folder: DICOM, NIfTI, NRRD and MetaImage.

    Parameters
    ----------
    folder : path-like
        Searched with all its sub-folders.
    progress : bool
        Show a progress bar over the DICOM headers.

    Returns
    -------
    list of Series
        In the order of their names. DICOM files that cannot be read, and objects that are no scans, are entries with a
        ``problem``: none is lost. Files of other kinds are not looked at.

    Raises
    ------
    InputError
        When the folder does not exist or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("The folder does not exist.", advice="Check the spelling.", path=folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    volumes = [path for path in paths if path.name.lower().endswith(VOLUME_SUFFIXES)]
    dicom = [path for path in paths if path not in set(volumes) and _is_dicom(path)]
    if not volumes and not dicom:
        raise InputError(
            f"No image lies below the folder ({len(paths)} other files).",
            advice=f"Expected DICOM files or {', '.join(VOLUME_SUFFIXES)}.",
            path=folder,
        )
    files = [_read_file(path) for path in tqdm(dicom, desc="headers", unit="file", disable=not progress)]
    found = [Series(_below(path, folder), (path,), _below(path, folder)) for path in volumes]
    found += _named([part for group in _by_series(files) for part in _volumes(group, folder)])
    return sorted(found, key=lambda series: series.name)


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    with path.open("rb") as stream:
        stream.seek(128)
        return stream.read(4) == b"DICM"


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _read_file(path: Path) -> _File:
    """Tags of a file; none when it cannot be read as an image."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    reader.LoadPrivateTagsOn()
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return _File(path, {})
    held = {name: reader.GetMetaData(key).strip() for name, key in TAGS.items() if reader.HasMetaDataKey(key)}
    return _File(path, {name: text for name, text in held.items() if text})


def _by_series(files: Sequence[_File]) -> list[list[_File]]:
    """Files of one SeriesInstanceUID; without one, and for unreadable files, those of one folder."""
    groups: dict[tuple[str, str], list[_File]] = {}
    for file in files:
        uid = file.tags.get("series", "")
        key = ("uid", uid) if uid else ("folder" if file.tags else "unreadable", str(file.path.parent))
        groups.setdefault(key, []).append(file)
    return list(groups.values())


def _named(series: Sequence[Series]) -> list[Series]:
    """Give series of one folder numbers, in the order of their first files."""
    by_folder: dict[str, list[Series]] = {}
    for item in series:
        by_folder.setdefault(item.place, []).append(item)
    named = []
    for place, items in by_folder.items():
        items = sorted(items, key=lambda item: min(map(str, item.files)))
        for number, item in enumerate(items, start=1):
            name = place if len(items) == 1 else f"{place}#{number}"
            named.append(Series(name, item.files, place, item.header, item.note, item.problem, item.skipped))
    return named


def _volumes(files: list[_File], folder: Path) -> list[Series]:
    """Volumes of one series."""
    parents = {file.path.parent for file in files}
    shared = parents.pop() if len(parents) == 1 else _common(parents)
    place = _below(shared, folder)
    paths, header = tuple(file.path for file in files), files[0].tags
    if not header:
        text = "The DICOM files cannot be read as images: a structure set, a report, or damaged files."
        return [Series("", paths, place, problem=text, skipped=False)]
    modality = header.get("modality", "")
    if modality in NO_SCAN:
        return [Series("", paths, place, header, problem=f"Modality {modality} is no scan.", skipped=True)]
    if int(_number(header.get("frames", "1")) or 1) > 1:
        return [Series("", (file.path,), place, file.tags, note="a multi-frame file") for file in files]
    return [_stack(part, place) for group in _by_grid(files) for part in _separated(group)]


def _common(folders: set[Path]) -> Path:
    first, *others = sorted(folders)
    shared = first
    while not all(other.is_relative_to(shared) for other in others):
        shared = shared.parent
    return shared


def _by_grid(files: Sequence[_File]) -> list[list[_File]]:
    """Files of one orientation and matrix."""
    groups: dict[tuple[object, ...], list[_File]] = {}
    for file in files:
        cosines = tuple(np.round(_numbers(file.tags.get("orientation", "")), 2) + 0.0)
        groups.setdefault((cosines, file.tags.get("rows"), file.tags.get("columns")), []).append(file)
    return list(groups.values())


def _separated(files: list[_File]) -> list[list[_File]]:
    """Divide files whose positions repeat, as far as a tag tells them apart."""
    groups = [files]
    for name in SEPARATORS:
        groups = [part for group in groups for part in _divided(group, name)]
    return groups


def _divided(files: list[_File], name: str) -> list[list[_File]]:
    places = _positions(files)
    if places is None or len(_distinct(places)) == len(files):
        return [files]
    parts: dict[str, list[_File]] = {}
    for file in files:
        value = str(b_value_of(file.tags)) if name == "b_value" else file.tags.get(name, "")
        parts.setdefault(value, []).append(file)
    # Where every slice has an acquisition number of its own, the number does not tell volumes apart.
    enough = len(_distinct(places)) / 2
    return list(parts.values()) if all(len(part) >= enough for part in parts.values()) else [files]


def _positions(files: Sequence[_File]) -> np.ndarray | None:
    """Positions (mm) along the slice normal; None when the files do not hold them."""
    cosines = _numbers(files[0].tags.get("orientation", ""))
    points = [_numbers(file.tags.get("position", "")) for file in files]
    if cosines.size != 6 or any(point.size != 3 for point in points):
        return None
    return np.asarray(np.stack(points) @ np.cross(cosines[:3], cosines[3:]))


def _distinct(places: np.ndarray) -> np.ndarray:
    """Positions that differ by more than noise."""
    ordered = np.sort(places)
    return ordered[np.append(True, np.diff(ordered) > SAME_POSITION_MM)]


def _stack(files: list[_File], place: str) -> Series:
    """Volume of files in the order of their positions."""
    paths, header = tuple(file.path for file in files), files[0].tags
    places = _positions(files)
    if places is None:
        return Series("", paths, place, header, problem="The DICOM files do not say where their slices lie.")
    steps = np.round(places / SAME_POSITION_MM).tolist()
    order = sorted(range(len(files)), key=lambda i: (steps[i], _instance(files[i])))
    kept = [i for n, i in enumerate(order) if n == 0 or places[i] - places[order[n - 1]] > SAME_POSITION_MM]
    note = f"{len(files)} images at {len(kept)} positions: the first of each" if len(kept) < len(files) else ""
    gaps = np.diff(places[kept])
    problem = ""
    if gaps.size and gaps.max() > LARGEST_GAP * np.median(gaps):
        problem = f"Slices are missing: distances run from {gaps.min():.2f} to {gaps.max():.2f} mm."
    return Series("", tuple(files[i].path for i in kept), place, files[kept[0]].tags, note, problem)


def _instance(file: _File) -> tuple[float, str]:
    """Instance number of a file; files without one come last, by name."""
    number = _number(file.tags.get("instance", ""))
    return (number if np.isfinite(number) else np.inf, file.path.name)


def read_stack(series: Series) -> sitk.Image:
    """Read the DICOM files of a series as one volume.

    Raises
    ------
    InputError
        When the series has a problem or its pixels cannot be read.
    """
    place = Path(series.place)
    if series.problem:
        raise InputError(series.problem, advice="Export the complete series again.", path=place)
    try:
        if len(series.files) == 1:
            return sitk.ReadImage(str(series.files[0]), imageIO="GDCMImageIO")
        reader = sitk.ImageSeriesReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileNames([str(path) for path in series.files])
        return reader.Execute()
    except RuntimeError as error:
        # The reader's own text may hold paths and identifiers.
        raise InputError(
            "The pixels of the series cannot be read.", advice="Open it in a viewer and export it again.", path=place
        ) from error


# What the tags say


def _number(text: str) -> float:
    try:
        return float(text.split("\\")[0])
    except ValueError:
        return float("nan")


def _numbers(text: str) -> np.ndarray:
    try:
        return np.array([float(part) for part in text.split("\\")])
    except ValueError:
        return np.array([])


def _plain(text: str) -> str:
    """Lower-case words with single blanks."""
    return " ".join(re.sub(r"[^a-z0-9.*]+", " ", text.lower()).split())


def b_value_of(header: Mapping[str, str]) -> float:
    """b-value (s/mm2) from the standard tag, the manufacturers' own, the pulse sequence or the description; else NaN.

    Parameters
    ----------
    header : mapping
        Tags by the names of :data:`TAGS`.
    """
    for name in B_VALUE_TAGS:
        value = _number(header.get(name, ""))
        if name == "b_value_ge":
            value %= 1e9  # GE adds 1,000,000,000 to b-values of derived images
        if np.isfinite(value) and 0 <= value < 20000:
            return value
    found = re.search(_B_IN_SEQUENCE, header.get("sequence_name", "").lower())
    in_text = re.findall(_B_IN_TEXT, _plain(header.get("description", "")))
    if found:
        return float(found[1])
    return float(in_text[0]) if len(in_text) == 1 else float("nan")


def tag_opinion(header: Mapping[str, str]) -> TagOpinion:
    """Say what a series is by its DICOM tags, by written rules; pixels are not looked at.

    In this order: modalities other than MR; ADC (image type, words); diffusion (image type, words, a b-value above 0),
    low or high by its b-value; words of the description; echo and repetition time of a spin echo. Fat saturation: scan
    options ``FS``, or words.

    Parameters
    ----------
    header : mapping
        Tags by the names of :data:`TAGS`.
    """
    modality = header.get("modality", "")
    if modality != "MR":
        names = {"CT": "ct", "PT": "pet"}
        return TagOpinion(names.get(modality, modality.lower()), f"modality {modality}" if modality else "no tags")
    kinds, text = header.get("image_type", "").upper().split("\\"), _plain(header.get("description", ""))
    b_value = b_value_of(header)
    if "ADC" in kinds or _in_words("adc", text):
        return TagOpinion("adc", "image type ADC" if "ADC" in kinds else "words of the description")
    if {"DIFFUSION", "TRACEW"} & set(kinds) or re.search(_DIFFUSION, text) or b_value > 0:
        return _diffusion_opinion(b_value, text)
    return _contrast_opinion(header, text)


def _in_words(name: str, text: str) -> bool:
    return re.search(dict(_WORDS)[name], text) is not None


def _diffusion_opinion(b_value: float, text: str) -> TagOpinion:
    if np.isfinite(b_value):
        return TagOpinion("dwi_high" if b_value >= HIGH_B else "dwi_low", f"b = {b_value:g} s/mm2", b_value)
    if re.search(r"calc ?bval", text):
        return TagOpinion("dwi_high", "a calculated b-value: made to be high")
    return TagOpinion("dwi", "diffusion without a b-value")


def _contrast_opinion(header: Mapping[str, str], text: str) -> TagOpinion:
    options = [part.strip().upper() for part in header.get("scan_options", "").split("\\")]
    suffix = "_fs" if "FS" in options or re.search(_FAT_SATURATED, text) else ""
    for name, pattern in _WORDS:
        if name != "adc" and re.search(pattern, text):
            return TagOpinion(name + (suffix if name in ("t1", "t2", "pd") else ""), "words of the description")
    te, tr = _number(header.get("echo_time", "")), _number(header.get("repetition_time", ""))
    if "SE" not in header.get("scanning_sequence", "").upper().split("\\"):
        return TagOpinion("", "the tags do not say")
    times = f"TE {te:g} ms, TR {tr:g} ms"
    if te >= T2_LEAST_TE and tr >= LONG_TR:
        return TagOpinion(f"t2{suffix}", times)
    if te <= SHORT_TE and tr <= SHORT_TR:
        return TagOpinion(f"t1{suffix}", times)
    if te <= SHORT_TE and tr >= LONG_TR:
        return TagOpinion(f"pd{suffix}", times)
    return TagOpinion("", "the tags do not say")


def sequence_of_class(name: str) -> str:
    """Sequence that the name of a class means, in the words of :class:`TagOpinion`; empty when it is not known.

    Examples
    --------
    >>> [sequence_of_class(name) for name in ("T2 fat-saturated", "DWI_High (b>=500)", "MR_T1", "PET")]
    ['t2_fs', 'dwi_high', 't1', 'pet']
    """
    text = _plain(name.replace("_", " "))
    if re.search(r"\b(dwi|diffusion|dw|b ?\d{1,4})\b", text) and not _in_words("adc", text):
        b_value = re.findall(r"\bb ?(\d{1,4})\b", text)
        if re.search(r"\b(high|low)\b", text):
            return "dwi_high" if "high" in text else "dwi_low"
        return ("dwi_high" if float(b_value[0]) >= HIGH_B else "dwi_low") if len(b_value) == 1 else "dwi"
    for sequence, pattern in (*_WORDS, ("ct", r"\bct\b"), ("pet", r"\b(pet|pt)\b")):
        if re.search(pattern, text):
            suffix = "_fs" if sequence in ("t1", "t2", "pd") and re.search(_FAT_SATURATED, text) else ""
            return sequence + suffix
    return ""


def tags_agree(opinion: str, name: str, classes: Sequence[str]) -> bool | None:
    """Whether the tags' opinion and a class are the same sequence; None when one of them does not say.

    Parameters
    ----------
    opinion : str
        ``TagOpinion.sequence``.
    name : str
        The class that the pixels gave.
    classes : sequence of str
        All classes of the classifier: where it has only T2, a T2 with fat saturation is one; where the tags give no
        b-value, either class of diffusion agrees.
    """
    mine, known = sequence_of_class(name), {sequence_of_class(other) for other in classes}
    if not opinion or not mine:
        return None
    family = opinion.split("_")[0]
    if opinion == family == "dwi":
        return mine.startswith("dwi")
    return mine == (family if opinion not in known and family in known else opinion)
