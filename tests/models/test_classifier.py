"""ImageClassifier under a Trainer: numbers against hand counts, scikit-learn, torch's autograd."""

import copy
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from litlens.callbacks.running_average import RunningAverage
from litlens.errors import UserError
from litlens.models.classifier import ImageClassifier
from litlens.models.networks.mlp import MLP
from litlens.models.networks.scratch import LeNet5, MnistCNN

NAMES = ["a", "b", "c"]


class Data(LightningDataModule):
    """23 random pictures of three classes in batches of 8, 8, 7; val and test are the same by fives."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.images = torch.randn(23, 1, 12, 12, generator=draw)
        self.labels = torch.randint(3, (23,), generator=draw)

    def samples(self, split: str) -> Any:
        return SimpleNamespace(labels=self.labels.numpy())

    def _loader(self, batch_size: int) -> DataLoader:
        return DataLoader(TensorDataset(self.images, self.labels), batch_size=batch_size)

    def train_dataloader(self) -> DataLoader:
        return self._loader(8)

    def val_dataloader(self) -> DataLoader:
        return self._loader(5)

    def test_dataloader(self) -> DataLoader:
        return self._loader(5)


def trainer(**settings: Any) -> Trainer:
    return Trainer(
        **{
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "max_epochs": 1,
            **settings,
        }
    )


def small(**settings: Any) -> ImageClassifier:
    network = MLP(num_classes=3, image_size=(12, 12), widths=[16], activation="tanh")
    return ImageClassifier(network, NAMES, **settings)


@pytest.fixture
def data() -> Data:
    return Data()


def test_test_metrics_are_scikit_learns(data: Data) -> None:
    seed_everything(1)
    classifier = small()
    (logged,) = trainer().test(classifier, data, verbose=False)
    with torch.no_grad():
        logits = classifier(data.images)
    truth, predicted = data.labels.numpy(), logits.argmax(1).numpy()
    assert logged["accuracy/test"] == pytest.approx(accuracy_score(truth, predicted), rel=1e-6)
    assert logged["f1/test"] == pytest.approx(f1_score(truth, predicted, average="macro"), rel=1e-6)
    assert logged["loss/test"] == pytest.approx(log_loss(truth, logits.double().softmax(1).numpy()), rel=1e-5)
    assert set(logged) == {"loss/test", "accuracy/test", "f1/test"}
    np.testing.assert_array_equal(classifier.confusion["test"].compute().numpy(), confusion_matrix(truth, predicted))
    per_class = classifier.metrics_test.compute()
    expected = precision_recall_fscore_support(truth, predicted, zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
        np.testing.assert_allclose(per_class[f"{name}_per_class"].numpy(), values, rtol=1e-6)


def test_metrics_by_hand() -> None:
    classifier = ImageClassifier(nn.Flatten(), NAMES)  # the pictures are the logits
    picture = {0: [9.0, 0, 0], 1: [0, 9.0, 0], 2: [0, 0, 9.0]}
    predicted, truth = [0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 1, 2, 0, 2]
    images = torch.tensor([picture[row] for row in predicted]).reshape(7, 1, 1, 3)
    loader = DataLoader(TensorDataset(images, torch.tensor(truth)), batch_size=3)
    (logged,) = trainer().validate(classifier, loader, verbose=False)
    assert logged["accuracy/val"] == pytest.approx(5 / 7)
    # F1 of a: 1/2, b: 4/5, c: 4/5
    assert logged["f1/val"] == pytest.approx((0.5 + 0.8 + 0.8) / 3)
    assert classifier.confusion["val"].compute().tolist() == [[1, 0, 1], [1, 2, 0], [0, 0, 2]]


def test_training_means_count_samples(data: Data) -> None:
    classifier = small(optimizer=lambda params: torch.optim.SGD(params, lr=0.0))
    run = trainer()
    run.fit(classifier, data)
    with torch.no_grad():
        logits = classifier(data.images)
    expected = nn.functional.cross_entropy(logits, data.labels)
    accuracy = (logits.argmax(1) == data.labels).float().mean()
    for split in ("train", "val"):
        assert run.callback_metrics[f"loss/{split}"].item() == pytest.approx(expected.item(), rel=1e-5)
        assert run.callback_metrics[f"accuracy/{split}"].item() == pytest.approx(accuracy.item())


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_weighted_losses_are_means_over_all_samples(data: Data, loss: str) -> None:
    classifier = small(loss=loss, class_weights=[0.2, 1.0, 3.0])
    (logged,) = trainer().test(classifier, data, verbose=False)
    with torch.no_grad():
        logits = classifier(data.images)
    weights = torch.tensor([0.2, 1.0, 3.0])
    if loss == "cross_entropy":
        expected = nn.functional.cross_entropy(logits, data.labels, weight=weights)
    else:
        per_sample = (logits.softmax(1) - nn.functional.one_hot(data.labels, 3)).square().mean(1)
        expected = (per_sample * weights[data.labels]).sum() / weights[data.labels].sum()
    assert logged["loss/test"] == pytest.approx(expected.item(), rel=1e-5)


def test_balanced_weights_come_from_the_training_split_and_go_into_the_checkpoint(data: Data, tmp_path: Path) -> None:
    classifier = small(class_weights="balanced")
    with pytest.raises(UserError, match="balanced"):
        trainer().test(small(class_weights="balanced"), data, verbose=False)
    run = trainer()
    run.fit(classifier, data)
    counts = torch.bincount(data.labels)
    torch.testing.assert_close(classifier._class_weights, 23 / (3 * counts))
    run.save_checkpoint(tmp_path / "x.ckpt")
    (expected,) = trainer().test(classifier, data, verbose=False)
    fresh = small(class_weights="balanced")
    (found,) = trainer().test(fresh, data, ckpt_path=str(tmp_path / "x.ckpt"), verbose=False)
    assert found == expected

    loader = data.train_dataloader()
    with pytest.raises(UserError, match="give a list"):
        trainer().fit(small(class_weights="balanced"), loader, loader)


def test_balanced_weights_are_the_same_under_a_running_average_and_after_a_resume(data: Data, tmp_path: Path) -> None:
    expected = 23 / (3 * torch.bincount(data.labels))

    def fit(epochs: int, ckpt_path: Path | None = None) -> None:
        network = LeNet5(num_classes=3, image_size=(12, 12), batch_norm=True)
        classifier = ImageClassifier(network, NAMES, class_weights="balanced")
        callbacks = [RunningAverage(decay=0.5), ModelCheckpoint(tmp_path, filename="x")]
        run = trainer(max_epochs=epochs, callbacks=callbacks, enable_checkpointing=True)
        run.fit(classifier, data, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
        # After the fit the classifier is the average, which was validated last.
        with torch.no_grad():
            logits = classifier.eval()(data.images)
        loss = nn.functional.cross_entropy(logits, data.labels, weight=expected)
        assert run.callback_metrics["loss/val"].item() == pytest.approx(loss.item(), rel=1e-5)

    fit(1)
    fit(2, tmp_path / "x.ckpt")


def test_class_weights_go_where_the_classifier_goes() -> None:
    classifier = small(class_weights=[1.0, 2.0, 3.0])
    assert classifier.to("meta")._class_weights.device.type == "meta"


def test_overfits_one_batch() -> None:
    seed_everything(0)
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.randn(16, 1, 12, 12, generator=draw), torch.arange(16) % 3
    network = MnistCNN(num_classes=3, image_size=(12, 12))
    classifier = ImageClassifier(network, NAMES)
    run = trainer(max_epochs=20, limit_val_batches=0)
    loader = DataLoader(TensorDataset(images, labels), batch_size=16)
    run.fit(classifier, loader, loader)
    assert run.callback_metrics["accuracy/train"] == 1.0
    assert run.callback_metrics["loss/train"] < 0.02


class Gradients(Callback):
    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.plain = [weight.grad.clone() for weight in pl_module.network.parameters()]


def test_penalties_reach_the_step_clipped_and_not_the_loss(data: Data) -> None:
    """One SGD step with clipping, against torch's own, with penalties in the loss."""
    seed_everything(0)
    classifier = small(optimizer=lambda params: torch.optim.SGD(params, lr=1.0), l1=0.01, l2=0.02)
    twin = copy.deepcopy(classifier.network)
    run = trainer(max_steps=1, gradient_clip_val=0.5, log_every_n_steps=1, limit_val_batches=0)
    run.fit(classifier, data)

    loss = nn.functional.cross_entropy(twin(data.images[:8]), data.labels[:8])
    penalty = sum(0.01 * w.abs().sum() + 0.02 * w.square().sum() for w in twin.parameters() if w.ndim > 1)
    (loss + penalty).backward()
    nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
    for ours, theirs in zip(classifier.network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.data, theirs.data - theirs.grad, rtol=1e-4, atol=1e-6)
    assert run.callback_metrics["loss/train_step"].item() == pytest.approx(loss.item(), rel=1e-6)


