"""Feature maps against what the layers give when called one after the other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from litlens.errors import UserError
from litlens.explain.feature_maps import feature_maps
from litlens.explain.map_layers import NoMapError
from litlens.explain.overlay import feature_grid
from litlens.models.networks.scratch import CatDogCNN


def by_hand(layers: nn.Sequential, images: Tensor) -> list[Tensor]:
    outputs = []
    with torch.no_grad():
        for layer in layers.eval():
            images = layer(images.clone())
            outputs.append(images.clone())
    return outputs


def test_first_middle_and_last_convolution_before_their_inplace_relus(
    inplace_net: Any, images: Tensor, fingerprint: Callable[[nn.Module], dict[str, Any]]
) -> None:
    before = fingerprint(inplace_net.train())
    with torch.inference_mode():
        maps = feature_maps(inplace_net, images)
    assert fingerprint(inplace_net) == before
    expected = by_hand(inplace_net.features, images)
    assert list(maps) == ["features.0", "features.3", "features.7"]
    for name, values in maps.items():
        assert torch.equal(values, expected[int(name.split(".")[1])])
        assert not values.requires_grad


def test_layers_by_number_and_name(inplace_net: Any, images: Tensor) -> None:
    maps = feature_maps(inplace_net, images, layers=[5, "features.2", -4])
    expected: dict[str, Tensor] = {}
    for name, module in inplace_net.eval().named_modules():
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: expected.update({name: output.clone()})
        )
    with torch.no_grad():
        inplace_net(images)
    assert list(maps) == ["features.5", "features.2", "head.0"]
    for name, values in maps.items():
        assert torch.equal(values, expected[name])


def test_mistakes_are_refused_in_one_line(
    inplace_net: Any, images: Tensor, fingerprint: Callable[[nn.Module], dict[str, Any]]
) -> None:
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(1440, 2))
    before = fingerprint(inplace_net)
    with pytest.raises(UserError, match=r"output of head\.3 is not a map"):
        feature_maps(inplace_net, images, layers=["head.3"])
    with pytest.raises(UserError, match="did you mean 'features'"):
        feature_maps(inplace_net, images, layers=["feature"])
    with pytest.raises(NoMapError):
        feature_maps(mlp, images)
    assert fingerprint(inplace_net) == before


def test_feature_maps_of_a_cat_by_name_and_by_index(shared_data: Path, tmp_path: Path) -> None:
    """Layers 0, 20 and 40 of `CatDogCNN`, by name and by number, on one photo."""
    folder = shared_data / "catanddog" / "train" / "Cat"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    photo = Image.open(min(folder.iterdir())).convert("RGB").resize((100, 100))
    images = torch.from_numpy(np.asarray(photo) / 255.0).float().permute(2, 0, 1)[None]
    torch.manual_seed(0)
    network = CatDogCNN()
    maps = feature_maps(network, images, layers=["features.0", "features.20", "features.40"])
    numbered = feature_maps(network, images, layers=[0, 20, 40])
    expected = by_hand(network.features, images)
    assert list(maps) == list(numbered) == ["features.0", "features.20", "features.40"]
    for name, values in maps.items():
        torch.testing.assert_close(values, expected[int(name.split(".")[1])])
        assert torch.equal(values, numbered[name])
        grid = feature_grid(values[0])
        assert grid.std() > 10  # something is to be seen
        Image.fromarray(grid).save(tmp_path / f"{name}.png")
    assert maps["features.0"].shape == (1, 64, 98, 98)
