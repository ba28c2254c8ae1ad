"""3D segmentation networks: a plan from the data, training, inference, the renal cascade.

Names are loaded on first use, so that importing this package does not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "inference": ["InferenceOptions"],
        "planning": ["SegmentationPlan", "fingerprint", "make_plan"],
        "segmenter": ["Segmenter", "load_segmenter"],
        "networks": ["SEGMENTERS", "build_segmenter"],
        "training": ["TrainingSettings", "train_network"],
    },
)