class Sees(nn.Module):
    """Logits from the pictures themselves; notes each training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(144, 3)
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(images)
        return self.layer(images.flatten(1))


def mixed(data: Data, seed: int, **settings: Any) -> tuple[ImageClassifier, Trainer]:
    """Two epochs at a learning rate of 0."""
    seed_everything(seed)
    still = partial(torch.optim.SGD, lr=0.0)
    classifier = ImageClassifier(Sees(), NAMES, optimizer=still, **settings)
    run = trainer(max_epochs=2)
    run.fit(classifier, data)
    return classifier, run


def test_accuracy_under_mixup_counts_the_true_classes(data: Data) -> None:
    classifier, run = mixed(data, 0, mixup=1.0)
    seen = classifier.network.seen[3:]
    right, loss = 0.0, 0.0
    with torch.no_grad():
        for images, start in zip(seen, (0, 8, 16), strict=True):
            whole, labels = data.images[start : start + 8], data.labels[start : start + 8]
            before = whole.roll(1, 0)
            # images = share * whole + (1 - share) * before, solved by least squares
            share = ((images - before) * (whole - before)).sum() / (whole - before).square().sum()
            torch.testing.assert_close(images, before + share * (whole - before), rtol=0, atol=1e-5)
            logits = classifier(images)
            right += (logits.argmax(1) == labels).sum().item()
            for part, target in ((share, labels), (1 - share, labels.roll(1))):
                loss += part * nn.functional.cross_entropy(logits, target, reduction="sum")
    assert run.callback_metrics["accuracy/train"].item() == pytest.approx(right / 23)
    assert run.callback_metrics["loss/train"].item() == pytest.approx(loss.item() / 23, rel=1e-5)
    clean = nn.functional.cross_entropy(classifier.eval()(data.images), data.labels)
    assert run.callback_metrics["loss/val"].item() == pytest.approx(clean.item(), rel=1e-5)


def test_mixing_follows_the_seed_and_differs_by_batch_and_epoch(data: Data) -> None:
    first = mixed(data, 5, mixup=0.4, cutmix=1.0)[0].network.seen
    again = mixed(data, 5, mixup=0.4, cutmix=1.0)[0].network.seen
    other = mixed(data, 6, mixup=0.4, cutmix=1.0)[0].network.seen
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[3])  # the same pictures an epoch later


class Kinds(nn.Module):
    """Notes the type that its linear layer computes in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(144, 3)
        self.types: set[tuple[bool, torch.dtype]] = set()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.layer(images.flatten(1))
        self.types.add((self.training, logits.dtype))
        return logits


