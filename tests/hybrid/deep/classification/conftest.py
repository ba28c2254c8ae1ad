import struct

import numpy as np
import pytest
import SimpleITK as sitk

from hybrid.deep.classification.training import PreparedImage


def element(group, number, vr, value):
    """One data element of DICOM's explicit VR little endian encoding."""
    raw = value if isinstance(value, bytes) else str(value).encode()
    raw += (b"\0" if vr in ("UI", "OB", "OW") else b" ") * (len(raw) % 2)
    head = struct.pack("<HH", group, number) + vr.encode()
    return head + (struct.pack("<HI", 0, len(raw)) if vr in ("OB", "OW") else struct.pack("<H", len(raw))) + raw


def short(number):
    return struct.pack("<H", number)


def write_dicom(path, stored, *, photometric="MONOCHROME2", slope=None, intercept=None, modality="CT", z=0.0, number=1):
    """A DICOM file of 12 bits with exactly the elements given: pydicom is no dependency."""
    uid, series = f"1.2.826.0.1.{number}", "1.2.826.0.2"
    storage, syntax = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
    meta = b"".join([
        element(2, 1, "OB", b"\0\1"), element(2, 2, "UI", storage), element(2, 3, "UI", uid),
        element(2, 0x10, "UI", syntax), element(2, 0x12, "UI", "1.2.826.0"),
    ])  # fmt: skip
    rescale = [] if intercept is None else [element(0x28, 0x1052, "DS", intercept)]
    rescale += [] if slope is None else [element(0x28, 0x1053, "DS", slope)]
    body = b"".join([
        element(8, 0x16, "UI", storage), element(8, 0x18, "UI", uid), element(8, 0x60, "CS", modality),
        element(0x18, 0x50, "DS", 1.0), element(0x20, 0xD, "UI", "1.2.826.0.3"), element(0x20, 0xE, "UI", series),
        element(0x20, 0x13, "IS", number), element(0x20, 0x32, "DS", f"0\\0\\{z}"),
        element(0x20, 0x37, "DS", "1\\0\\0\\0\\1\\0"), element(0x28, 2, "US", short(1)),
        element(0x28, 4, "CS", photometric), element(0x28, 0x10, "US", short(stored.shape[0])),
        element(0x28, 0x11, "US", short(stored.shape[1])), element(0x28, 0x30, "DS", "1.0\\1.0"),
        element(0x28, 0x100, "US", short(16)), element(0x28, 0x101, "US", short(12)),
        element(0x28, 0x102, "US", short(11)), element(0x28, 0x103, "US", short(0)), *rescale,
        element(0x7FE0, 0x10, "OW", stored.astype("<u2").tobytes()),
    ])  # fmt: skip
    head = element(2, 0, "UL", struct.pack("<I", len(meta)))
    path.write_bytes(b"\0" * 128 + b"DICM" + head + meta + body)
    return path


def blob(seed, radius, shape=(16, 16, 16)):
    """A noisy volume with a bright ball."""
    rng = np.random.default_rng(seed)
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    centre = np.array(shape) / 2 + rng.uniform(-1.5, 1.5, len(shape))
    inside = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2
    return (rng.normal(0, 0.3, shape) + 2 * inside).astype(np.float32)


def write_volume(path, values, spacing=(1.0, 1.0, 1.0)):
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing[::-1])
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def images(tmp_path):
    """Prepared inputs of two classes: small balls and big ones."""
    found = []
    for number in range(24):
        path = tmp_path / f"i{number}.npy"
        np.save(path, (blob(number, 3 + 2.5 * (number % 2)) / 2 - 0.5)[None].astype(np.float16))
        found.append(PreparedImage(f"i{number}", path, number % 2, f"content{number}"))
    return found
