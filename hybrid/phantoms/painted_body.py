"""The body around the kidneys: where everything lies, and its paint in layers from the skin inwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from scipy import ndimage

from .fields import soft_edge
from .label_maps import Box, Grid, LabelMap, Triple, smooth_field

PHASES: Final = ("unenhanced", "corticomedullary", "nephrographic", "portal")
"""Phases of contrast, in the order of the columns of :data:`TISSUE_HU`."""

TISSUE_HU: Final[Mapping[str, tuple[float, float, float, float]]] = {
    "fat": (-105.0, -105.0, -103.0, -104.0),
    "muscle": (52.0, 60.0, 66.0, 66.0),
    "trabecular": (170.0, 185.0, 190.0, 190.0),
    "cortical_bone": (650.0, 650.0, 650.0, 650.0),
    "disc": (75.0, 78.0, 80.0, 80.0),
    "canal": (25.0, 28.0, 30.0, 30.0),
    "liver": (58.0, 78.0, 110.0, 116.0),
    "spleen": (48.0, 135.0, 120.0, 126.0),
    "pancreas": (42.0, 108.0, 90.0, 98.0),
    "bowel_wall": (40.0, 90.0, 92.0, 98.0),
    "artery": (42.0, 290.0, 140.0, 165.0),
    "vein": (41.0, 110.0, 135.0, 152.0),
    "cortex": (34.0, 175.0, 160.0, 172.0),
    "medulla": (33.0, 85.0, 150.0, 138.0),
    "pelvis": (8.0, 10.0, 25.0, 12.0),
    "solid": (36.0, 112.0, 104.0, 108.0),
    "aml_soft": (40.0, 95.0, 88.0, 92.0),
}
"""Density (HU) of each tissue by phase: typical values, no single source."""


@dataclass(frozen=True)
class BodyPlan:
    """Where the body lies around the kidneys; mm, LPS.

    ``middle`` is (z, y, x): the kidneys' height and depth, and the midline. ``spine`` is the y of the vertebral bodies'
    middle. ``centre`` and ``half`` are (y, x) of the skin's superellipse.
    """

    middle: np.ndarray
    spine: float
    centre: np.ndarray
    half: np.ndarray
    fat_mm: float
    wall_mm: float
    hila: tuple[np.ndarray, ...]

    def norm(self, y: np.ndarray, x: np.ndarray, inset: float) -> np.ndarray:
        """1 on the superellipse ``inset`` mm below the skin, less inside."""
        half = self.half - inset
        power = np.abs((y - self.centre[0]) / half[0]) ** 2.5 + np.abs((x - self.centre[1]) / half[1]) ** 2.5
        return power ** (1 / 2.5)


def _sides(labels: LabelMap, rng: np.random.Generator) -> tuple[float, list[np.ndarray]]:
    """Midline (x, mm) and the points of each kidney, from right to left."""
    coin = 1.0 if rng.random() < 0.5 else -1.0
    parts, count = ndimage.label(labels.values > 0, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")[:2]
    clouds = sorted((labels.points(parts == i + 1) for i in order), key=lambda cloud: cloud[:, 2].mean())
    if len(clouds) == 2 and min(map(len, clouds)) > 0.1 * max(map(len, clouds)):
        middles = [(cloud[:, 2].min() + cloud[:, 2].max()) / 2 for cloud in clouds]
        if middles[1] - middles[0] > 50:
            medial = (clouds[0][:, 2].max() + clouds[1][:, 2].min()) / 2
            return float(0.5 * medial + 0.25 * sum(middles)), clouds
    cloud = labels.points(labels.values > 0)
    low, high = cloud[:, 2].min(), cloud[:, 2].max()
    if high - low > 130:
        middle = (low + high) / 2
        return float(middle), [cloud[cloud[:, 2] < middle], cloud[cloud[:, 2] >= middle]]
    # One kidney alone does not tell its side: it is drawn, with the inner border 32 mm from the midline.
    return float(low - 32 if coin > 0 else high + 32), [cloud]


def draw_plan(labels: LabelMap, rng: np.random.Generator) -> BodyPlan:
    """Draw a body that the kidneys fit into."""
    midline, clouds = _sides(labels, rng)
    points = np.concatenate(clouds)
    z, y = (points[:, :2].min(axis=0) + points[:, :2].max(axis=0)) / 2
    y = float(np.mean([cloud[:, 1].mean() for cloud in clouds]))
    strip = points[np.abs(points[:, 2] - midline) < 26]
    spine = max(y + rng.uniform(14, 20), float(strip[:, 1].max()) + 24 if len(strip) else -np.inf)
    fat_mm, wall_mm = float(rng.uniform(8, 26)), float(rng.uniform(8, 12))
    back = spine + 56 + fat_mm
    half = np.array([rng.uniform(92, 106), rng.uniform(122, 136)]) + fat_mm
    hila = tuple(_hilum(cloud, midline) for cloud in clouds)
    for _ in range(200):
        centre = np.array([back - half[0], midline])
        plan = BodyPlan(np.array([z, y, midline]), spine, centre, half, fat_mm, wall_mm, hila)
        reach = plan.norm(points[:, 1], points[:, 2], fat_mm + wall_mm + 4)
        if reach.max() < 1:
            break
        # A kidney in a corner behind needs a deeper back and a wider body, others a larger one.
        behind = (points[np.argmax(reach), 1] - centre[0]) / half[0] > 0.4
        back += 1.0 if behind else 0.0
        half = half + ((0.5, 0.5) if behind else (1.0, 2.0))
    return plan


def _hilum(cloud: np.ndarray, midline: float) -> np.ndarray:
    """Find a point just medial to the kidney's waist."""
    middle = cloud.mean(axis=0)
    waist = cloud[np.abs(cloud[:, 0] - middle[0]) < 6]
    waist = waist if len(waist) else cloud
    inward = -1.0 if middle[2] > midline else 1.0
    near = waist[:, 2].min() if inward < 0 else waist[:, 2].max()
    return np.array([middle[0], middle[1] - 4, near - 6 * inward])