@pytest.mark.filterwarnings("ignore:.*autocast.*")
def test_trains_in_the_trainers_precision_and_evaluates_in_float32(data: Data) -> None:
    classifier = ImageClassifier(Kinds(), NAMES)
    run = trainer(precision="bf16-mixed")
    run.fit(classifier, data)
    run.test(classifier, data, verbose=False)
    assert classifier.network.types == {(True, torch.bfloat16), (False, torch.float32)}
    predicted = run.predict(classifier, data.val_dataloader())
    assert {logits.dtype for logits in predicted} == {torch.float32}
    assert torch.cat(predicted).shape == (23, 3)


def test_the_checkpoint_is_plain_and_rebuilds_the_network(data: Data, tmp_path: Path) -> None:
    seed_everything(0)
    network = LeNet5(num_classes=3, image_size=(12, 12), activation="relu")
    classifier = ImageClassifier(network, NAMES, loss="mse", label_smoothing=0.1, l2=0.001, mixup=0.2)
    run = trainer()
    run.fit(classifier, data)
    run.save_checkpoint(tmp_path / "x.ckpt")
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert all(name.startswith("network.") for name in checkpoint["state_dict"])
    about = checkpoint["litlens"]
    assert about["format"] == 1
    assert about["class_names"] == NAMES
    assert about["model"]["class_path"] == "litlens.models.classifier.ImageClassifier"
    arguments = dict(about["model"]["init_args"])
    spec = arguments.pop("network")
    assert spec["class_path"] == "litlens.models.networks.scratch.LeNet5"
    again = ImageClassifier(LeNet5(**spec["init_args"]), **arguments)
    again.load_state_dict(checkpoint["state_dict"])
    (expected,) = trainer().test(classifier, data, verbose=False)
    assert trainer().test(again, data, verbose=False) == [expected]
    assert (again.loss, again.label_smoothing, again.l2, again.mixup) == ("mse", 0.1, 0.001, 0.2)


