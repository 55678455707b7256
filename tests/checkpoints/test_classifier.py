"""From a file alone to a classifier: the same logits, and only classes that are trusted."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image

from litlens.checkpoints.classifier import load_classifier
from litlens.checkpoints.warm_start import initialize_from
from litlens.data.preprocessing import Preprocessing
from litlens.errors import UserError
from litlens.models.classifier import ImageClassifier
from litlens.models.networks.mlp import MLP

PREPARED = Preprocessing(size=(6, 6), channels=1, mean=(0.4,), std=(0.2,))


def saved(tmp_path: Path, *, classes: int = 3, **changes: Any) -> tuple[ImageClassifier, Path]:
    network = MLP(num_classes=classes, in_channels=1, image_size=(6, 6), widths=[5])
    classifier = ImageClassifier(network, class_names=[f"class {k}" for k in range(classes)])
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=False)
    trainer.strategy.connect(classifier)
    path = tmp_path / "x.ckpt"
    trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    content["litlens"]["preprocessing"] = PREPARED.to_dict()
    content["litlens"].update(changes)
    torch.save(content, path)
    return classifier.eval(), path


def test_the_loaded_classifier_gives_the_same_logits(tmp_path: Path) -> None:
    classifier, path = saved(tmp_path)
    images = torch.randn(4, 1, 6, 6)
    loaded = load_classifier(path)
    assert torch.equal(loaded.classifier(images), classifier(images))
    assert not loaded.classifier.training
    assert loaded.class_names == ["class 0", "class 1", "class 2"]


def test_predict_names_what_the_network_says_of_the_prepared_image(tmp_path: Path) -> None:
    classifier, path = saved(tmp_path)
    pixels = np.random.default_rng(0).integers(256, size=(9, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    said = load_classifier(path).predict(tmp_path / "photo.png")
    images = PREPARED.normalize(PREPARED.geometry(Image.fromarray(pixels))[None])
    expected = classifier(images)[0].softmax(dim=0)
    assert list(said.values()) == sorted(said.values(), reverse=True)
    assert said["class 1"] == pytest.approx(expected[1].item(), abs=1e-6)
    assert sum(said.values()) == pytest.approx(1)


def test_predict_says_in_one_line_what_is_no_image(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    (tmp_path / "words.jpg").write_text("words")
    for name in ("words.jpg", "missing.jpg"):
        with pytest.raises(UserError, match=name):
            load_classifier(path).predict(tmp_path / name)


def test_a_class_from_elsewhere_is_not_built(tmp_path: Path) -> None:
    """The module would write a file when it is imported."""
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    model = {"class_path": "litlens.models.classifier.ImageClassifier", "init_args": {}}
    network = {"class_path": "stranger.Network", "init_args": {}}
    _, path = saved(tmp_path, model={**model, "init_args": {"network": network}})
    with pytest.raises(UserError, match="trust="):
        load_classifier(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("class_path", ["torch.save", "torch.nn.NoSuchLayer", "litlens.nowhere.Network"])
def test_what_is_no_network_is_not_built(tmp_path: Path, class_path: str) -> None:
    model = {"class_path": "litlens.models.classifier.ImageClassifier"}
    _, path = saved(tmp_path, model={**model, "init_args": {"network": {"class_path": class_path, "init_args": {}}}})
    with pytest.raises(UserError, match="the checkpoint names"):
        load_classifier(path)


def test_warm_start_takes_everything_where_the_classes_are_the_same(tmp_path: Path) -> None:
    classifier, path = saved(tmp_path)
    network = MLP(num_classes=3, in_channels=1, image_size=(6, 6), widths=[5])
    assert initialize_from(network, classifier.class_names, path) == []
    for name, tensor in classifier.network.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)


@pytest.mark.parametrize("class_names", [["a", "b", "c", "d"], ["class 2", "class 1", "class 0"]])
def test_warm_start_makes_a_new_head_where_the_classes_differ(tmp_path: Path, class_names: list[str]) -> None:
    classifier, path = saved(tmp_path)
    network = MLP(num_classes=len(class_names), in_channels=1, image_size=(6, 6), widths=[5])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fresh = initialize_from(network, class_names, path)
    *_, last = list(before)
    assert sorted(fresh) == sorted([last, last.replace("bias", "weight")])
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name] if name in fresh else classifier.network.state_dict()[name])


def test_warm_start_from_another_network_is_one_line(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    for widths in ([7], [5, 5]):
        with pytest.raises(UserError, match=r"model\.init_from"):
            initialize_from(MLP(num_classes=3, image_size=(6, 6), widths=widths), ["x", "y", "z"], path)