def output_grid(
    labels: LabelMap, plan: BodyPlan, spacing: np.ndarray, field_mm: Triple, rng: np.random.Generator
) -> Grid:
    """Voxels of the scan: around the body, not quite centred; on the label map's voxels where the steps agree."""
    low, high = labels.grid.origin, labels.grid.origin + (np.asarray(labels.grid.shape) - 1) * labels.grid.spacing
    body = np.array([[plan.centre[0] - plan.half[0], plan.centre[1] - plan.half[1]], plan.centre + plan.half]) * 1.0
    low, high = low.copy(), high.copy()
    low[1:], high[1:] = np.minimum(low[1:], body[0] - 8), np.maximum(high[1:], body[1] + (26, 8))
    size = np.maximum(field_mm, high - low)
    middle = (low + high) / 2 + rng.uniform(-0.5, 0.5, 3) * np.minimum(size - (high - low), (60, 16, 16))
    count = np.ceil(size / spacing - 1e-6).astype(int)
    anchor = labels.grid.origin + np.where(spacing > labels.grid.spacing + 1e-6, 0, (spacing - labels.grid.spacing) / 2)
    origin = anchor + np.rint((middle - size / 2 - anchor) / spacing) * spacing
    return Grid(origin, spacing, tuple(count.tolist()))


