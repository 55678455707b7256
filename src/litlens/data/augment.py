"""Augmentation of training images, by albumentations: the only module that knows it.

The names below need no knowledge of albumentations; any of its transforms serves by its class name.
"""

import difflib
import os
import random
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litlens.data.movements import MOVEMENTS, moving_matrix
from litlens.data.preprocessing import Pixels, Preprocessing, ResizeMode
from litlens.errors import UserError


class Augmentation:
    """A chain of augmentations that depends on the image and on a random generator alone.

    `steps` is a list as it stands in YAML: `rotation`, `rotation: 10` or `shift: {limit: 0.2, fill: border}`.
    Names:

    * `rotation`: by up to `limit` degrees (10) to either side
    * `shift`: by up to `limit` (0.1) of width and height
    * `scale`: enlarged by a factor in `range` (1.0 to 1.6)
    * `zoom`: made smaller or larger, by a factor in `range` (0.8 to 1.2)
    * `shear`: by up to `limit` degrees (20), along either axis
    * `stretch`: by a factor in `range` (1.0 to 1.3), along one axis
    * `horizontal_flip`, `vertical_flip`: with probability `p` (0.5)
    * `crop`: a part of the original, an area in `range` (0.5 to 1.0) of it and of an aspect ratio in `ratio`
      (0.75 to 1.333), brought to `image_size`; where it is not drawn, the whole image as `resize_mode` brings it there

    Each takes `p`, the probability that it is done at all (1, flips 0.5). What comes into view from outside
    is, by `fill`: `constant` (black), a gray value from 0 to 255, `border` (the nearest pixel), `reflect` or
    `wrap`. Neighbors of one fill are done as one warp, so that pixels are interpolated once.

    Args:
        steps: Names, or one name with its options each; or classes of albumentations with their arguments.
        image_size: Height and width that images must have in the end.
        resize_mode: What becomes of another aspect ratio where a crop is not drawn (`Preprocessing.resize_mode`).

    Raises:
        UserError: No such name or option.
    """

    def __init__(
        self, steps: list[str | dict[str, Any]], *, image_size: tuple[int, int], resize_mode: ResizeMode = "crop"
    ) -> None:
        self.steps = [_step(step) for step in steps]
        self.image_size = image_size
        self.resize_mode: ResizeMode = resize_mode
        self._compose: Any = None
        self._random = random.Random()
        # A foreign name may be wrong: better told now than in a worker.
        if any(step.name not in _OPTIONS for step in self.steps):
            self._compose = _composed(self.steps, image_size=image_size, resize_mode=resize_mode)

    @property
    def crops(self) -> bool:
        """Whether it takes the image before the geometry and brings it to the network's size itself."""
        return any(step.name == "crop" or step.name in _CROPS for step in self.steps)

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """Augment one image, uint8 (h, w, C), to uint8 (H, W, C).

        Raises:
            UserError: A class of albumentations does not take the image, or leaves it at another size.
        """
        if self._compose is None:
            self._compose = _composed(self.steps, image_size=self.image_size, resize_mode=self.resize_mode)
        # albumentations draws from both kinds of generator. Seeding ours anew costs a fraction of what its
        # own set_random_seed does, which makes two new ones for each transform.
        self._random.seed(int(rng.integers(2**63)))
        self._compose.set_random_state(rng, self._random)
        try:
            augmented: Pixels = self._compose(image=np.ascontiguousarray(image))["image"]
        # A crop larger than the image is no narrower kind of error there, and each transform has its own.
        except Exception as error:
            foreign = [step.name for step in self.steps if step.name not in _OPTIONS]
            if not foreign or isinstance(error, MemoryError):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"data.augment: {' or '.join(foreign)} does not take an image {image.shape[0]} pixels high and "
                f"{image.shape[1]} wide ({reason}): change its options or leave it out; crop takes any size"
            ) from error
        if augmented.ndim == 2:
            augmented = augmented[..., None]
        expected = (*self.image_size, image.shape[2])
        if augmented.shape != expected or augmented.dtype != np.uint8:
            raise UserError(
                f"data.augment: images become {augmented.dtype} {augmented.shape}, not uint8 {expected}: "
                "use crop, or a transform that keeps the size"
            )
        return augmented

    def __getstate__(self) -> dict[str, Any]:
        # albumentations' objects of our own class cannot be pickled; a worker makes them anew.
        return {**self.__dict__, "_compose": None}


