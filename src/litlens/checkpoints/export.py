"""Export: a classifier as one file for other runtimes, ONNX or a program of torch.export, checked before it is kept.

The file takes uint8 images (B, H, W, C) of the network's size, in any number, and gives probabilities (B, K). Its
metadata say how to resize an image, and the classes. Decoding and resizing are left to whoever uses it.
"""

import copy
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from litlens.checkpoints.loaded_classifier import LoadedClassifier
from litlens.data.preprocessing import Normalize, Pixels
from litlens.errors import UserError, import_extra
from litlens.files import disk_errors, write_atomically

TOLERANCE = 1e-4  # of a probability

_Run = Callable[[Pixels], NDArray[np.float32]]


def check_format(path: Path) -> None:
    """Raise UserError where the name has no ending of a format, or a package for it is missing."""
    if path.suffix == ".onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            import_extra(package, extra="export", needed_by=f"--export {path.name}")
    elif path.suffix != ".pt2":
        raise UserError(f"--export: {path}: give a file with the ending .onnx, or .pt2 for torch.export")


def export_classifier(loaded: LoadedClassifier, path: Path, images: Pixels) -> float:
    """Write a classifier to a file with the ending `.onnx` or `.pt2`.

    `images` (N, H, W, C) are real ones, of the network's size: their probabilities by the exported program, in a batch
    and one alone, are compared with the classifier's. Returns the largest difference.

    Raises UserError, and writes nothing, where the network cannot be exported or a probability differs by more than
    `TOLERANCE`.
    """
    check_format(path)
    if loaded.preprocessing is None:
        raise UserError("--export: the checkpoint does not say how to prepare images")
    resize, value_range = loaded.preprocessing.resize, loaded.preprocessing.value_range
    metadata = {
        "class_names": json.dumps(loaded.class_names),
        "image_size": json.dumps(resize.size),
        "resize_mode": json.dumps(resize.mode),
        "value_range": json.dumps(value_range),
    }
    original = _Probabilities(loaded.classifier, loaded.preprocessing.normalize).eval()
    # A copy: the format of torch.export reports weights with channels last, in memory, as incomplete.
    module = copy.deepcopy(original).cpu().to(memory_format=torch.contiguous_format)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters, about themselves
            example = torch.zeros(2, *images.shape[1:], dtype=torch.uint8)
            program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
            content, run = (_onnx if path.suffix == ".onnx" else _pt2)(program, metadata)
    except Exception as error:  # whatever the exporters raise of a network that they cannot follow
        network = type(loaded.classifier.network).__name__
        reason = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"--export: {network} cannot be exported: {type(error).__name__}: {reason[:200]}; nothing was written"
        ) from error
    with torch.no_grad():
        expected = original(torch.from_numpy(images).to(loaded.classifier.device)).cpu().numpy()
    difference = max(float(np.abs(run(batch) - expected[: len(batch)]).max()) for batch in (images, images[:1]))
    if not difference <= TOLERANCE:  # NaN is not, either
        raise UserError(
            f"--export: on {len(images)} images, a probability differs from the checkpoint's by {difference:.1e}, more "
            f"than {TOLERANCE:g}: {path} was not written"
        )
    with disk_errors(path):
        write_atomically(path, content)
    return difference


class _Probabilities(nn.Module):
    """From uint8 images (B, H, W, C) of the network's size to probabilities (B, K)."""

    def __init__(self, classifier: nn.Module, normalize: Normalize) -> None:
        super().__init__()
        self.classifier, self.normalize = classifier, normalize

    def forward(self, images: Tensor) -> Tensor:
        probabilities: Tensor = self.classifier(self.normalize(images)).float().softmax(dim=1)
        return probabilities


def _onnx(program: torch.export.ExportedProgram, metadata: dict[str, str]) -> tuple[bytes, _Run]:
    """The content of an ONNX file, and a function that runs it."""
    runtime = import_extra("onnxruntime", extra="export", needed_by="--export")
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["probabilities"]}
    exported = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    assert exported is not None
    exported.model.metadata_props.update(metadata)
    content = exported.model_proto.SerializeToString()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda images: session.run(None, {"images": images})[0]


def _pt2(program: torch.export.ExportedProgram, metadata: dict[str, str]) -> tuple[bytes, _Run]:
    """The content of a file that torch.export.load reads, and a function that runs it."""
    file = io.BytesIO()
    torch.export.save(program, file, extra_files=metadata)
    file.seek(0)
    module = torch.export.load(file).module()
    return file.getvalue(), lambda images: module(torch.from_numpy(images)).detach().numpy()
