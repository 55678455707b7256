"""PassMetrics against torchmetrics' own metrics."""

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score

from litlens.models.metrics import PassMetrics


@pytest.mark.parametrize(
    "absent",
    [
        pytest.param([], id="every class"),
        pytest.param([3], id="a class without images"),
        pytest.param([3, 4], id="two classes without images, one of them predicted"),
    ],
)
def test_metrics_of_the_confusion_matrix_are_torchmetrics(absent: list[int]) -> None:
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(97, 5, generator=draw), torch.randint(5, (97,), generator=draw)
    logits[:, [number for number in absent if number == 3]] = -torch.inf  # never predicted
    keep = ~torch.isin(labels, torch.tensor(absent))
    logits, labels = logits[keep], labels[keep]
    metrics = PassMetrics(5)
    expected = {
        "accuracy": MulticlassAccuracy(5, average="micro"),
        "f1": MulticlassF1Score(5, average="macro"),
    }
    matrix = MulticlassConfusionMatrix(5)
    for part, truth in zip(logits.split(20), labels.split(20), strict=True):
        metrics.update(loss=torch.tensor(float(len(truth))), weight=2.0, logits=part, labels=truth)
        for metric in [*expected.values(), matrix]:
            metric.update(part, truth)
    found = metrics.compute()
    assert torch.equal(metrics.confusion, matrix.compute())
    for name, metric in expected.items():
        torch.testing.assert_close(found[name], metric.compute(), rtol=1e-6, atol=0)
    sizes = [len(part) for part in labels.split(20)]
    assert found["loss"] == pytest.approx(sum(sizes) / len(sizes))


def test_a_loss_of_nan_makes_the_mean_nan() -> None:
    metrics = PassMetrics(2)
    for loss in (1.0, torch.nan, 1.0):
        metrics.update(loss=torch.tensor(loss), weight=1, logits=torch.eye(2), labels=torch.tensor([0, 1]))
    assert metrics.compute()["loss"].isnan()