@dataclass(frozen=True)
class _Step:
    name: str
    options: dict[str, Any]


_FILLS = ("constant", "border", "reflect", "wrap")
_FLIPS = ("horizontal_flip", "vertical_flip")
# albumentations' own transforms that crop to a size, which is ours where none is given.
_CROPS = {
    "RandomResizedCrop": ("size",),
    "RandomSizedCrop": ("size",),
    "RandomCrop": ("height", "width"),
    "CenterCrop": ("height", "width"),
}
# The options of each name, with defaults. The first is the one that `name: value` sets.
_OPTIONS: dict[str, dict[str, Any]] = {
    "rotation": {"limit": 10.0, "fill": "constant", "p": 1.0},
    "shift": {"limit": 0.1, "fill": "constant", "p": 1.0},
    "scale": {"range": (1.0, 1.6), "fill": "constant", "p": 1.0},
    "zoom": {"range": (0.8, 1.2), "fill": "constant", "p": 1.0},
    "shear": {"limit": 20.0, "fill": "constant", "p": 1.0},
    "stretch": {"range": (1.0, 1.3), "fill": "constant", "p": 1.0},
    "horizontal_flip": {"p": 0.5},
    "vertical_flip": {"p": 0.5},
    "crop": {"range": (0.5, 1.0), "ratio": (3 / 4, 4 / 3), "p": 1.0},
}


def _step(step: str | dict[str, Any]) -> _Step:
    """Read one entry of the list, and check the options of the names that are ours."""
    if isinstance(step, str):
        name, given = step, None
    elif isinstance(step, dict) and len(step) == 1:
        ((name, given),) = step.items()
    else:
        raise UserError(f"data.augment: an entry is a name, or one name with its options, not {step!r}")
    if name not in _OPTIONS:
        if given is not None and not isinstance(given, dict):
            raise UserError(f"data.augment: {name} takes named options, as in {name}: {{p: 0.5}}, not {given!r}")
        return _Step(name, dict(given or {}))
    defaults = _OPTIONS[name]
    if given is None:
        given = {}
    elif not isinstance(given, dict):
        given = {next(iter(defaults)): given}
    if unknown := sorted(set(given) - set(defaults)):
        raise UserError(f"data.augment: {name} has no option {unknown[0]!r}; it has {', '.join(defaults)}")
    return _Step(name, {key: _checked(name, key, given.get(key, default)) for key, default in defaults.items()})


def _checked(name: str, key: str, value: Any) -> Any:
    """The value of an option, ranges as pairs; a line says what it must be."""
    where = f"data.augment: {name}.{key}"
    if key in ("range", "ratio"):
        pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
        most = 1.0 if name == "crop" and key == "range" else float("inf")
        if len(pair) != 2 or not all(_is_number(v) for v in pair) or not 0 < pair[0] <= pair[1] <= most:
            raise UserError(
                f"{where}: {value!r} is not a range [low, high] with 0 < low <= high{' <= 1' * (most == 1)}"
            )
        return float(pair[0]), float(pair[1])
    if key == "fill":
        if value not in _FILLS and not (_is_number(value) and 0 <= value <= 255):
            raise UserError(f"{where}: {value!r} is none of {', '.join(_FILLS)}, nor a gray value from 0 to 255")
        return value
    most = {"p": 1.0, "rotation": 180.0, "shear": 80.0, "shift": 1.0}["p" if key == "p" else name]
    if not _is_number(value) or not 0 <= value <= most:
        raise UserError(f"{where}: {value!r} is not a number from 0 to {most:g}")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _composed(steps: list[_Step], *, image_size: tuple[int, int], resize_mode: ResizeMode) -> Any:
    """albumentations' chain for the steps, with neighbors of one fill joined to one warp."""
    albumentations = _albumentations()
    transforms: list[Any] = []
    warp: list[_Step] = []
    for step in [*steps, None]:
        if warp and (step is None or step.name not in MOVEMENTS or step.options["fill"] != warp[0].options["fill"]):
            transforms.append(_warp(warp))
            warp = []
        if step is None:
            break
        if step.name in MOVEMENTS:
            warp.append(step)
        elif step.name == "crop":
            crop = albumentations.RandomResizedCrop(
                size=image_size,
                scale=step.options["range"],
                ratio=step.options["ratio"],
                p=step.options["p"],
                # Shrinking without it would alias, and training would see other images than evaluation.
                area_for_downscale="image",
            )
            transforms.append(_or_whole(crop, image_size=image_size, resize_mode=resize_mode))
        elif step.name in _FLIPS:
            flip = albumentations.HorizontalFlip if step.name == "horizontal_flip" else albumentations.VerticalFlip
            transforms.append(flip(p=step.options["p"]))
        else:
            foreign = _foreign(step, image_size=image_size)
            transforms.append(
                _or_whole(foreign, image_size=image_size, resize_mode=resize_mode) if step.name in _CROPS else foreign
            )
    return albumentations.Compose(transforms)