@dataclass
class Canvas:
    """What is painted on: HU on a grid, two random fields on the same grid, and the patient's densities."""

    grid: Grid
    values: np.ndarray
    waves: np.ndarray
    texture: np.ndarray
    hu: Mapping[str, float]
    plan: BodyPlan

    @property
    def edge_mm(self) -> float:
        """Width of an edge: one voxel, the partial volume of a smooth surface."""
        return max(float(self.grid.spacing.mean()), 1.0)

    def lay(self, box: Box, depth: np.ndarray, density: float | np.ndarray, texture_hu: float = 0.0) -> None:
        """Lay tissue over what is there where ``depth`` (mm) is positive."""
        share = soft_edge(depth, self.edge_mm)
        tissue = density + texture_hu * self.texture[box] if texture_hu else density
        self.values[box] += share * (tissue - self.values[box])

    def ellipsoid(self, centre: Triple, radii: Triple, waviness: float = 0.0) -> tuple[Box, np.ndarray]:
        """Box and depth (mm) of an ellipsoid; ``waviness`` is a fraction of the radius."""
        centre, radii = np.asarray(centre, float), np.asarray(radii, float)
        reach = radii * (1 + 2.5 * waviness) + 2 * self.grid.spacing
        box = self.grid.box(centre - reach, centre + reach)
        axes = self.grid.axes(box)
        norm = np.sqrt(sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre.tolist(), radii.tolist(), strict=True)))
        size = float(np.prod(radii)) ** (1 / 3)
        return box, size * (1 + waviness * self.waves[box] - norm)

    def tube(self, points: Sequence[Triple], radius: float) -> Iterator[tuple[Box, np.ndarray]]:
        """Box and depth (mm) of each piece of a tube along a polyline; wavy in width."""
        for start, stop in pairwise(points):
            a, b = np.asarray(start, float), np.asarray(stop, float)
            reach = radius * 1.4 + 2 * self.grid.spacing
            box = self.grid.box(np.minimum(a, b) - reach, np.maximum(a, b) + reach)
            axes = self.grid.axes(box)
            along = b - a
            share = sum(axis * float(v) for axis, v in zip(axes, along, strict=True)) - float(a @ along)
            share = np.clip(share / max(float(along @ along), 1e-6), 0, 1)
            gap = sum((x - p - share * v) ** 2 for x, p, v in zip(axes, a.tolist(), along.tolist(), strict=True))
            yield box, radius * (1 + 0.12 * self.waves[box]) - np.sqrt(gap)


def draw_hu(phase: str, rng: np.random.Generator) -> dict[str, float]:
    """Densities of one patient: enhancement varies as a whole and by tissue."""
    shared, column = float(rng.normal(0, 0.12)), PHASES.index(phase)
    densities = {}
    for tissue, row in TISSUE_HU.items():
        own = float(rng.normal(0, 0.08))
        rest = 2.5 * float(rng.normal())
        densities[tissue] = row[0] + (row[column] - row[0]) * (1 + shared + own) + rest
    return densities


def paint_body(grid: Grid, plan: BodyPlan, hu: Mapping[str, float], seed: int) -> Canvas:
    """Everything but the kidneys."""
    waves = smooth_field(grid, 14.0, 9.0, np.random.default_rng([seed, 10]))
    texture = smooth_field(grid, 2.0, 2.0 * float(grid.spacing.min()), np.random.default_rng([seed, 11]))
    canvas = Canvas(grid, np.full(grid.shape, -1000.0, np.float32), waves, texture, hu, plan)
    rng = np.random.default_rng([seed, 12])
    _trunk(canvas)
    _lungs(canvas, rng)
    _ribs(canvas, rng)
    _muscles(canvas)
    _bowel(canvas, rng)
    _solid_organs(canvas, rng)
    _spine(canvas)
    _pelvic_bones(canvas)
    _great_vessels(canvas, rng)
    _table(canvas)
    return canvas


def _trunk(canvas: Canvas) -> None:
    """Subcutaneous fat, muscle wall, and the fat of the cavity, in layers."""
    plan, everywhere = canvas.plan, tuple(slice(0, n) for n in canvas.grid.shape)
    z, y, x = canvas.grid.axes()
    waist = 1 + 0.03 * np.sin((z - plan.middle[0]) / 60.0)
    layers = (
        (0.0, canvas.hu["muscle"] - 40, 0.0),
        (2.0, canvas.hu["fat"], 5.0),
        (plan.fat_mm, canvas.hu["muscle"], 8.0),
        (plan.fat_mm + plan.wall_mm, canvas.hu["fat"] + 4, 9.0),
    )
    for inset, density, texture_hu in layers:
        half = float(plan.half.min()) - inset
        shrink = np.maximum(waist, 1.0) if inset > 2 else waist + 0.03
        canvas.lay(everywhere, half * (shrink - plan.norm(y, x, inset)), density, texture_hu)


