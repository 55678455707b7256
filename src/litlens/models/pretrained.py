"""Networks of torchvision and timm by name, and weights for them: from a file or a download, checked key by key."""

import hashlib
import math
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from litlens.constants import NORMALIZATIONS, mean_and_std
from litlens.errors import UserError, import_extra, listed, nearest
from litlens.files import load_tensors

Constants = dict[str, list[float]]  # mean and std
TIMM = "timm/"  # begins the names of timm's networks

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


def timm_base(backbone: str, image_size: tuple[int, int] = (224, 224), weights: str | None = None) -> nn.Module:
    """Build a network of timm (`timm/convnext_tiny`) without its classifier: images to pooled features (B, F).

    `weights` is `DEFAULT`, timm's own download of the weights that the name means (`timm/NAME.TAG` chooses
    others), or a state dict in a file; timm resizes position embeddings to the images.

    Raises UserError for an unknown name, weights that cannot be downloaded, and a file like those of `load_weights`.
    """
    timm, name, known = _timm(backbone)
    network: Any
    options: dict[str, Any] = {"num_classes": 0}
    if known.fixed_input_size:  # such a network, and no other, takes the size
        options["img_size"] = image_size
    if weights is None:
        try:
            network = timm.create_model(name, **options)
        except (AssertionError, RuntimeError, ValueError) as error:
            if not known.fixed_input_size:
                raise
            height, width = image_size
            raise UserError(f"image_size: {backbone} cannot be built for {height}x{width}: {error}") from error
    elif weights == "DEFAULT":
        try:
            network = timm.create_model(name, pretrained=True, **options)
        except (OSError, RuntimeError, ValueError) as error:  # huggingface_hub raises all of them
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"weights: DEFAULT of {backbone} cannot be loaded ({reason}); give a file") from error
    else:
        path = Path(weights)
        if not path.is_file():
            raise UserError(
                f"weights: there is no file {weights}; DEFAULT downloads those of {backbone}, and others have names of "
                f"their own{nearest(name, _timm_names(timm, name))}"
            )
        state = _read_state(path, remedy=f"give a state dict of a {backbone}")
        classifiers = [known.classifier] if isinstance(known.classifier, str) else known.classifier or []
        state = {key: value for key, value in state.items() if key.rpartition(".")[0] not in classifiers}
        # Where a classifier is named, timm drops it and ignores every other missing key, too.
        overlay = {"state_dict": state, "classifier": None}
        try:
            if not state:
                raise KeyError("it has no weights below the classifier")  # timm would download them
            network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
        except (KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"weights: {weights} does not fit {backbone}: {reason[:300]}") from error
        del network.pretrained_cfg["state_dict"]  # a copy of the weights
    base: nn.Module = network
    return base


def timm_network_has_size(name: str) -> bool:
    """Whether a network of timm is built for images of one size, which its option `img_size` sets."""
    return bool(getattr(_timm_configuration(name), "fixed_input_size", False))


def _timm(backbone: str) -> tuple[Any, str, Any]:
    """The package, the name of a network in it, and what it says of the network's weights."""
    timm = import_extra("timm", extra="timm", needed_by=f"backbone: {backbone}")
    name = backbone.removeprefix(TIMM)
    known = _timm_configuration(name)
    if known is None:
        raise UserError(f"backbone: timm has no network '{name}'{nearest(name, _timm_names(timm, name), most=3)}")
    return timm, name, known


def _timm_configuration(name: str) -> Any:
    """What timm says of a network's weights; None for names that it does not list, which it may fetch (`hf-hub:…`)."""
    import timm

    try:
        return timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # a tag that the network does not have
        return None


def _timm_names(timm: Any, name: str) -> list[str]:
    """The names that somebody may have meant: with their tags if it is that of a network."""
    names: list[str] = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True) or timm.list_models()
    return names


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

    `auto` means those of torchvision's or timm's weights, a file counting as the network's default ones, and null none.
    """
    # jsonargparse 4.53 turns a null that is two classes deep on the command line into the string "None".
    wanted = None
    if normalization == "auto":
        wanted = _own_constants(backbone, weights)
    elif normalization not in (None, "None"):
        mean, std = mean_and_std(normalization, key="network.normalization", others="auto, null, ")
        if not {len(mean), len(std)} <= {1, 3}:
            raise UserError("network.normalization: mean and std need 1 or 3 values each")
        wanted = {"mean": list(mean), "std": list(std)}
    return wanted if weights not in (None, "None") else None


def _own_constants(backbone: str, weights: str | None) -> Constants | None:
    prepare: Any
    if backbone.startswith(TIMM):
        timm, _, known = _timm(backbone)
        prepare = SimpleNamespace(**timm.data.resolve_data_config(pretrained_cfg=known.to_dict()))
    else:
        known = _known_weights(backbone)
        prepare = known[weights if weights in known.__members__ else "DEFAULT"].transforms()
    if not (hasattr(prepare, "mean") and hasattr(prepare, "std")):
        return None
    return {"mean": list(prepare.mean), "std": list(prepare.std)}


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
    return _read_state(path, remedy=remedy)


def _read_state(path: Path, *, remedy: str) -> dict[str, Tensor]:
    try:
        found = (_load_safetensors if path.suffix == ".safetensors" else load_tensors)(path, kind="weights file")
    except UserError as error:
        raise UserError(f"weights: {error}; {remedy}") from error
    if not isinstance(found, dict):
        raise UserError(f"weights: {path} holds a {type(found).__name__} and not a state dict")
    for key, value in found.items():
        if not isinstance(key, str):
            raise UserError(f"weights: {path} has the key {key!r}, which is no layer's name; give a state dict")
        if not isinstance(value, Tensor):
            raise UserError(f"weights: {key} in {path} is a {type(value).__name__} and not a tensor")
    return found


def _load_safetensors(path: Path, *, kind: str) -> Any:
    """Load what timm's weights are saved as: by design, it holds tensors and nothing else."""
    load_file = import_extra("safetensors.torch", extra="timm", needed_by=str(path)).load_file
    try:
        return load_file(path)
    except import_extra("safetensors", extra="timm", needed_by=str(path)).SafetensorError as error:
        raise UserError(f"{path} is damaged or not a {kind}: {error}") from error


def _download(url: str, path: Path, *, what: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), _hash_prefix(path))
    except (URLError, OSError, RuntimeError) as error:  # the last: a download that was cut short
        raise UserError(
            f"weights: {what} could not be downloaded ({error}): give a state-dict file "
            "(--model.network.weights FILE), or null for random weights"
        ) from error


def _hash_prefix(path: Path) -> str:
    return path.stem.rpartition("-")[2]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
