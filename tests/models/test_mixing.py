"""MixUp and CutMix against torchvision's own transforms, given the same draws."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from litlens.models.losses import one_hot
from litlens.models.mixing import cut_mix, mix_batch, mix_up

IMAGES = torch.randn(5, 3, 10, 14, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 1, 0])
TARGETS = one_hot(LABELS, 3)


def test_mix_up_is_torchvisions() -> None:
    transform = v2.MixUp(num_classes=3)
    given = {"labels": LABELS, "batch_size": 5, "lam": 0.3}
    images, targets = mix_up(IMAGES, TARGETS, share=0.3)
    torch.testing.assert_close(images, transform.transform(IMAGES, given))
    torch.testing.assert_close(targets, transform.transform(LABELS, given))


@pytest.mark.parametrize("center", [(0.5, 0.5), (0.0, 0.99), (0.1, 0.2)])
def test_cut_mix_is_torchvisions(center: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    transform = v2.CutMix(num_classes=3)
    # torchvision draws the share, then the column, then the row.
    draws = iter([torch.tensor([int(center[1] * 14)]), torch.tensor([int(center[0] * 10)])])
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: next(draws))
    monkeypatch.setattr(transform._dist, "sample", lambda shape: torch.tensor(0.4))
    given = {"labels": LABELS, "batch_size": 5, **transform.make_params([IMAGES])}
    images, targets = cut_mix(IMAGES, TARGETS, share=0.4, center=np.array(center))
    torch.testing.assert_close(images, transform.transform(IMAGES, given))
    torch.testing.assert_close(targets, transform.transform(LABELS, given))


def test_a_batch_follows_from_its_rng_and_the_coin_is_fair() -> None:
    def mixed(seed: int) -> torch.Tensor:
        rng = np.random.default_rng(seed)
        return mix_batch(IMAGES, TARGETS, mixup=1.0, cutmix=1.0, rng=rng)[0]

    assert torch.equal(mixed(3), mixed(3))
    # A cut image takes each of its pixels from one of two; a mixed one almost none.
    pixels = [(mixed(seed) == IMAGES) | (mixed(seed) == IMAGES.roll(1, 0)) for seed in range(200)]
    cuts = sum(bool(kept.all()) for kept in pixels)
    assert 70 < cuts < 130  # 4.2 standard deviations
