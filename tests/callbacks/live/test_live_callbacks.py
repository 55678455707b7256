"""All live callbacks at once: no effect on the training, every tag in the event file, any number of classes."""

import gc
import random
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import nn

from litlens.callbacks.finite_loss import FiniteLoss
from litlens.callbacks.learning_rate import LearningRate
from litlens.callbacks.live import drawing
from litlens.callbacks.live.network_figures import FeatureMaps, GradCam, Histograms, ModelGraph
from litlens.callbacks.live.samples import PredictionGrid, WrongSamples
from litlens.callbacks.live.score_figures import ConfusionMatrix, LearningCurves, PerClassMetrics, PrecisionRecallCurves
from litlens.callbacks.random_state import RandomState
from litlens.callbacks.run_metadata import HyperParameters, Provenance
from litlens.callbacks.running_average import RunningAverage
from litlens.callbacks.tensorboard import TensorBoard
from litlens.data.datasets.arrays import DigitsDataModule
from litlens.data.module import ImageDataModule
from litlens.data.split import ArrayImages, Split
from litlens.models.backbones import TransferNetwork
from litlens.models.classifier import ImageClassifier
from litlens.models.networks.mlp import MLP
from litlens.models.networks.scratch import MnistCNN
from litlens.models.transfer import TransferClassifier

CONFIG = {
    "seed_everything": 42,
    "model": {"class_path": "litlens.X", "init_args": {"optimizer": {"class_path": "torch.optim.Adam"}, "l1": None}},
    "trainer": {"callbacks": [1], "max_epochs": 2},
}
IMAGES = {f"{name}/val" for name in ("confusion_matrix", "precision_recall", "wrong_samples", "prediction_grid")}
IMAGES |= {"learning_curves", "confusion_matrix/test", "precision_recall/test", "per_class/test"}
MAPS = {"grad_cam/val", "feature_maps/val"}


def live() -> list[Callback]:
    """All of them, those that are off by default too."""
    shown: list[Callback] = [PredictionGrid(), GradCam(), FeatureMaps(), ModelGraph(), Histograms(), WrongSamples()]
    figures = [ConfusionMatrix(), LearningCurves(), PerClassMetrics(), PrecisionRecallCurves(), HyperParameters()]
    return [*shown, *figures, Provenance(CONFIG)]


class Noise(ImageDataModule):
    """Images of noise in any number of classes, four of each in every split."""

    def __init__(self, classes: int, *, size: int = 8, channels: int = 1) -> None:
        super().__init__(batch_size=2 * classes, normalize="half")
        self.class_names = [f"class {number}" for number in range(classes)]
        self.in_channels, self.image_size = channels, (size, size)

    def load(self) -> dict[str, Split]:
        number = 4 * self.num_classes
        shape = (number, *self.image_size, self.in_channels)
        pixels = ArrayImages(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8))
        labels = np.arange(number) % self.num_classes
        rows = np.arange(number)
        return {split: Split(pixels, rows, labels, [f"{split}/{k}" for k in rows]) for split in self._names()}

    @staticmethod
    def _names() -> tuple[str, ...]:
        return ("train", "val", "test")


