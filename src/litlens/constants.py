"""Values that several packages share: the constants that pixels are normalized by."""

from collections.abc import Mapping, Sequence

from litlens.errors import UserError

# Mean and standard deviation per channel, of pixels in [0, 1], by the name that a config may give.
NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    # Of the 60,000 training images each; recomputed by tests/data/test_preprocessing.py.
    "mnist": ((0.1307,), (0.3081,)),
    "fashion": ((0.2860,), (0.3530,)),
    # torchvision.transforms._presets.ImageClassification: what its ImageNet weights were trained with.
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # VGG16_Weights.IMAGENET1K_FEATURES, converted from Caffe: mean subtracted from pixels in [0, 255], not scaled.
    "imagenet_features": ((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)),
    "half": ((0.5,), (0.5,)),  # for any number of channels
}


def mean_and_std(
    given: str | Mapping[str, Sequence[float]], *, key: str, others: str = ""
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The constants of a preset, or those of `{mean: […], std: […]}`.

    Raises UserError, which begins with `key` and offers the `others` that it takes as well, for anything else.
    """
    if isinstance(given, str):
        if given not in NORMALIZATIONS:
            choices = f"{others}{', '.join(NORMALIZATIONS)}, or {{mean: [...], std: [...]}}"
            raise UserError(f"{key}: there is no preset '{given}'; choose from {choices}")
        return NORMALIZATIONS[given]
    if set(given) != {"mean", "std"}:
        raise UserError(f"{key}: needs mean and std and nothing else, not {sorted(given)}")
    return tuple(given["mean"]), tuple(given["std"])
