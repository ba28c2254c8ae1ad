"""The head of a simulated CT, painted from the outside in: skull, brain, variants and findings.

Notes
-----
Grey and white matter: about 37 and 29 HU (Torbey et al. 2000, https://doi.org/10.1161/01.STR.31.9.2163); the physical
reason is given by Brooks et al. 1980, https://doi.org/10.1097/00004728-198008000-00016. Clotted blood: 60 to 75 HU, by
its haemoglobin (New and Aronow 1976, https://doi.org/10.1148/121.3.635). Physiological calcification: pineal region
68 %, choroid plexus 58 %, basal ganglia 7.5 % of adults (Kwak et al. 1988, https://doi.org/10.11477/mf.1406206122).
Other tissues: textbook values.

Coordinates are (z, y, x) in mm: to the vertex, to the back, to the patient's left; the origin lies between the
thalami. ``image[k]`` of the stored array is an axial slice as radiologists see it, from below.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from .fields import correlated_noise, soft_edge
from .label_maps import Grid, smooth_field

Triple: TypeAlias = Sequence[float] | np.ndarray
Box: TypeAlias = tuple[slice, ...]

FIELD_MM: Final = (120.0, 218.0, 218.0)
"""Size of the scan: skull base to vertex."""

CSF_HU: Final = 8.0


class Tissue(NamedTuple):
    """Density (HU), and the share of fluid around the brain, of ventricle, and of white matter."""

    hu: float | np.ndarray
    fluid: float = 0.0
    ventricle: float = 0.0
    white: float = 0.0


CSF: Final = Tissue(CSF_HU, fluid=1.0)


@dataclass(frozen=True)
class HeadFinding:
    """What a finding is painted from.

    Attributes
    ----------
    kind : str
        Key of :data:`KINDS`.
    z_mm, y_mm, x_mm : float
        Centre in the head's coordinates; for blood outside the brain the direction from the origin to its middle.
    radius_mm : float
        Mean radius; for a subarachnoid haemorrhage that of the stained region.
    thickness_mm : float
        Largest thickness of blood between brain and skull; else 0.
    extent_deg : float
        Angle, seen from the origin, between the middle and the end of blood outside the brain; else 0.
    hu : float
        Density of its core.
    oedema_mm : float
        Width of the oedema.
    push_mm : float
        How far the midline is pushed.
    """

    kind: str
    z_mm: float
    y_mm: float
    x_mm: float
    radius_mm: float
    thickness_mm: float
    extent_deg: float
    hu: float
    oedema_mm: float
    push_mm: float

    @property
    def centre(self) -> np.ndarray:
        """Centre (z, y, x) in mm."""
        return np.array((self.z_mm, self.y_mm, self.x_mm))


TERRITORIES: Final[Mapping[str, tuple[tuple[float, float, float], tuple[float, float, float]]]] = {
    "middle": ((10, -2, 46), (26, 30, 22)),
    "middle_upper": ((34, 6, 42), (20, 26, 20)),
    "anterior": ((34, -40, 13), (26, 26, 11)),
    "posterior": ((6, 54, 22), (16, 22, 17)),
    "cerebellar": ((-38, 46, 26), (13, 17, 19)),
    "perforators": ((8, -8, 22), (9, 11, 8)),
}
"""Arterial territories: centre (z, y, |x|) and half axes in mm."""


class Head:
    """Maps on half slices with the head's own coordinates (mm); ``lay`` paints over them.

    ``z``, ``y`` and ``x`` are the rigid head's coordinates, ``soft`` those of the brain, which is bent and pushed.
    """

    def __init__(self, shape: tuple[int, int, int], rng: np.random.Generator) -> None:
        self.rng, self.shape = rng, shape
        self.spacing = np.divide(FIELD_MM, shape)
        self.grid = Grid(-(np.array(shape) - 1) / 2 * self.spacing, self.spacing, shape)
        self.scale = float(np.clip(rng.normal(1.0, 0.035), 0.92, 1.06))
        self.turn = Rotation.from_euler("xyz", rng.normal(0, (4, 3, 4)), degrees=True).as_matrix()
        self.shift = np.array((-12.0, 0.0, 0.0)) + rng.normal(0, (4, 4, 4))
        lines = [axis - move for axis, move in zip(self.grid.axes(), self.shift, strict=True)]
        turn = (self.turn / self.scale).astype(np.float32)
        self.z, self.y, self.x = (sum(turn[i, j] * lines[j] for j in range(3)) for i in range(3))
        self.waves = self.smooth(6.0, 3.0)
        self.texture = self.smooth(2.5, 2.5)
        self.soft = [axis + 1.6 * self.smooth(22.0, 8.0) for axis in (self.z, self.y, self.x)]
        self.maps = {name: np.zeros(shape, np.float32) for name in Tissue._fields}
        self.maps["hu"] -= 1000

    def smooth(self, scale_mm: float, step_mm: float) -> np.ndarray:
        """Correlated noise over the whole field."""
        return smooth_field(self.grid, scale_mm, step_mm, self.rng)

    def around(self, points: np.ndarray, reach_mm: float) -> Box:
        """Voxels within ``reach_mm`` of any of the points (n, 3) of the head, with room for bent tissue."""
        places = self.scale * np.atleast_2d(points) @ self.turn + self.shift
        reach = self.scale * reach_mm + 9
        return self.grid.box(places.min(axis=0) - reach, places.max(axis=0) + reach)

    def lay(self, depth: np.ndarray, tissue: Tissue, edge_mm: float = 1.6, box: Any = ...) -> None:
        """Paint tissue where ``depth`` (mm) is positive; ``box`` is the part of the volume that depth covers."""
        share = soft_edge(depth, edge_mm)
        for name, values in self.maps.items():
            part = values[box]
            part += share * (getattr(tissue, name) - part)

    def ball(
        self,
        centre: Triple,
        radii: Triple,
        tissue: Tissue,
        *,
        edge_mm: float = 1.6,
        waves_mm: float = 0.0,
        rigid: bool = False,
    ) -> None:
        """Paint an ellipsoid (z, y, x; mm) into the brain, or into the rigid head."""
        box = self.around(np.asarray(centre, float), max(radii) + waves_mm)
        axes = (self.z, self.y, self.x) if rigid else self.soft
        depth = ellipsoid_depth([axis[box] - c for axis, c in zip(axes, centre, strict=True)], radii)
        self.lay(depth + waves_mm * self.waves[box], tissue, edge_mm, box)

    def tube(
        self,
        points: Sequence[Triple] | np.ndarray,
        tissue: Tissue,
        *,
        flat: float = 1.0,
        edge_mm: float = 1.6,
        rigid: bool = False,
    ) -> None:
        """Paint a tube through points (z, y, x, radius; mm), ``flat`` times as wide along x."""
        axes = (self.z, self.y, self.x) if rigid else self.soft
        for start, end in itertools.pairwise(points):
            ends = np.array((start, end), float)
            box = self.around(ends[:, :3], float(ends[:, 3].max()))
            squeeze = (1.0, 1.0, 1.0 / flat)
            step = (ends[1, :3] - ends[0, :3]) * squeeze
            parts = [(axis[box] - c) * s for axis, c, s in zip(axes, ends[0], squeeze, strict=False)]
            along = sum(part * length for part, length in zip(parts, step, strict=True))
            along = np.clip(along / float(step @ step), 0, 1)
            distance = np.sqrt(sum((part - along * length) ** 2 for part, length in zip(parts, step, strict=True)))
            self.lay(ends[0, 3] + along * (ends[1, 3] - ends[0, 3]) - distance, tissue, edge_mm, box)


def ellipsoid_depth(parts: Sequence[np.ndarray], radii: Triple) -> np.ndarray:
    """Depth (mm) below the surface of an ellipsoid, exact to first order near the surface."""
    square = sum((part / r) ** 2 for part, r in zip(parts, radii, strict=True))
    slope = np.sqrt(sum((part / r**2) ** 2 for part, r in zip(parts, radii, strict=True)))
    level = np.sqrt(square)
    return (level - square) / np.maximum(slope, 0.3 / max(radii)).astype(np.float32)


@dataclass
class _Layers:
    """Distances (mm) that several tissues are painted by, positive inside or above.

    ``vault``: below the inner surface of the skull's dome; ``cavity``: the same, cut by the skull base; ``tent``: above
    the tentorium (large in front of it); ``fissure``: from the falx; ``blood``: thickness of blood under the skull;
    ``swelling``: 0 to 1, where sulci are closed; ``shrinkage``: 0 (young) to 1.
    """

    vault: np.ndarray
    cavity: np.ndarray
    tent: np.ndarray
    fissure: np.ndarray
    blood: np.ndarray
    swelling: np.ndarray
    shrinkage: float


def paint_head(head: Head, findings: Sequence[HeadFinding], age: int, variants: Mapping[str, bool]) -> list[np.ndarray]:
    """Paint a patient from the outside in; the share of each voxel that each finding altered."""
    for finding in findings:
        _push(head, finding)
    regions = [_finding_depth(head, finding) for finding in findings]
    shrinkage = float(np.clip((age - 30) / 60 + head.rng.normal(0, 0.18), 0, 1.1))
    layers = _measure(head, list(zip(findings, regions, strict=True)), shrinkage, variants)
    _skull(head, layers)
    _skull_base(head)
    head.lay(layers.cavity, CSF, 1.2)
    _cerebrum(head, layers)
    _posterior_fossa(head, layers, variants)
    _deep_grey(head)
    _ventricles(head, shrinkage, variants)
    _membranes(head, layers, variants)
    _calcify(head, variants)
    shares = [_paint_finding(head, layers, finding, region) for finding, region in zip(findings, regions, strict=True)]
    inside = soft_edge(layers.cavity, 1.6)
    head.maps["hu"] += inside * (0.8 * head.texture + 1.0 * head.waves)
    return shares


def _push(head: Head, finding: HeadFinding) -> None:
    """Shift the midline away from a finding, and the tissue around a round one outwards."""
    z, y, x = (axis - c for axis, c in zip((head.z, head.y, head.x), finding.centre, strict=True))
    if finding.push_mm:
        bump = np.exp(-((y / 50) ** 2) - (z / 40) ** 2) * np.clip(1 - (head.x / 68) ** 2, 0, 1)
        head.soft[2] = head.soft[2] + np.sign(finding.x_mm) * finding.push_mm * bump
    if finding.kind in ("intracerebral_haemorrhage", "mass"):
        distance = np.sqrt(z**2 + y**2 + x**2) + 1e-3
        radius = finding.radius_mm
        move = 0.35 * radius * np.exp(-(((distance - radius) / (1.2 * radius)) ** 2)) / distance
        head.soft = [axis - move * part for axis, part in zip(head.soft, (z, y, x), strict=True)]


def _finding_depth(head: Head, finding: HeadFinding) -> np.ndarray:
    """Depth (mm) below the surface of a finding within the brain, or thickness of the blood outside it."""
    z, y, x = (axis - c for axis, c in zip((head.z, head.y, head.x), finding.centre, strict=True))
    if finding.extent_deg:
        direction = finding.centre / np.linalg.norm(finding.centre)
        along = sum(part * axis for part, axis in zip(direction, (head.z, head.y, head.x), strict=True))
        reach = np.sqrt(head.z**2 + head.y**2 + head.x**2) + 1e-3
        angle = np.rad2deg(np.arccos(np.clip(along / reach, -1, 1)))
        power = 5 if finding.kind == "subdural_haematoma" else 2
        profile = 1 - np.minimum(angle / finding.extent_deg, 1) ** power
        return finding.thickness_mm * profile * soft_edge(np.sign(finding.x_mm) * head.x - 3, 3.0)
    if finding.kind == "infarct":
        radii = next(
            half
            for place, half in TERRITORIES.values()
            if np.abs(_mirrored(place, finding) - finding.centre).max() < 15
        )
        return ellipsoid_depth((z, y, x), finding.radius_mm * np.asarray(radii)) + 2.0 * head.waves
    depth = ellipsoid_depth((z, y, x), finding.radius_mm * head.rng.uniform(0.8, 1.2, 3))
    return depth + min(0.12 * finding.radius_mm, 1.8) * head.waves


def _mirrored(place: Triple, finding: HeadFinding) -> np.ndarray:
    return np.multiply(place, (1, 1, np.sign(finding.x_mm)))


def _measure(
    head: Head,
    findings: Sequence[tuple[HeadFinding, np.ndarray]],
    shrinkage: float,
    variants: Mapping[str, bool],
) -> _Layers:
    """Measure the skull's inside and its folds."""
    z, y, x = head.z, head.y, head.x
    wide = x / (1 + 0.10 * y / 84)
    half = np.array((70, 84, 66)) * np.exp(head.rng.normal(0, 0.02, 3))
    height = np.where(z > 4, half[0], 112).astype(np.float32)
    vault = ellipsoid_depth(((z - 4) / height * half[0], y, wide), half) + 1.2 * head.smooth(25.0, 8.0)
    cavity = np.minimum(vault, 0.8 * (z - _floor(y, x)))
    if variants["hyperostosis"]:
        bulge = np.exp(-(((y + 72) / 20) ** 2) - ((np.abs(x) - 22) / 16) ** 2 - ((z - 18) / 24) ** 2)
        cavity = cavity - head.rng.uniform(4, 8) * bulge * (1 + 0.4 * head.waves)
    qz, qy, qx = head.soft
    ridge = -24 + 25 * np.exp(-((qx / 27) ** 2) - ((qy - 14) / 42) ** 2)
    tent = np.where(qy > 8 + 0.3 * np.abs(qx), 0.75 * (qz - ridge), 50.0).astype(np.float32)
    deep = np.maximum(np.maximum(qz - 25, -36 - qy), qy - 43)
    bend = 0.3 * qx + 0.7 * x
    fissure = np.where(deep > 0, np.abs(bend), np.hypot(bend, deep)).astype(np.float32)
    blood = np.zeros(head.shape, np.float32)
    swelling = np.zeros(head.shape, np.float32)
    for finding, region in findings:
        if finding.extent_deg:
            # Blood stays above the tentorium and the skull base.
            region *= soft_edge(tent - 2, 3.0) * soft_edge(z + 32, 6.0)
            blood = np.maximum(blood, region)
            swelling = np.maximum(swelling, 0.7 * soft_edge(region - 3, 6.0))
        elif finding.kind != "subarachnoid_haemorrhage":
            swelling = np.maximum(swelling, soft_edge(region + finding.oedema_mm, 8.0))
    return _Layers(vault, cavity, tent, fissure, blood, swelling, shrinkage)