def _lungs(canvas: Canvas, rng: np.random.Generator) -> None:
    """Lung bases above the domes of the diaphragm."""
    plan = canvas.plan
    inner = plan.half - plan.fat_mm - plan.wall_mm
    for side in (-1, 1):
        centre = plan.middle[0] + 205 + rng.normal(0, 6), plan.centre[0] + 8, plan.middle[2] + side * 0.46 * inner[1]
        box, depth = canvas.ellipsoid(centre, (112, 0.88 * inner[0], 0.46 * inner[1]), 0.02)
        canvas.lay(box, depth, -850.0, 25.0)


def _ribs(canvas: Canvas, rng: np.random.Generator) -> None:
    """Slanting arcs in the wall: cortical bone around marrow."""
    plan = canvas.plan
    half = plan.half - plan.fat_mm - 0.5 * plan.wall_mm
    for number in range(9):
        top = plan.middle[0] + 15 + 28 * number + rng.normal(0, 2)
        last = 1.15 if number == 0 else 1.7 if number == 1 else 2.5
        for side in (-1, 1):
            points = []
            for angle in np.linspace(0.33, last, 3 + int(4 * last)):
                sine, cosine = np.sin(angle), np.cos(angle)
                y = plan.centre[0] + half[0] * np.sign(cosine) * abs(cosine) ** 0.8
                points.append((top - 34 * (angle - 0.33), y, plan.centre[1] + side * half[1] * abs(sine) ** 0.8))
            for box, depth in canvas.tube(points, 5.5):
                canvas.lay(box, depth, 420.0)
                canvas.lay(box, depth - 2.5, canvas.hu["trabecular"])


def _muscles(canvas: Canvas) -> None:
    """Psoas, widening downwards; quadratus lumborum; the back's extensors."""
    plan, muscle = canvas.plan, canvas.hu["muscle"]
    z, y, x = canvas.grid.axes()
    width = np.clip(15 + 0.07 * (plan.middle[0] + 20 - z), 5, 27)
    for side in (-1, 1):
        for dx, dy, wide, deep in ((24.0 + 0.6 * width, 2.0, width, 1.15 * width), (62, 27, 20, 9), (34, 40, 30, 19)):
            centre = plan.middle[2] + side * dx, plan.spine + dy
            reach = float(np.max(wide)) + float(np.max(deep)) + 6
            middle = float(np.mean(centre[0]))
            box = canvas.grid.box((-1e6, centre[1] - reach, middle - reach), (1e6, centre[1] + reach, middle + reach))
            near = (slice(None), box[1], box[2])
            norm = np.sqrt(((y[:, box[1]] - centre[1]) / deep) ** 2 + ((x[:, :, box[2]] - centre[0]) / wide) ** 2)
            canvas.lay(near, np.asarray(deep) * (1 + 0.06 * canvas.waves[near] - norm), muscle, 9.0)


def _solid_organs(canvas: Canvas, rng: np.random.Generator) -> None:
    """Liver on the right, spleen on the left, pancreas, gallbladder and adrenal-like strands between."""
    plan = canvas.plan
    wide, deep = plan.half[1] - plan.fat_mm - plan.wall_mm, plan.half[0] - plan.fat_mm - plan.wall_mm
    front = plan.centre[0] - plan.middle[1]
    organs = (
        ("liver", (58, front + 8, -0.52 * wide), (88, 0.80 * deep, 0.43 * wide), 0.05),
        ("liver", (82, front - 0.30 * deep, -0.05 * wide), (42, 0.48 * deep, 0.52 * wide), 0.06),
        ("spleen", (66, 6, 0.70 * wide), (52, 0.46 * deep, 0.22 * wide), 0.06),
        ("pancreas", (18, -52, 18), (13, 11, 52), 0.14),
        ("pancreas", (2, -50, -26), (24, 13, 17), 0.14),
    )
    for tissue, place, radii, waviness in organs:
        centre = plan.middle + np.array(place) + rng.normal(0, 4, 3)
        box, depth = canvas.ellipsoid(centre, np.asarray(radii) * rng.normal(1, 0.05, 3), waviness)
        _, y, x = canvas.grid.axes(box)
        inner = plan.norm(y, x, plan.fat_mm + plan.wall_mm + 2.0)
        canvas.lay(box, np.minimum(depth, deep * (1 - inner)), canvas.hu[tissue], 9.0)
        if tissue == "liver":
            share = soft_edge(np.abs(canvas.waves[box] + 0.25) * -14 + 1.2, 1.5) * (depth > 12) * (inner < 0.9)
            canvas.values[box] += share * 0.7 * (canvas.hu["vein"] - canvas.hu["liver"])
    gall = plan.middle + np.array([12, front - 0.28 * deep, -0.33 * wide])
    box, depth = canvas.ellipsoid(gall, (26, 15, 14), 0.05)
    canvas.lay(box, depth, 9.0)


