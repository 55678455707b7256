"""ImageClassifier under a Trainer: numbers against hand counts, scikit-learn, torch's autograd."""

import copy

import pytest
import torch
import torchvision
from lightning.pytorch import seed_everything
from sklearn.metrics import accuracy_score, f1_score, log_loss
from small_classifier import NAMES, Data, small, trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from litlens.errors import UserError
from litlens.models.classifier import ImageClassifier
from litlens.models.networks.mlp import MLP
from litlens.models.networks.scratch import MnistCNN


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


def test_metrics_by_hand() -> None:
    classifier = ImageClassifier(nn.Flatten(), NAMES)  # the images are the logits
    image = {0: [9.0, 0, 0], 1: [0, 9.0, 0], 2: [0, 0, 9.0]}
    predicted, truth = [0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 1, 2, 0, 2]
    images = torch.tensor([image[row] for row in predicted]).reshape(7, 1, 1, 3)
    loader = DataLoader(TensorDataset(images, torch.tensor(truth)), batch_size=3)
    (logged,) = trainer().validate(classifier, loader, verbose=False)
    assert logged["accuracy/val"] == pytest.approx(5 / 7)
    # F1 of a: 1/2, b: 4/5, c: 4/5
    assert logged["f1/val"] == pytest.approx((0.5 + 0.8 + 0.8) / 3)
    assert classifier._val.confusion.tolist() == [[1, 0, 1], [1, 2, 0], [0, 0, 2]]


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


class Kinds(nn.Module):
    """Records the type that its linear layer computes in."""

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


def test_a_wrong_number_of_logits_or_a_value_out_of_range_is_one_line(data: Data) -> None:
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


def test_auxiliary_logits_are_left_out() -> None:
    network = torchvision.models.googlenet(num_classes=3, init_weights=False).train()
    classifier = ImageClassifier(network, ["a", "b", "c"])
    images = torch.randn(2, 3, 64, 64)
    assert not isinstance(network(images), torch.Tensor)
    assert classifier(images).shape == (2, 3)
