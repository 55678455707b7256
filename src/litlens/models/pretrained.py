"""torchvision's networks by name, and weights for them: from a file or a download, checked key by key."""

import hashlib
import math
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from litlens.constants import NORMALIZATIONS, mean_and_std
from litlens.errors import UserError, listed, nearest
from litlens.files import load_tensors

Constants = dict[str, list[float]]  # mean and std

_POSITIONS = "encoder.pos_embedding"
# Classifiers besides the last one, of GoogLeNet and Inception, which torchvision's weights contain.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


def imagenet_network(backbone: str, weights: str) -> tuple[nn.Module, list[str]]:
    """Build a network with ImageNet weights, in evaluation mode; return it and the names of its 1,000 classes.

    The preprocessing is torchvision's (`imagenet` in `NORMALIZATIONS`), at 224×224 for most networks. Raises UserError
    like `load_weights`, and for weights without a classifier.
    """
    network = torchvision_network(backbone)
    load_weights(network, backbone, weights)
    class_names: list[str] = torchvision.models.get_model_weights(backbone).DEFAULT.meta["categories"]
    return network.eval(), class_names


def torchvision_network(backbone: str, image_size: tuple[int, int] = (224, 224)) -> nn.Module:
    """Build a classification network (`resnet18`) with random weights and 1,000 classes.

    GoogLeNet and Inception are built without auxiliary classifiers. Raises UserError for an unknown name, and for an
    image size (H, W) that a ViT or a MaxViT cannot divide into patches or windows.
    """
    _known_weights(backbone)
    options: dict[str, Any] = {}
    if backbone.startswith("vit_"):
        options["image_size"] = _square_side(backbone, image_size, step=int(backbone.rpartition("_")[2]))
    elif backbone.startswith("maxvit"):
        # The stem and four blocks each halve the image, and the result is divided into windows of 7×7.
        options["input_size"] = (_square_side(backbone, image_size, step=224),) * 2
    elif backbone in ("googlenet", "inception_v3"):
        # torchvision's weights need pixels in [-1, 1]. torchvision converts pixels normalized for ImageNet to that only
        # if it loads the weights itself; a network that is rebuilt from a checkpoint has to do it, too.
        options |= {"aux_logits": False, "transform_input": True, "init_weights": True}
    network: nn.Module = torchvision.models.get_model(backbone, weights=None, **options)
    return network


def _square_side(backbone: str, image_size: tuple[int, int], *, step: int) -> int:
    height, width = image_size
    if height != width or height % step:
        nearest_side = max(1, round(height / step)) * step
        raise UserError(
            f"data.image_size: {backbone} takes square images with sides that are multiples of {step}, not "
            f"{height}x{width}; set it to [{nearest_side}, {nearest_side}]"
        )
    return height


def load_weights(network: nn.Module, backbone: str, weights: str, *, optional: str | None = None) -> None:
    """Load weights by torchvision's name (`DEFAULT`, `IMAGENET1K_V1`) or from a state dict in a file.

    Half precision is converted to the network's. Position embeddings of a ViT of another image size are interpolated
    as in torchvision; auxiliary classifiers are left out. `optional` names a child that may be missing entirely, such
    as the classifier. Nothing in the file is executed.

    Raises UserError for an unknown name and for a file that is missing, damaged, has more than tensors, or is of
    another network: the message names keys that are missing, unexpected or of a wrong shape.
    """
    given, own = _read(backbone, weights), network.state_dict()
    where, remedy = f"weights: {weights}", f"give weights of a {backbone}"
    if backbone in ("googlenet", "inception_v3"):
        given = {key: value for key, value in given.items() if not key.startswith(_AUXILIARY)}
    if isinstance(network, VisionTransformer) and (positions := given.get(_POSITIONS)) is not None:
        given = {**given, _POSITIONS: positions.float()}
        with suppress(ValueError):  # not a square grid: reported below as a wrong shape
            interpolate_embeddings(network.image_size, network.patch_size, given)
    for key, value in given.items():
        if key in own and value.shape != own[key].shape:
            raise UserError(
                f"{where}: {key} is {list(value.shape)}, in {backbone} it is {list(own[key].shape)}; {remedy}"
            )
    missing, unexpected = network.load_state_dict(given, strict=False)
    missing = [key for key in missing if not key.endswith(".num_batches_tracked")]
    if optional and not any(key.startswith(f"{optional}.") for key in given):
        missing = [key for key in missing if not key.startswith(f"{optional}.")]
    kinds = {"lacks": missing, "has the unexpected": unexpected}
    if found := [f"{verb} {listed(keys, most=3)}" for verb, keys in kinds.items() if keys]:
        raise UserError(f"{where} does not fit {backbone}: it {' and '.join(found)}; {remedy}")


