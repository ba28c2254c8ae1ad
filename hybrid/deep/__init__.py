"""Embeddings of one lesion from a 3D ResNet: networks, weight files, encoders, training.

Names are loaded on first use, so that importing this package does not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "embeddings": ["ENCODERS", "Encoder", "EncoderSpec", "load_encoder"],
        "networks": ["ARCHITECTURES", "RESNETS", "Architecture", "build_network"],
        "preprocessing": ["MODALITIES", "Crop", "Preprocessing", "crop_lesion", "network_input"],
        "training": ["OutcomeEncoder"],
        "weights": [
            "CONVENTIONS",
            "LoadReport",
            "compare_weights",
            "guess_architecture",
            "load_weights",
            "read_weights",
            "save_model",
        ],
    },
)