def test_what_a_callback_says_in_the_checkpoint_stays(data: Data, tmp_path: Path) -> None:
    class Says(Callback):
        def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
            checkpoint.setdefault("litlens", {})["seed"] = 3

    run = trainer(callbacks=[Says()])
    run.fit(small(), data)
    run.save_checkpoint(tmp_path / "x.ckpt")
    about = torch.load(tmp_path / "x.ckpt", weights_only=True)["litlens"]
    assert about["seed"] == 3
    assert about["class_names"] == NAMES


def test_an_unfinished_epochs_sums_go_on_after_a_resume(data: Data, tmp_path: Path) -> None:
    class Saves(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "mid.ckpt")

    run = trainer(callbacks=[Saves()], limit_val_batches=0)
    run.fit(small(), data)
    sums = torch.load(tmp_path / "mid.ckpt", weights_only=True)["litlens"]["epoch_so_far"]
    assert sums["seen"] == 16
    fresh = small()
    fresh.on_load_checkpoint({"litlens": {"epoch_so_far": sums}})
    assert fresh._epoch.seen == 16
    assert fresh._epoch.loss == pytest.approx(sums["loss"])


def test_a_wrong_number_of_logits_or_a_senseless_value_gets_one_line(data: Data) -> None:
    with pytest.raises(UserError, match="gives 10 logits for 3 classes"):
        ImageClassifier(MLP(image_size=(12, 12)), NAMES)(data.images)
    for wrong in ({"l1": -1.0}, {"label_smoothing": 1.0}, {"class_weights": [1.0]}, {"mixup": -0.1}):
        with pytest.raises(UserError, match=f"model.{next(iter(wrong))}"):
            small(**wrong)


def test_channels_last_is_the_networks_and_the_images_format(data: Data) -> None:
    last = ImageClassifier(MnistCNN(num_classes=3, image_size=(12, 12)), NAMES)
    assert last.network.features[2].weight.is_contiguous(memory_format=torch.channels_last)
    plain = ImageClassifier(MnistCNN(num_classes=3, image_size=(12, 12)), NAMES, channels_last=False)
    plain.load_state_dict(last.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(last.eval()(data.images), plain.eval()(data.images), rtol=1e-4, atol=1e-5)


def test_deepcopy_carries_weights_and_settings() -> None:
    classifier = small(class_weights=[1.0, 2.0, 3.0])
    twin = copy.deepcopy(classifier)
    assert twin.state_dict().keys() == classifier.state_dict().keys()
    assert torch.equal(twin._class_weights, torch.tensor([1.0, 2.0, 3.0]))
