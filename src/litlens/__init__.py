"""litlens: image classification with PyTorch Lightning, trained, tested and explained from one config.

Nothing heavy is imported until a name below is asked for.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "DigitsDataModule": "litlens.data.datasets.arrays",
    "MNISTDataModule": "litlens.data.datasets.arrays",
    "FashionMNISTDataModule": "litlens.data.datasets.arrays",
    "FontsDataModule": "litlens.data.datasets.fonts",
    "FolderDataModule": "litlens.data.datasets.folder",
    "CatDogDataModule": "litlens.data.datasets.catdog",
    "ImageDataModule": "litlens.data.module",
    "Preprocessing": "litlens.data.preprocessing",
    "Resize": "litlens.data.preprocessing",
    "Normalize": "litlens.data.preprocessing",
    "ImageClassifier": "litlens.models.classifier",
    "Network": "litlens.models.networks.building_blocks",
    "MnistCNN": "litlens.models.networks.scratch",
    "FashionMLP": "litlens.models.networks.mlp",
    "FashionCNN": "litlens.models.networks.scratch",
    "BottleneckCNN": "litlens.models.networks.scratch",
    "CatDogCNN": "litlens.models.networks.scratch",
    "LeNet5": "litlens.models.networks.scratch",
    "MLP": "litlens.models.networks.mlp",
    "TransferClassifier": "litlens.models.transfer",
    "TransferNetwork": "litlens.models.backbones",
    "imagenet_network": "litlens.models.pretrained",
    "load_classifier": "litlens.checkpoints.loaded_classifier",
    "LoadedClassifier": "litlens.checkpoints.loaded_classifier",
    "Predictions": "litlens.evaluation.predictions",
    "RunFacts": "litlens.evaluation.report_page",
    "write_report": "litlens.evaluation.report_page",
    "UserError": "litlens.errors",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'litlens' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
