"""Classifiers of images: volumes with 3D networks, slices with 2D networks.

Names are loaded on first use, so that importing this package does not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "augmentation": ["Augmentation"],
        "classifier": ["ImageClassifier", "abstention_threshold", "coverage_accuracy", "fit_temperature"],
        "inputs": ["CT_WINDOWS", "SliceInput", "VolumeInput"],
        "networks": ["CLASSIFIERS", "ClassifierArchitecture", "build_classifier", "classifier_architecture"],
        "training": ["ClassifierSettings", "train_network"],
    },
)
