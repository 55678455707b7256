"""A classifier loaded from a file alone: the same logits, and only classes that are trusted."""

from io import BytesIO
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from foreign_networks import Tempered
from PIL import Image

from litlens.checkpoints.loaded_classifier import load_classifier
from litlens.checkpoints.reading import read_checkpoint
from litlens.checkpoints.warm_start import initialize_from
from litlens.data.decode import read_image
from litlens.data.preprocessing import Normalize, Preprocessing, Resize
from litlens.errors import UserError
from litlens.models.classifier import ImageClassifier
from litlens.models.networks.mlp import MLP

PREPARED = Preprocessing(Resize((6, 6)), Normalize((0.4,), (0.2,)))


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


def test_predict_gives_the_probabilities_of_the_prepared_image(tmp_path: Path) -> None:
    classifier, path = saved(tmp_path)
    pixels = np.random.default_rng(0).integers(256, size=(9, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    said = load_classifier(path).predict(tmp_path / "photo.png")
    images = PREPARED.normalize(PREPARED.resize(read_image(pixels, channels=1))[None])
    expected = classifier(images)[0].softmax(dim=0)
    assert list(said.values()) == sorted(said.values(), reverse=True)
    assert said["class 1"] == pytest.approx(expected[1].item(), abs=1e-6)
    assert sum(said.values()) == pytest.approx(1)


def test_a_file_that_is_not_an_image_is_one_line(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    (tmp_path / "words.jpg").write_text("words")
    for name in ("words.jpg", "missing.jpg"):
        with pytest.raises(UserError, match=name):
            load_classifier(path).predict(tmp_path / name)


def test_a_class_of_another_package_is_not_built(tmp_path: Path) -> None:
    """The module would write a file when it is imported."""
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    model = {"class_path": "litlens.models.classifier.ImageClassifier", "init_args": {}}
    network = {"class_path": "stranger.Network", "init_args": {}}
    _, path = saved(tmp_path, model={**model, "init_args": {"network": network}})
    with pytest.raises(UserError, match="trust="):
        load_classifier(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("class_path", ["torch.save", "torch.nn.NoSuchLayer", "litlens.nowhere.Network"])
def test_only_networks_are_built(tmp_path: Path, class_path: str) -> None:
    model = {"class_path": "litlens.models.classifier.ImageClassifier"}
    _, path = saved(tmp_path, model={**model, "init_args": {"network": {"class_path": class_path, "init_args": {}}}})
    with pytest.raises(UserError, match="the checkpoint names"):
        load_classifier(path)


def test_warm_start_copies_all_weights_where_the_classes_are_the_same(tmp_path: Path) -> None:
    classifier, path = saved(tmp_path)
    network = MLP(num_classes=3, in_channels=1, image_size=(6, 6), widths=[5])
    assert initialize_from(network, classifier.class_names, path) == []
    for name, tensor in classifier.network.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)


@pytest.mark.parametrize("class_names", [["a", "b", "c", "d"], ["class 2", "class 1", "class 0"]])
def test_warm_start_copies_no_head_where_the_classes_differ(tmp_path: Path, class_names: list[str]) -> None:
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


def exif_turned() -> tuple[bytes, np.ndarray]:
    """A PNG that its EXIF turns by 90° clockwise, and the upright pixels."""
    pixels = np.random.default_rng(1).integers(256, size=(10, 16, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    return as_png(Image.fromarray(pixels), exif=exif), np.rot90(pixels, -1)


def transparent() -> tuple[bytes, np.ndarray]:
    """An image whose pixels are half transparent, and its four channels."""
    pixels = np.random.default_rng(2).integers(256, size=(10, 16, 4), dtype=np.uint8)
    return as_png(Image.fromarray(pixels)), pixels


def sixteen_bit() -> tuple[bytes, np.ndarray]:
    """A gray image of 16 bits, and its values."""
    pixels = np.random.default_rng(3).integers(65_536, size=(10, 16), dtype=np.uint16)
    return as_png(Image.fromarray(pixels)), pixels[..., None]


def as_png(image: Image.Image, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", [exif_turned, transparent, sixteen_bit])
def test_every_source_of_an_image_gives_the_same_prediction(kind: Any, tmp_path: Path) -> None:
    data, pixels = kind()
    classifier, path = saved(tmp_path / "x")
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    path.rename(run / "checkpoints" / "best.ckpt")
    file = tmp_path / "image.png"
    file.write_bytes(data)
    loaded = load_classifier(run)
    expected = loaded.predict(file)
    # By hand: 8 bits, on white, upright.
    values = pixels.astype(float) / (257 if pixels.dtype == np.uint16 else 1)
    if values.shape[2] == 4:
        values = values[..., :3] * values[..., 3:] / 255 + 255 - values[..., 3:]
    images = PREPARED.normalize(PREPARED.resize(read_image(values.round().astype(np.uint8), channels=1))[None])
    logits = classifier(images)[0]
    assert [expected[name] for name in classifier.class_names] == pytest.approx(logits.softmax(0).tolist(), abs=0.005)

    sources = [file, str(file), data, Image.open(file), pixels]
    for source in sources:
        assert loaded.predict(source) == pytest.approx(expected, abs=1e-6)
    assert loaded.predict(sources) == [pytest.approx(expected, abs=1e-6)] * 5
    assert loaded.predict(tuple(sources[:2])) == [pytest.approx(expected, abs=1e-6)] * 2
    assert loaded.predict(np.stack([pixels, pixels])) == [pytest.approx(expected, abs=1e-6)] * 2
    assert load_classifier(str(run / "checkpoints" / "best.ckpt")).predict(file) == expected


def test_the_batch_size_changes_no_probability(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    loaded = load_classifier(path).to("cpu")
    images = np.random.default_rng(0).integers(256, size=(7, 9, 9, 3), dtype=np.uint8)
    shapes: list[int] = []
    loaded.classifier.network.register_forward_hook(lambda _module, inputs, _output: shapes.append(len(inputs[0])))
    one, three = loaded.predict(images, batch_size=1), loaded.predict(images, batch_size=3)
    assert shapes == [1] * 7 + [3, 3, 1]
    assert one == [pytest.approx(probabilities, abs=1e-6) for probabilities in three]
    assert [list(probabilities) for probabilities in one] == [list(probabilities) for probabilities in three]
    assert loaded.predict([]) == []


def test_the_most_probable_classes_of_a_folder(tmp_path: Path) -> None:
    _, path = saved(tmp_path / "x", classes=5)
    loaded = load_classifier(path)
    folder = tmp_path / "images"
    draw = np.random.default_rng(0)
    for name in ("b.png", "a/c.png", ".hidden.png", "Thumbs.db", "__MACOSX/d.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(256, size=(9, 9, 3), dtype=np.uint8)
        (folder / name).write_bytes(as_png(Image.fromarray(pixels)) if name.endswith("png") else b"")
    found = loaded.predict(str(folder), top_k=2, batch_size=1)
    assert list(found) == ["a/c.png", "b.png"]
    for name, classes in found.items():
        assert list(classes.items()) == list(loaded.predict(folder / name).items())[:2]
    assert loaded.predict(folder / "b.png", top_k=9) == loaded.predict(folder / "b.png")
    assert loaded.prepare(folder / "b.png").shape == (6, 6, 1)
    (folder / "z.txt").write_text("words")
    with pytest.raises(UserError, match=r"images/z\.txt: not an image"):
        loaded.predict(folder)
    (folder / "empty").mkdir()
    assert loaded.predict(folder / "empty") == {}


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        ({}, {}, "image: dict is not a path, bytes, a PIL image or a NumPy array"),
        ([b"words"], {}, "image 0: not an image"),
        ([np.zeros((5, 5), np.uint8)] * 2 + [b""], {"batch_size": 2}, "image 2: an empty file"),
        (np.zeros((2, 5, 5, 7), np.uint8), {}, r"image 0: an array of shape \(5, 5, 7\)"),
        (np.zeros((5, 5)), {}, "image: floating-point values .* give value_range"),
        ([np.zeros((5, 5), np.uint8)], {"batch_size": 0}, "batch_size: 0"),
        ([np.zeros((5, 5), np.uint8)], {"batch_size": -1}, "batch_size: -1"),
        (np.zeros((5, 5), np.uint8), {"top_k": 0}, "top_k: 0"),
    ],
)
def test_a_wrong_input_is_one_line(images: Any, options: dict[str, int], words: str, tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    with pytest.raises(UserError, match=words) as failure:
        load_classifier(path).predict(images, **options)
    assert "\n" not in str(failure.value)


def test_the_repr_is_short(tmp_path: Path) -> None:
    _, path = saved(tmp_path, classes=90)
    assert repr(load_classifier(path)) == "LoadedClassifier(ImageClassifier(MLP), 90 classes)"


@pytest.mark.parametrize("kind", [ImageClassifier, Tempered])
def test_lightning_loads_every_option_of_a_checkpoint(kind: type[ImageClassifier], tmp_path: Path) -> None:
    """`network=` alone is needed: the options come from the checkpoint, as plain values."""
    own = {"temperature": 5.0} if kind is Tempered else {}
    network = MLP(num_classes=2, in_channels=1, image_size=(6, 6), widths=[5])
    own |= {"label_smoothing": 0.05, "mixup": 0.2, "l2": 0.01, "class_weights": [1.0, 2.0]}
    classifier = kind(network, ["a", "b"], **own)
    data = torch.utils.data.TensorDataset(torch.rand(4, 1, 6, 6), torch.tensor([0, 0, 0, 1]))
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options |= {
        "log_every_n_steps": 1,
        "default_root_dir": tmp_path,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    trainer = pl.Trainer(max_epochs=1, **options)
    trainer.fit(classifier, loader, loader)
    path = tmp_path / "x.ckpt"
    trainer.save_checkpoint(path)
    stored = read_checkpoint(path)["module_arguments"]
    assert not {"network", "_instantiator", "_class_path"} & set(stored)

    again = kind.load_from_checkpoint(path, network=network, weights_only=True, l2=0.02)
    kept = {**classifier.arguments, "network": network, "l2": 0.02}
    assert again.arguments == kept
    pl.Trainer(max_epochs=2, **options).fit(again, loader, loader, ckpt_path=path, weights_only=True)
    assert load_classifier(path).classifier.label_smoothing == 0.05