def _loop(canvas: Canvas, box: Box, depth: np.ndarray, middle: Triple, content: str, wall_mm: float) -> None:
    """Bowel: wall, then fluid, contrast, stool or food, and gas above a level."""
    fillings = {"fluid": 18.0, "contrast": 165.0, "dense": 240.0, "stool": 45.0, "gas": 20.0}
    canvas.lay(box, depth, canvas.hu["bowel_wall"], 8.0)
    inner = depth - wall_mm
    canvas.lay(box, inner, fillings[content], 60.0 if content == "stool" else 10.0)
    if content in ("gas", "stool"):
        level = float(middle[1]) + (4.0 if content == "gas" else -6.0) - canvas.grid.axes(box)[1]
        canvas.lay(box, np.minimum(inner - 0.5, level), -920.0)


def _bowel(canvas: Canvas, rng: np.random.Generator) -> None:
    """Stomach, small bowel in front of and below the kidneys, and the colon as a frame."""
    plan = canvas.plan
    wide, deep = plan.half[1] - plan.fat_mm - plan.wall_mm, plan.half[0] - plan.fat_mm - plan.wall_mm
    contents = np.array(["fluid", "contrast", "dense", "gas", "stool"])
    for _ in range(60):
        angle, far = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 1))
        y = plan.centre[0] - 0.22 * deep + 0.58 * deep * far * np.sin(angle)
        centre = np.array(
            [plan.middle[0] + rng.uniform(-215, 15), y, plan.middle[2] + 0.66 * wide * far * np.cos(angle)]
        )
        box, depth = canvas.ellipsoid(centre, rng.uniform(13, 24) * rng.uniform(0.8, 1.5, 3), 0.12)
        content = str(rng.choice(contents, p=(0.40, 0.28, 0.07, 0.2, 0.05)))
        _loop(canvas, box, depth, centre, content, float(rng.uniform(2.0, 4.0)))
    for side, span in ((-1, (-170, 20)), (1, (-170, 55))):
        heights = plan.middle[0] + np.linspace(*span, 7)
        line = [
            (
                h,
                plan.centre[0] + 0.12 * deep + rng.normal(0, 6),
                plan.middle[2] + side * (0.80 * wide + rng.normal(0, 4)),
            )
            for h in heights
        ]
        for box, depth in canvas.tube(line, float(rng.uniform(15, 20))):
            middle = [0.0, plan.centre[0] + 0.12 * deep, 0.0]
            _loop(canvas, box, depth, middle, str(rng.choice(contents, p=(0.15, 0.15, 0.05, 0.25, 0.4))), 2.5)
    stomach = plan.middle + np.array([70, plan.centre[0] - 0.42 * deep - plan.middle[1], 0.38 * wide])
    box, depth = canvas.ellipsoid(stomach, (55, 34, 42), 0.08)
    _loop(canvas, box, depth, stomach, str(rng.choice(["gas", "contrast", "fluid"])), 4.0)