def run(
    folder: Path,
    callbacks: list[Callback],
    *,
    data: ImageDataModule | None = None,
    classifier: ImageClassifier | None = None,
    logger: Any = None,
    **settings: Any,
) -> tuple[Trainer, ImageClassifier]:
    """Fit and test, on few batches, from the same random state."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    data = data or DigitsDataModule(batch_size=32, augment=[{"rotation": 10}])
    classifier = classifier or ImageClassifier(MnistCNN(10, 1, (8, 8)), data.class_names)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=TensorBoard(folder, name="", version="") if logger is None else logger,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 2, "limit_train_batches": 4, "default_root_dir": folder, **settings},
    )
    trainer.fit(classifier, datamodule=data)
    trainer.test(classifier, datamodule=data, verbose=False)
    return trainer, classifier


def events(folder: Path) -> EventAccumulator:
    """What the event files of a folder hold."""
    found = EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0, "scalars": 0})
    found.Reload()
    return found


def test_weights_and_random_states_are_the_same_to_the_last_bit(tmp_path: Path) -> None:
    states = []
    for callbacks in ([], live()):
        trainer, classifier = run(tmp_path / str(len(callbacks)), callbacks)
        state = {**classifier.state_dict(), "torch": torch.get_rng_state()}
        moments = trainer.optimizers[0].state_dict()["state"]
        state |= {f"{key}.{name}": value for key, row in moments.items() for name, value in row.items()}
        states.append((state, random.getstate(), np.random.get_state()[1].tolist()))
    assert states[0][1:] == states[1][1:]
    assert states[0][0].keys() == states[1][0].keys()
    for name, value in states[0][0].items():
        assert torch.equal(value, states[1][0][name]), name


def test_every_tag_is_in_the_event_file(tmp_path: Path) -> None:
    _, classifier = run(tmp_path, live())
    found = events(tmp_path)
    tags = found.Tags()
    assert set(tags["images"]) == IMAGES | MAPS
    assert tags["graph"]
    assert {tag for tag in tags["tensors"] if tag.startswith("pr_curve")} == {
        f"pr_curve/{split}/{digit}" for split in ("val", "test") for digit in range(10)
    }
    kinds = {f"{kind}/val/{digit}" for kind in ("precision", "recall", "f1") for digit in range(10)}
    logged = {f"{kind}/{split}" for kind in ("loss", "accuracy", "f1") for split in ("val", "test")}
    assert set(tags["scalars"]) == kinds | logged | {"loss/train", "accuracy/train"}
    for tag in MAPS | {"prediction_grid/val", "precision/val/3"}:
        kind = found.Images if tag in MAPS | IMAGES else found.Scalars
        assert [event.step for event in kind(tag)] == [4, 8], tag
    leaves = [name for name, layer in classifier.network.named_modules() if not any(layer.children())]
    histograms = {f"weights/{name}" for name, _ in classifier.network.named_parameters()}
    assert set(tags["histograms"]) == histograms | {f"activations/{name}" for name in leaves}


def test_hyperparameters_are_shown_with_the_final_metrics(tmp_path: Path) -> None:
    run(tmp_path, [HyperParameters(), Provenance(CONFIG)])
    metadata = events(tmp_path).summary_metadata
    logged = {
        tag: HParamsPluginData.FromString(metadata[tag].plugin_data.content)
        for tag in metadata
        if tag.startswith("_hparams_")
    }
    start = logged["_hparams_/session_start_info"].session_start_info.hparams
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.items()}
    first = {"network": "MnistCNN", "optimizer": "Adam", "learning_rate": 0.001, "epochs": 2, "batch_size": 32}
    assert values == first | {"seed_everything": 42, "model": "X"}
    experiment = logged["_hparams_/experiment"].experiment
    # TensorBoard sorts the columns by this mark, then by name.
    assert {info.name for info in experiment.hparam_infos if info.differs} == set(first)
    assert {info.name.tag for info in experiment.metric_infos} == {
        f"{kind}/{split}" for kind in ("loss", "accuracy", "f1") for split in ("val", "test")
    }


def test_text_and_charts_are_written_once_also_over_two_processes(tmp_path: Path) -> None:
    """Where a run goes on, its folder has an event file of the process before."""
    for epochs in (1, 2):
        run(tmp_path, [LearningCurves(), HyperParameters(), Provenance(CONFIG)], max_epochs=epochs)
    found = events(tmp_path)
    (text,), (charts,) = (found.Tensors(tag) for tag in ("config/text_summary", "custom_scalars__config__"))
    assert yaml.safe_load(text.tensor_proto.string_val[0].decode().strip("`").removeprefix("yaml\n")) == CONFIG
    (category,) = Layout.FromString(charts.tensor_proto.string_val[0]).category
    logged = [*found.Tags()["scalars"], "loss/train_step"]
    shown = {
        chart.title: {tag for tag in logged if any(re.match(pattern, tag) for pattern in chart.multiline.tag)}
        for chart in category.chart
    }
    assert shown == {kind: {f"{kind}/train", f"{kind}/val"} for kind in ("loss", "accuracy")}


def test_an_mlp_without_maps_is_reported_once_and_the_rest_is_shown(tmp_path: Path, caplog: Any) -> None:
    classifier = ImageClassifier(MLP(10, 1, (8, 8), widths=[8]), [str(digit) for digit in range(10)])
    run(tmp_path, live(), classifier=classifier, max_epochs=3)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("litlens")]
    assert sorted(line.partition(":")[0] for line in said) == ["FeatureMaps", "GradCam"]
    assert all("MLP has no layer with a map larger than 1×1" in line for line in said)
    tags = events(tmp_path).Tags()
    assert set(tags["images"]) == IMAGES
    assert tags["graph"]


def test_sixty_two_classes_have_one_figure_instead_of_186_curves(tmp_path: Path) -> None:
    data = Noise(62)
    classifier = ImageClassifier(MnistCNN(62, 1, (8, 8)), data.class_names)
    run(tmp_path, live(), data=data, classifier=classifier, max_epochs=1)
    tags = events(tmp_path).Tags()
    assert set(tags["images"]) == IMAGES | MAPS | {"per_class/val"}
    assert not [tag for tag in tags["scalars"] if tag.count("/") > 1]
    assert {tag for tag in tags["tensors"] if tag.startswith("pr_curve")} == {"pr_curve/val", "pr_curve/test"}


def test_cached_features_in_place_of_images_change_nothing(tmp_path: Path) -> None:
    data = Noise(2, size=32, channels=3)
    torch.manual_seed(1)
    network = TransferNetwork(2, 3, (32, 32), backbone="shufflenet_v2_x0_5")
    classifier = TransferClassifier(network, data.class_names, strategy="frozen")
    assert classifier.frozen_layers(0) is not None
    run(tmp_path, live(), data=data, classifier=classifier)
    tags = events(tmp_path).Tags()
    assert set(tags["images"]) >= MAPS | IMAGES - {"wrong_samples/val"}
    assert tags["graph"]


def test_a_network_of_nan_weights_is_shown(tmp_path: Path) -> None:
    classifier = ImageClassifier(MnistCNN(10, 1, (8, 8)), [str(digit) for digit in range(10)])
    for weight in classifier.parameters():
        nn.init.constant_(weight, float("nan"))
    run(tmp_path, live(), classifier=classifier, max_epochs=1, limit_train_batches=1)
    assert set(events(tmp_path).Tags()["images"]) >= {"feature_maps/val", "wrong_samples/val", "prediction_grid/val"}


def test_plain_loaders_are_shown_too(tmp_path: Path) -> None:
    data = DigitsDataModule(batch_size=32)
    data.setup()
    torch.manual_seed(0)
    classifier = ImageClassifier(MnistCNN(10, 1, (8, 8)), data.class_names)
    trainer = Trainer(
        accelerator="cpu",
        logger=TensorBoardLogger(tmp_path, name="", version=""),
        callbacks=live(),
        max_epochs=1,
        limit_train_batches=2,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    pixels = [data.preprocessing.normalize(data.image("val", index)[None])[0] for index in range(40)]
    pairs = torch.utils.data.TensorDataset(torch.stack(pixels), torch.arange(40) % 10)
    loader = torch.utils.data.DataLoader(pairs, batch_size=16)
    trainer.fit(classifier, loader, loader)
    assert set(events(tmp_path).Tags()["images"]) == {tag for tag in MAPS | IMAGES if not tag.endswith("test")}


@pytest.mark.parametrize("kind", ["no logger", "csv", "another rank"])
def test_nothing_is_drawn_or_computed_without_a_logger_of_images(tmp_path: Path, monkeypatch: Any, kind: str) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        pytest.fail("drawn")

    monkeypatch.setattr(drawing, "pixels", refuse)
    monkeypatch.setattr("litlens.callbacks.live.network_figures.cam", refuse)
    monkeypatch.setattr("litlens.callbacks.live.samples.probabilities_of", refuse)
    monkeypatch.setattr("litlens.callbacks.live.score_figures.precision_recall_curves", refuse)
    logger: Any = {"no logger": False, "csv": CSVLogger(tmp_path), "another rank": None}[kind]
    if kind == "another rank":
        monkeypatch.setattr(Trainer, "is_global_zero", property(lambda self: False))
    run(tmp_path, live(), logger=logger, max_epochs=1, limit_train_batches=1)


class Untraceable(MnistCNN):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_tracing():
            raise RuntimeError("not me\nand more")
        return super().forward(images)


def test_a_network_that_cannot_be_traced_is_trained(tmp_path: Path, caplog: Any, capsys: Any) -> None:
    network: nn.Module = Untraceable(10, 1, (8, 8))
    classifier = ImageClassifier(network, [str(digit) for digit in range(10)])
    run(tmp_path, [ModelGraph()], classifier=classifier)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("litlens")]
    assert len(said) == 1
    assert "Untraceable cannot be traced" in said[0]
    assert "and more" not in said[0]
    assert "Error occurs" not in capsys.readouterr().out
    assert all(layer.training for layer in network.modules())


class Memory(Callback):
    """Notes every twentieth epoch how many objects Python has, and how many MiB of the process are in memory."""

    def __init__(self) -> None:
        self.objects: dict[int, int] = {}
        self.mebibytes: dict[int, float] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (epoch := trainer.current_epoch + 1) % 20 == 0:
            gc.collect()
            self.objects[epoch] = len(gc.get_objects())
            status = Path("/proc/self/status").read_text().splitlines()
            self.mebibytes[epoch] = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS:"))


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the memory in use from /proc")
def test_memory_stops_growing(tmp_path: Path) -> None:
    """Over 200 epochs; the first ones fill caches, the writer's queue and the allocator's arenas.

    Measured with everything drawn in each: 907 MiB in epoch 0, from 40 on 947 to 985, and from 10 on as many objects.
    """
    memory, data = Memory(), Noise(2)
    needed: list[Callback] = [FiniteLoss(), RandomState(), LearningRate(), RunningAverage(decay=0.9)]
    loggers = [TensorBoardLogger(tmp_path, name="", version=""), CSVLogger(tmp_path, name="", version="csv")]
    classifier = ImageClassifier(MnistCNN(2, 1, (8, 8)), data.class_names)
    settings = {"logger": loggers, "max_epochs": 200, "log_every_n_steps": 1}
    drawn = live()
    for callback in drawn:
        if hasattr(callback, "every_n_epochs"):
            callback.every_n_epochs = 40
    run(tmp_path, [*drawn, *needed, memory], data=data, classifier=classifier, **settings)
    assert not plt.get_fignums()
    objects = [number for epoch, number in memory.objects.items() if epoch >= 100]
    assert max(objects) - min(objects) < 50  # one an epoch would be 100, a figure thousands
    early = max(size for epoch, size in memory.mebibytes.items() if epoch <= 100)
    assert memory.mebibytes[200] < early + 30  # 0.3 MiB an epoch