def _floor(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Height (mm) of the skull base: over the orbits, below the temporal lobes, below the cerebellum; the sella."""
    front = 1 / (1 + np.exp((y + 32) / 4))
    back = 1 / (1 + np.exp((6 + 0.35 * np.abs(x) - y) / 4))
    sella = 17 * np.exp(-((x / 14) ** 2) - ((y + 14) / 13) ** 2)
    return -40 + front * (21 - 5 * np.exp(-((x / 9) ** 2))) - 26 * back + sella


def _skull(head: Head, layers: _Layers) -> None:
    """Paint scalp, the two tables of the skull with the diploe between them, and soft tissue below the skull base."""
    rng = head.rng
    bone = rng.uniform(5.0, 8.5) * (1 + 0.16 * head.smooth(18.0, 6.0)) + 2.0 * np.exp(-(((head.y - 78) / 18) ** 2))
    scalp = rng.uniform(4.5, 8.0) + 0.8 * head.smooth(25.0, 8.0)
    outside = layers.vault + bone
    head.lay(outside + scalp, Tissue(30.0))
    head.lay(outside + scalp - 2.2, Tissue(-75 + 15 * head.waves))
    for side in (-1, 1):
        head.ball((-22, -22, 71 * side), (26, 26, 8), Tissue(52.0), rigid=True)
    head.lay(outside, Tissue(rng.uniform(1150, 1450)), 1.2)
    diploe = np.minimum(outside - 2.0, -layers.vault - 1.8)
    head.lay(diploe, Tissue(rng.uniform(500, 800) + 120 * head.texture), 1.2)
    head.lay(layers.vault - 1.0, Tissue(15 + 50 * head.waves))
    head.lay(np.minimum(layers.cavity + 4.0, layers.vault + 1.0), Tissue(950 + 200 * head.waves), 1.5)


def _skull_base(head: Head) -> None:
    """Paint orbits, sinuses, sphenoid wings, petrous bones and mastoid cells, as far as the scan reaches."""
    rng = head.rng
    air, bone = Tissue(-950.0), Tissue(1100 + 150 * head.texture.mean())
    head.ball((-36, -58, 0), (14, 20, rng.uniform(8, 12)), Tissue(900.0), rigid=True)
    for place in range(-3, 4):
        cell = (-36 + rng.uniform(-3, 3), -60 + 6 * place, rng.uniform(2.5, 5))
        for side in (-1, 1):
            head.ball((cell[0], cell[1], cell[2] * side), (9, 2.8, 3.2), air, rigid=True)
    head.ball((-36, -24, rng.normal(0, 3)), (9, 10, rng.uniform(8, 14)), air, rigid=True)
    size = rng.uniform(0, 1.3)
    for side in (-1, 1):
        if size > 0.4:
            head.ball((-10, -86, 9 * side * size), (13 * size, 3.2, 10 * size), air, rigid=True)
        head.ball((-33, -58, 32 * side), (19, 25, 20), bone, rigid=True)
        head.ball((-34, -61, 32 * side), (17, 25, 18), Tissue(-80 + 10.0), rigid=True)
        head.tube([(-34, -40, 18 * side, 2.5), (-33, -58, 29 * side, 2.5)], Tissue(35.0), rigid=True)
        head.ball((-34, -70, 32 * side), (12, 12, 12), Tissue(35.0), rigid=True)
        head.ball((-34, -70, 32 * side), (10.5, 10.5, 10.5), Tissue(10.0), rigid=True)
        head.ball((-34, -79, 32 * side), (4.5, 2.2, 4.5), Tissue(70.0), rigid=True)
        head.tube([(-22, -32, 8 * side, 3.5), (-17, -36, 50 * side, 3.5)], bone, rigid=True)


def _petrous(head: Head) -> None:
    """Paint the petrous bones over the brain's lower parts, with air in ear and mastoid."""
    rng = head.rng
    cells = float(rng.uniform(0.0, 0.9))
    for side in (-1, 1):
        head.tube([(-40, 6, 14 * side, 6.0), (-37, 14, 32 * side, 9.0), (-38, 26, 58 * side, 12.0)], Tissue(1350.0),
                  rigid=True)  # fmt: skip
        box = head.around(np.array((-43.0, 30.0, 60.0 * side)), 16)
        parts = [axis[box] - c for axis, c in zip((head.z, head.y, head.x), (-43, 30, 60 * side), strict=True)]
        depth = ellipsoid_depth(parts, (15, 15, 9))
        head.lay(np.minimum(depth, 3 * (head.texture[box] + cells - 0.5)), Tissue(-800.0), 1.5, box)
        head.ball((-39, 17, 40 * side), (4, 3, 4), Tissue(-700.0), rigid=True)


def _sulci(head: Head) -> np.ndarray:
    """Distance (mm) from the middle of the nearest sulcus: zero levels of a field drawn out along the radius."""
    step, core = 2.0, 46.0
    count = int(2 * (core + 16) / step)
    field = correlated_noise((count,) * 3, 2.5, (step,) * 3, head.rng)
    slope = np.sqrt(sum(part**2 for part in np.gradient(field, step)))
    field = field / (slope + 0.06)
    radius = np.sqrt(sum(axis**2 for axis in head.soft)) + 1e-3
    shrunk = (core + 0.22 * (radius - 60)) / radius
    points = np.stack([axis * shrunk / step + (count - 1) / 2 for axis in head.soft])
    return np.abs(ndimage.map_coordinates(field, points, order=1, mode="nearest")) / np.clip(shrunk, 0.5, 2)


def _cerebrum(head: Head, layers: _Layers) -> None:
    """Paint both hemispheres: cortex along every surface, white matter deeper than 3 mm."""
    qz, qy, qx = head.soft
    shrinkage = layers.shrinkage
    gap = 0.5 + 2.6 * shrinkage + 0.5 * head.waves
    width = (1.5 + 2.8 * shrinkage) * (1 - 0.85 * layers.swelling)
    outer = np.minimum(layers.cavity - gap, layers.vault - layers.blood - 0.6)
    outer = np.minimum(outer, np.minimum(layers.fissure - 1.4 - 0.8 * shrinkage, layers.tent - 1.5))
    sulci = np.maximum(_sulci(head) - width / 2, outer - 13 - 4 * head.smooth(12.0, 6.0))
    side = np.abs(qx)
    insula = np.abs(side - 39 - 0.004 * qy**2) - width / 2
    insula = np.maximum(np.maximum(insula, np.abs(qy + 2) - 17), np.abs(qz - 3) - 11)
    sylvian = np.abs(qy + 13 - 0.3 * (side - 40)) - width / 2 - 0.5
    sylvian = np.maximum(np.maximum(sylvian, 38 - side), np.abs(qz - 2 - 0.3 * (qy + 13)) - 9)
    depth = np.minimum(np.minimum(outer, sulci), np.minimum(insula, sylvian))
    grey, white = head.rng.normal(37.5, 0.8), head.rng.normal(29, 0.8)
    core = soft_edge(depth - 3.3, 2.2)
    share = soft_edge(depth, 1.8)
    head.maps["hu"] += share * (grey + core * (white - grey) - head.maps["hu"])
    head.maps["fluid"] *= 1 - share
    head.maps["white"] += share * (core - head.maps["white"])


def _posterior_fossa(head: Head, layers: _Layers, variants: Mapping[str, bool]) -> None:
    """Paint cerebellum and brain stem in their cisterns, and the petrous bones."""
    _, qy, _ = head.soft
    gap = 0.8 + 1.5 * layers.shrinkage
    depth = np.minimum(np.minimum(layers.cavity - gap, -layers.tent - 1.5), 0.8 * (qy - 14))
    folia = np.sin(2.2 * depth + 1.5 * head.waves)
    core = soft_edge(depth - 9, 5.0)
    head.lay(depth, Tissue(37 - 6 * core - 1.5 * folia, white=0.5))
    if variants["mega_cisterna_magna"]:
        height, across = head.rng.uniform(10, 18), head.rng.uniform(16, 30)
        head.ball((-52 + 0.4 * height, 66, 0), (height, 14, across), Tissue(CSF_HU, fluid=1.0), waves_mm=1.0)
    head.ball((-52, 56, 0), (10, 8, 9), CSF)
    # Suprasellar, ambient and prepontine cisterns around the stem.
    stem = np.array([(-6, 10, 0, 12.5), (-16, 6, 0, 12.0), (-30, 5, 0, 13.0), (-52, 12, 0, 8.0)])
    head.tube(stem + np.array((0, 0, 0, 2.0 + 1.5 * layers.shrinkage)), CSF, flat=1.1)
    head.ball((-19, -11, 0), (8, 8, 10), CSF, waves_mm=1.0)
    head.ball((-5, 24, 0), (7, 4.5, 8 + 3 * layers.shrinkage), CSF, waves_mm=1.0)
    head.tube(stem, Tissue(32.0, white=0.6), flat=1.1, edge_mm=2.0)
    _petrous(head)


def _deep_grey(head: Head) -> None:
    """Paint caudate heads, lentiform nuclei and thalami."""
    grey = Tissue(head.rng.normal(38, 0.8))
    for side in (-1, 1):
        for centre, radii in (((7, -23, 14), (9, 8, 5)), ((3, -3, 26), (10, 15, 6)), ((6, 12, 10), (9, 12, 8))):
            head.ball(np.multiply(centre, (1, 1, side)), radii, grey, edge_mm=2.5, waves_mm=0.5)


def _ventricles(head: Head, shrinkage: float, variants: Mapping[str, bool]) -> None:
    """Paint the ventricles, wider with age, in white matter that is paler with age."""
    rng = head.rng
    size = float(0.72 + 0.55 * shrinkage + rng.normal(0, 0.08))
    uneven = float(rng.uniform(1.3, 1.7)) if variants["uneven_ventricles"] else 1.0
    fluid = Tissue(CSF_HU - 2, ventricle=1.0)
    big_side = float(rng.choice((-1, 1)))
    body = np.array([(4, -37, 9, 2.5), (11, -23, 9, 4.8), (24, -2, 12, 5.2), (20, 20, 18, 5.8), (9, 33, 25, 6.8)])
    back, low = (
        np.array([(9, 33, 25, 5.5), (6, 52, 23, 2.5)]),
        np.array([(7, 32, 26, 5), (-8, 20, 34, 2.2), (-19, 2, 33, 2.0)]),
    )
    for side in (-1, 1):
        grow = size * (uneven if side == big_side else 1.0)
        for points, flat in ((body, 0.75), (back * (1, 1, 1, rng.uniform(0.5, 1.2)), 0.8), (low, 1.0)):
            placed = points * (1, 1, side, grow)
            if flat == 0.75 and shrinkage > 0.5:
                halo = Tissue(29 - 6 * (shrinkage - 0.4), white=1.0)
                head.tube(placed + np.array((0, 0, 0, 4 * shrinkage)), halo, flat=0.8, edge_mm=6.0)
            head.tube(placed, fluid, flat=flat)
    head.ball((0, 3, 0), (9, 13, 0.9 + 1.8 * size * shrinkage + 0.6 * size), fluid)
    head.ball((-34, 27, 0), (9, 4.5 * size, 6 * size), fluid)
    if variants["cavum_septi"]:
        head.ball((13, -20, 0), (6, 11, rng.uniform(2.5, 4.5)), fluid)


def _membranes(head: Head, layers: _Layers, variants: Mapping[str, bool]) -> None:
    """Paint falx, tentorium and the venous sinuses at their edges."""
    inside = layers.cavity + 0.5
    blood = Tissue(head.rng.uniform(58, 66) if variants["dense_sinuses"] else head.rng.uniform(42, 50))
    above = np.minimum(layers.tent + 1, inside)
    head.lay(np.minimum(0.9 - layers.fissure, above), Tissue(46.0), 1.0)
    near = np.minimum(inside, np.minimum(10 - np.abs(layers.tent), head.y - 10))
    head.lay(np.minimum(0.8 - np.abs(layers.tent), near), Tissue(44.0), 1.0)
    sagittal = 4.0 - np.hypot(head.x, 0.9 * (layers.vault - 2.5))
    head.lay(np.minimum(np.minimum(sagittal, above), head.z + 0.6 * (head.y + 20)), blood)
    transverse = 3.6 - np.hypot(layers.tent, layers.vault - 3)
    head.lay(np.minimum(np.minimum(transverse, inside), 0.4 * (head.y - 25)), blood)


def _calcify(head: Head, variants: Mapping[str, bool]) -> None:
    """Paint physiological calcification."""
    rng = head.rng
    if variants["pineal_calcification"]:
        head.ball((-1 + rng.normal(), 23, rng.normal(0, 0.5)), rng.uniform(1.5, 3.2, 3), Tissue(rng.uniform(120, 350)))
    for side in (-1, 1):
        if variants["choroid_calcification"] and rng.random() < 0.85:
            place = (9 + rng.normal(0, 1.5), 34 + rng.normal(0, 1.5), 25.0 * side)
            head.ball(place, rng.uniform(1.8, 4.0, 3), Tissue(rng.uniform(100, 350)))
        if variants["pallidal_calcification"]:
            place = (2 + rng.normal(0, 1), -1 + rng.normal(0, 1.5), 20.0 * side)
            head.ball(place, rng.uniform(2.0, 3.8, 3), Tissue(rng.uniform(65, 150)), edge_mm=3.0)
    if variants["falx_calcification"]:
        for _ in range(int(rng.integers(1, 4))):
            place = (rng.uniform(34, 60), rng.uniform(-50, 40), rng.normal(0, 0.4))
            head.ball(place, (rng.uniform(3, 8), rng.uniform(3, 10), 1.3), Tissue(rng.uniform(200, 500)), rigid=True)


def _paint_finding(head: Head, layers: _Layers, finding: HeadFinding, region: np.ndarray) -> np.ndarray:
    """Paint a finding; the share of each voxel that it altered, oedema included."""
    hu, inside = head.maps["hu"], soft_edge(layers.cavity - 0.8, 1.6)
    brain = inside * (1 - head.maps["fluid"] - head.maps["ventricle"])
    density: float | np.ndarray = finding.hu
    other = np.zeros(head.shape, np.float32)
    if finding.extent_deg:
        share = inside * soft_edge(region - layers.vault, 1.4) * (region > 1.2)
        # Cells of old blood sink to the back.
        density = finding.hu + (0.25 * np.clip(head.y, -40, 60) if finding.hu < 30 else 2.0 * head.waves)
    elif finding.kind == "infarct":
        share, density = brain * soft_edge(region, 5.0), finding.hu + 1.0 * head.waves
    elif finding.kind == "subarachnoid_haemorrhage":
        share = inside * head.maps["fluid"] * np.clip((region + 2) / 8, 0, 1)
        density = finding.hu + 4.0 * head.waves
    elif finding.kind == "calcification":
        share = inside * soft_edge(np.minimum(region, 3.0 * (head.texture - 0.2)), 1.6)
    else:
        share = inside * soft_edge(region, 2.0)
        oedema = brain * (1 - share) * soft_edge(region + finding.oedema_mm * (0.75 + 0.35 * head.waves), 3.0)
        oedema *= 0.3 + 0.7 * head.maps["white"]
        hu += oedema * (19 - hu)
        density = finding.hu + (
            2.5 * head.texture if finding.kind != "mass" else -20 * _necrosis(head, finding, region)
        )
        other = oedema
    hu += share * (density - hu)
    if finding.kind == "intracerebral_haemorrhage" and np.abs(finding.centre).max() < 34:
        other = np.maximum(other, _ventricular_blood(head, finding))
    return np.maximum(share, other)


def _necrosis(head: Head, finding: HeadFinding, region: np.ndarray) -> np.ndarray:
    """Share of dead tissue within a larger mass, 0 to 1."""
    if finding.radius_mm < 9:
        return np.zeros(head.shape, np.float32)
    return soft_edge(region - 0.45 * finding.radius_mm, 3.0)


def _ventricular_blood(head: Head, finding: HeadFinding) -> np.ndarray:
    """Paint blood that broke into the ventricles and sank to the back; its share."""
    level = head.rng.uniform(10, 34)
    share = head.maps["ventricle"] * soft_edge(head.y - level, 2.0) * float(head.rng.random() < 0.5)
    head.maps["hu"] += share * (finding.hu - 6 - head.maps["hu"])
    return share