def _spine(canvas: Canvas) -> None:
    """Vertebral bodies and discs, arches with processes, and the canal."""
    plan, hu = canvas.plan, canvas.hu
    box = canvas.grid.box((-1e6, plan.spine - 28, plan.middle[2] - 32), (1e6, plan.spine + 58, plan.middle[2] + 32))
    z, y, x = canvas.grid.axes(box)
    y, x = y - plan.spine, x - plan.middle[2]
    height = np.abs((z - plan.middle[0]) % 36.0 - 18.0)
    body = 18 * (1 - np.sqrt((y / 17) ** 2 + (x / 23) ** 2)) - 0.05 * (height - 12)
    bony = np.minimum(body, height - 4.5)
    canvas.lay(box, body, hu["disc"], 5.0)
    canvas.lay(box, bony, hu["cortical_bone"])
    canvas.lay(box, bony - 1.8, hu["trabecular"], 35.0)
    arch = 15 * (1 - np.sqrt(((y - 24) / 14) ** 2 + (x / 17) ** 2))
    spinous = np.minimum(np.minimum(3.5 - np.abs(x), 21 - np.abs(y - 32)), height - 5.0)
    across = np.minimum(np.minimum(30 - np.abs(x), 5 - np.abs(y - 20)), height - 12.0)
    bony = np.maximum(np.maximum(np.minimum(arch, height - 3.0), spinous), across)
    canvas.lay(box, bony, hu["cortical_bone"])
    canvas.lay(box, bony - 2.5, hu["trabecular"] + 80, 35.0)
    canvas.lay(box, 9 * (1 - np.sqrt(((y - 24) / 8.5) ** 2 + (x / 11) ** 2)) + 0 * z, hu["canal"])


def _pelvic_bones(canvas: Canvas) -> None:
    """Wings of the ilium at the lower end, shells of bone."""
    plan = canvas.plan
    for side in (-1, 1):
        centre = plan.middle[0] - 215, plan.spine - 25, plan.middle[2] + side * 92
        box, depth = canvas.ellipsoid(centre, (95, 75, 34), 0.04)
        shell = np.minimum(6 - np.abs(depth - 3), side * (canvas.grid.axes(box)[2] - plan.middle[2]) - 88)
        canvas.lay(box, shell, canvas.hu["cortical_bone"])
        canvas.lay(box, shell - 2.2, canvas.hu["trabecular"], 35.0)


def _great_vessels(canvas: Canvas, rng: np.random.Generator) -> None:
    """Aorta in front of the spine on the left, vena cava on the right."""
    plan = canvas.plan
    for tissue, dx, radius in (("artery", 9, rng.uniform(8, 12)), ("vein", -19, rng.uniform(9, 13))):
        line = [
            (plan.middle[0] + h, plan.spine - 17 - radius - 2, plan.middle[2] + dx + 4 * np.sin(h / 70))
            for h in np.linspace(-230, 230, 9)
        ]
        for box, depth in canvas.tube(line, float(radius)):
            canvas.lay(box, depth, canvas.hu[tissue], 4.0)


def renal_vessels(canvas: Canvas) -> None:
    """Renal artery and vein of each kidney, and the pelvis between them and the kidney."""
    plan = canvas.plan
    for hilum in plan.hila:
        for tissue, dx, radius, shift in (("artery", 9, 3.2, 5.0), ("vein", -19, 5.0, -5.0)):
            start = np.array([hilum[0] + 12, plan.spine - 27, plan.middle[2] + dx])
            bend = np.array([hilum[0] + 6, min(hilum[1] - 6, plan.spine - 30), 0.5 * (start[2] + hilum[2])])
            for box, depth in canvas.tube([start, bend, hilum + np.array([shift, 0, 0])], radius):
                canvas.lay(box, depth, canvas.hu[tissue], 4.0)
        box, depth = canvas.ellipsoid(hilum - np.array([9, 0, 0]), (11, 6, 7), 0.1)
        canvas.lay(box, depth, canvas.hu["pelvis"])


def _table(canvas: Canvas) -> None:
    """Lay a slab of foam between two sheets under the back."""
    plan = canvas.plan
    top = plan.centre[0] + 1.03 * plan.half[0] + 5
    box = canvas.grid.box((-1e6, top - 4, plan.centre[1] - 215), (1e6, top + 24, plan.centre[1] + 215))
    _, y, x = canvas.grid.axes(box)
    depth = 8 - np.abs(y - top - 9 + 0.0005 * (x - plan.centre[1]) ** 2 * 0.2)
    canvas.lay(box, np.broadcast_to(depth, canvas.values[box].shape), 20.0)
    canvas.lay(box, np.broadcast_to(depth - 2.5, canvas.values[box].shape), -880.0)
