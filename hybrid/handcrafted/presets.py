"""Rows of the three presets."""
from __future__ import annotations
from typing import Any, Final, NamedTuple


class PresetRow(NamedTuple):
    """One value of a preset."""

    section: str
    parameter: str
    value: Any
    unit: str
    reason: str

def rows(spec):
    return tuple(PresetRow(*r, "", "draft") for r in spec)

_classes=[("featureClass",c,None) for c in ("shape","firstorder","glcm","glrlm","glszm","gldm","ngtdm")]
PRESET_ROWS: Final = {
 "ct": rows([("setting","resampledPixelSpacing",[2.0,2.0,2.0]),("setting","interpolator","sitkLinear"),("setting","padDistance",20),("setting","binWidth",25.0),("setting","voxelArrayShift",1000),("setting","minimumROIDimensions",3),("setting","minimumROISize",26),("imageType","Original",{}),("imageType.LoG","sigma",[2.0,4.0]),("imageType","Wavelet",{}),*_classes]),
 "mr": rows([("setting","normalize",True),("setting","normalizeScale",100.0),("setting","resampledPixelSpacing",[2.0,2.0,2.0]),("setting","interpolator","sitkLinear"),("setting","padDistance",20),("setting","binWidth",5.0),("setting","voxelArrayShift",300),("imageType","Original",{}),("imageType.LoG","sigma",[2.0,4.0]),("imageType","Wavelet",{}),*_classes]),
 "pet": rows([("setting","resampledPixelSpacing",[4.0,4.0,4.0]),("setting","interpolator","sitkLinear"),("setting","padDistance",20),("setting","binWidth",0.25),("imageType","Original",{}),("imageType.LoG","sigma",[4.0,8.0]),("imageType","Wavelet",{}),*_classes]),
}