def _foreign(step: _Step, *, image_size: tuple[int, int]) -> Any:
    """One of albumentations' own transforms, by its class name."""
    albumentations = _albumentations()
    kind = getattr(albumentations, step.name, None)
    if not (isinstance(kind, type) and issubclass(kind, albumentations.BasicTransform)):
        raise UserError(
            f"data.augment: no augmentation is called {step.name!r}; nearest is {_nearest(step.name)}, "
            f"own names are {', '.join(_OPTIONS)}"
        )
    options = dict(step.options)
    sizes = {"size": image_size, "height": image_size[0], "width": image_size[1]}
    for key in _CROPS.get(step.name, ()):
        options.setdefault(key, sizes[key])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an argument that it does not know is but a warning there
            return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in options.items()})
    # pydantic's ValidationError is a ValueError; its own checks raise others.
    except (ValueError, TypeError, UserWarning) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"data.augment: {step.name} does not take {step.options}: {reason}") from error


def _or_whole(crop: Any, *, image_size: tuple[int, int], resize_mode: ResizeMode) -> Any:
    """A crop, or where it is not drawn, the geometry that it takes the place of: else the file's size would stay."""
    if crop.p >= 1:
        return crop
    albumentations = _albumentations()

    class Whole(albumentations.ImageOnlyTransform):  # type: ignore[misc, name-defined, unused-ignore]
        def apply(self, img: Pixels, **params: Any) -> Pixels:
            channels = img.shape[2]
            zeros, ones = (0.0,) * channels, (1.0,) * channels
            return Preprocessing(
                size=image_size, channels=channels, mean=zeros, std=ones, resize_mode=resize_mode
            ).geometry(img)

    # One of the two, with their p as weights.
    return albumentations.OneOf([crop, Whole(p=1 - crop.p)], p=1.0)


def _nearest(name: str) -> str:
    """The name that was probably meant: one of ours if it comes near, else any class of albumentations."""
    albumentations = _albumentations()
    classes = [n for n in dir(albumentations) if isinstance(getattr(albumentations, n), type)]
    for candidates, cutoff in ((list(_OPTIONS), 0.6), ([*_OPTIONS, *classes], 0.0)):
        lower = {candidate.lower(): candidate for candidate in reversed(candidates)}
        if near := difflib.get_close_matches(name.lower(), lower, n=1, cutoff=cutoff):
            return lower[near[0]]
    return "rotation"


def _warp(steps: list[_Step]) -> Any:
    """A transform of our own, as albumentations' guide says: it moves pixels once for all its steps."""
    import cv2

    albumentations = _albumentations()
    fill = steps[0].options["fill"]
    border = {
        "border": cv2.BORDER_REPLICATE,
        "reflect": cv2.BORDER_REFLECT_101,
        "wrap": cv2.BORDER_WRAP,
    }.get(fill, cv2.BORDER_CONSTANT)
    value = [float(fill)] * 4 if _is_number(fill) else [0.0] * 4

    class Warp(albumentations.ImageOnlyTransform):  # type: ignore[misc, name-defined, unused-ignore]
        def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
            height, width = data["image"].shape[:2]
            return {
                "matrix": moving_matrix(
                    [(step.name, step.options) for step in steps],
                    self.random_generator,
                    height=height,
                    width=width,
                )
            }

        def apply(self, img: Pixels, matrix: NDArray[np.float64], **params: Any) -> Pixels:
            size = (img.shape[1], img.shape[0])
            moved: Any = cv2.warpAffine(img, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border, borderValue=value)
            return moved.reshape(img.shape)  # type: ignore[no-any-return]

    return Warp(p=1.0)


def _albumentations() -> Any:
    # On import it asks a server for its newest version, two seconds where there is no network.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations
