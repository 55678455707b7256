"""Exported files give the checkpoint's probabilities, or are not written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from litlens.checkpoints import export
from litlens.checkpoints.export import export_classifier
from litlens.checkpoints.loaded_classifier import LoadedClassifier
from litlens.data.preprocessing import Normalize, Preprocessing, Resize
from litlens.errors import UserError
from litlens.models.backbones import TransferNetwork
from litlens.models.classifier import ImageClassifier
from litlens.models.networks.scratch import MnistCNN

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
NAMES = ["café", "dog", "1e3"]


def loaded(network: nn.Module, *, size: tuple[int, int] = (32, 32), channels: int = 3) -> LoadedClassifier:
    classifier = ImageClassifier(network, NAMES).eval()
    return LoadedClassifier(
        classifier, Preprocessing(Resize(size, "squash"), Normalize((0.4,) * channels, (0.2,) * channels), (0, 4095))
    )


def images(count: int, *shape: int) -> Any:
    return np.random.default_rng(0).integers(256, size=(count, *shape), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["cnn", "timm"])
def test_onnx_gives_the_same_probabilities_in_any_batch(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    if kind == "cnn":
        classifier = loaded(MnistCNN(num_classes=3, in_channels=1, image_size=(32, 48)), size=(32, 48), channels=1)
        given = images(5, 32, 48, 1)
    else:
        pytest.importorskip("timm")
        network = TransferNetwork(3, image_size=(32, 32), backbone="timm/test_vit")
        classifier, given = loaded(network), images(5, 32, 32, 3)
    before = {name: value.clone() for name, value in classifier.classifier.state_dict().items()}
    assert export_classifier(classifier, tmp_path / "new" / "model.onnx", given) < 1e-5
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.onnx"]

    session = runtime.InferenceSession(str(tmp_path / "new" / "model.onnx"))
    (taken,) = session.get_inputs()
    assert (taken.type, taken.shape[1:]) == ("tensor(uint8)", list(given.shape[1:]))
    metadata = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert metadata["class_names"] == NAMES
    assert metadata["image_size"] == list(given.shape[1:3])
    assert (metadata["resize_mode"], metadata["value_range"]) == ("squash", [0, 4095])
    # By hand: the pixels' own constants, and softmax.
    pixels = torch.from_numpy(given).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected = classifier.classifier((pixels - 0.4) / 0.2).softmax(1)
    for count in (1, 2, 5):
        (found,) = session.run(None, {"images": given[:count]})
        np.testing.assert_allclose(found, expected[:count], atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in classifier.classifier.state_dict().items())


class Sized(nn.Module):
    """Cannot be exported with batches of any size."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) * (2.0 if len(images) == 2 else 1.0)


@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_what_cannot_be_exported_is_one_line_and_leaves_the_old_file(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.{ending}"
    path.write_text("old")
    with pytest.raises(UserError, match=r"^--export: Sized cannot be exported: .*; nothing was written$") as failure:
        export_classifier(loaded(Sized()), path, images(2, 32, 32, 3))
    assert "\n" not in str(failure.value)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(path.name, "old")]


@pytest.mark.parametrize("wrong", [2e-4, float("nan")])
def test_a_file_that_computes_something_else_is_not_kept(
    wrong: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = export._pt2

    def inexact(*args: Any) -> Any:
        content, run = made(*args)
        return content, lambda pixels: run(pixels) + wrong

    monkeypatch.setattr(export, "_pt2", inexact)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(
        UserError, match=r"from the checkpoint's by (2\.0e-04|nan), more than 0\.0001: .* was not written"
    ):
        export_classifier(loaded(network), tmp_path / "model.pt2", images(3, 32, 32, 3))
    assert list(tmp_path.iterdir()) == []