def weights_normalization(
    backbone: str, weights: str | None, normalization: str | Constants | None = "auto"
) -> Constants | None:
    """Mean and std of pixels in [0, 1] that the weights were trained with; None without weights.

    `auto` means those of torchvision's weights, a file counting as the network's default ones, and null none.
    """
    # jsonargparse 4.53 turns a null that is two classes deep on the command line into the string "None".
    known, wanted = _known_weights(backbone), None
    if normalization == "auto":
        prepare: Any = known[weights if weights in known.__members__ else "DEFAULT"].transforms()
        if hasattr(prepare, "mean") and hasattr(prepare, "std"):
            wanted = {"mean": list(prepare.mean), "std": list(prepare.std)}
    elif normalization not in (None, "None"):
        mean, std = mean_and_std(normalization, key="network.normalization", others="auto, null, ")
        if not {len(mean), len(std)} <= {1, 3}:
            raise UserError("network.normalization: mean and std need 1 or 3 values each")
        wanted = {"mean": list(mean), "std": list(std)}
    return wanted if weights not in (None, "None") else None


def channels_of(constants: Constants, channels: int) -> Constants:
    """The constants for images of 1 or 3 channels: one value applies to all, and gray images take the mean of three."""
    return {
        key: list(values) if len(values) == channels else [sum(values) / len(values)] * channels
        for key, values in constants.items()
    }


def check_normalization(network: nn.Module, normalize: Any) -> None:
    """Raise UserError if the network's weights need other constants than `normalize.mean` and `normalize.std`."""
    constants: Constants | None = getattr(network, "weights_normalization", None)
    if constants is None:
        return
    channels = len(normalize.mean)
    wanted = channels_of(constants, channels)
    mean, std = wanted["mean"], wanted["std"]
    given = (*normalize.mean, *normalize.std)
    if all(math.isclose(a, b, abs_tol=5e-4) for a, b in zip((*mean, *std), given, strict=True)):
        return
    presets = (
        name
        for name, (mean_of, std_of) in NORMALIZATIONS.items()
        if wanted == channels_of({"mean": list(mean_of), "std": list(std_of)}, channels) and channels >= len(mean_of)
    )
    name = next(presets, f"{{mean: {_rounded(mean)}, std: {_rounded(std)}}}")
    raise UserError(
        f"data.normalize: the weights were trained with mean {_rounded(mean)} and std {_rounded(std)}, the data have "
        f"{_rounded(normalize.mean)} and {_rounded(normalize.std)}: set data.normalize to {name}"
    )


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]


def _known_weights(backbone: str) -> Any:
    """torchvision's enumeration of the weights of a network."""
    known = torchvision.models.list_models(module=torchvision.models)
    if backbone not in known:
        raise UserError(
            f"backbone: torchvision has no classification network '{backbone}'{nearest(backbone, known, most=3)}"
        )
    return torchvision.models.get_model_weights(backbone)


def _read(backbone: str, weights: str) -> dict[str, Tensor]:
    known = _known_weights(backbone)
    urls = {Path(member.url).name: member.url for member in known}
    path, remedy = Path(weights), "give a state dict saved by torch.save"
    if weights in known.__members__:
        path = Path(torch.hub.get_dir(), "checkpoints", Path(known[weights].url).name)
        remedy = "remove it, so that it is downloaded again"
        if not path.is_file():
            _download(urls[path.name], path, what=f"{weights} of {backbone}")
    elif not path.is_file():
        raise UserError(
            f"weights: there is no file {weights}, and torchvision has no weights of that name for {backbone}; "
            f"it has {', '.join(known.__members__)}"
        )
    # Some of torchvision's files are older than torch's archives and have no CRCs, but a hash in their names.
    if path.name in urls and not zipfile.is_zipfile(path) and not _sha256(path).startswith(_hash_prefix(path)):
        raise UserError(f"weights: {path} is damaged: its SHA-256 is not the one in its name; {remedy}")
    try:
        found = load_tensors(path, kind="weights file")
    except UserError as error:
        raise UserError(f"weights: {error}; {remedy}") from error
    if not isinstance(found, dict):
        raise UserError(f"weights: {weights} holds a {type(found).__name__} and not a state dict")
    for key, value in found.items():
        if not isinstance(key, str):
            raise UserError(f"weights: {weights} has the key {key!r}, which is no layer's name; give a state dict")
        if not isinstance(value, Tensor):
            raise UserError(f"weights: {key} in {weights} is a {type(value).__name__} and not a tensor")
    return found


def _download(url: str, path: Path, *, what: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), _hash_prefix(path))
    except (URLError, OSError, RuntimeError) as error:  # the last: a download that was cut short
        raise UserError(f"weights: {what} could not be downloaded ({error}); give a state-dict file") from error


def _hash_prefix(path: Path) -> str:
    return path.stem.rpartition("-")[2]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
