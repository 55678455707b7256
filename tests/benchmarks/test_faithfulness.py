"""Deletion and insertion against a plain loop after RISE's evaluation.py, and against what must come out."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from faithfulness import faithfulness, random_maps


class Bright(nn.Module):
    """Class 1 by how bright the upper left quarter of 8×8 is; nothing else counts."""

    def forward(self, images: Tensor) -> Tensor:
        evidence = images[:, 0, :4, :4].mean((1, 2))
        return torch.stack([torch.zeros_like(evidence), 8 * evidence - 4], 1)


def rise(network: nn.Module, image: Tensor, heat: Tensor, target: int, start: Tensor, end: Tensor, step: int) -> list:
    """`CausalMetric.single_run` of https://github.com/eclique/RISE, equal pixels in reading order."""
    order = np.argsort(-heat.flatten().numpy(), kind="stable")
    start, scores = start.clone(), []
    for done in range(0, len(order) + 1, step):
        with torch.no_grad():
            scores.append(network(start[None]).softmax(1)[0, target].item())
        chosen = order[done : done + step]
        start.view(len(image), -1)[:, chosen] = end.reshape(len(image), -1)[:, chosen]
    return scores


def test_curves_equal_a_loop_over_pixels() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    network.extend([nn.Dropout(0.5), nn.Linear(32, 5)])
    images = torch.randn(3, 3, 24, 20)
    maps = torch.rand(3, 24, 20, generator=torch.Generator().manual_seed(0))
    maps[0, :5] = 0.5  # ties
    curves = faithfulness(network.train(), images, maps, torch.tensor([1, 0, 4]), steps=48)
    assert all(module.training for module in network.modules())
    network.eval()
    for row, target in enumerate([1, 0, 4]):
        image = images[row]
        blurred = torch.from_numpy(
            np.stack([gaussian_filter(channel, 5, radius=5, mode="constant") for channel in image.double().numpy()])
        ).float()
        deletion = rise(network, image, maps[row], target, image, torch.zeros_like(image), 10)
        insertion = rise(network, image, maps[row], target, blurred, image, 10)
        torch.testing.assert_close(curves.deletion[row], torch.tensor(deletion), atol=1e-5, rtol=0)
        torch.testing.assert_close(curves.insertion[row], torch.tensor(insertion), atol=1e-5, rtol=0)
        area = (sum(deletion) - deletion[0] / 2 - deletion[-1] / 2) / (len(deletion) - 1)  # RISE's auc()
        assert curves.deletion_area[row].item() == pytest.approx(area, abs=1e-5)


def test_a_true_map_beats_a_random_one_and_a_false_one() -> None:
    images = torch.ones(8, 1, 8, 8)
    target = torch.ones(8, dtype=torch.int64)
    true = torch.zeros(8, 8, 8)
    true[:, :4, :4] = 1
    at_random = faithfulness(Bright(), images, random_maps((8, 8, 8), seed=0), target)
    right, wrong = (faithfulness(Bright(), images, maps, target) for maps in (true, 1 - true))
    assert right.deletion_area.mean() < at_random.deletion_area.mean() < wrong.deletion_area.mean()
    assert right.insertion_area.mean() > at_random.insertion_area.mean() > wrong.insertion_area.mean()
    assert right.deletion[:, 0].tolist() == pytest.approx([1 / (1 + np.exp(-4))] * 8)
    assert right.deletion[:, -1].tolist() == pytest.approx([1 / (1 + np.exp(4))] * 8)


def test_random_maps_follow_from_the_seed_and_touch_no_global_state() -> None:
    state = torch.get_rng_state()
    maps = random_maps((2, 30, 40), seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert maps.shape == (2, 30, 40)
    assert torch.equal(maps, random_maps((2, 30, 40), seed=1))
    assert not torch.equal(maps, random_maps((2, 30, 40), seed=2))
    assert 0 <= maps.min() <= maps.max() <= 1
