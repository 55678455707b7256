"""CAM in the middle of training and of transfer learning."""

import copy
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from litlens.explain.cam import cam
from litlens.explain.feature_maps import feature_maps
from litlens.models.backbones import TransferNetwork


class Classifier(pl.LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: list[Tensor], _index: int) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], _index: int) -> None:
        self.network(batch[0])

    test_step = validation_step

    def predict_step(self, batch: list[Tensor], _index: int) -> Tensor:
        logits: Tensor = self.network(batch[0])
        return logits

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class ExplainEverywhere(pl.Callback):
    """Computes maps in every hook, also between forward and backward and between backward and step."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def _explain(self, hook: str, module: pl.LightningModule) -> None:
        images = torch.randn(2, 3, 24, 20, generator=torch.Generator().manual_seed(0))
        assert isinstance(module.network, nn.Module)
        for method in ("gradcam", "layercam"):
            assert torch.isfinite(cam(module.network, images, method=method).maps).all()
        feature_maps(module.network, images)
        self.seen.add(hook)

    def on_train_batch_start(self, _trainer, module, *_rest) -> None:  # type: ignore[no-untyped-def]
        self._explain("train_start", module)

    def on_before_backward(self, _trainer, module, *_rest) -> None:  # type: ignore[no-untyped-def]
        self._explain("before_backward", module)

    def on_before_optimizer_step(self, _trainer, module, *_rest) -> None:  # type: ignore[no-untyped-def]
        self._explain("before_step", module)

    def on_validation_batch_end(self, _trainer, module, *_rest) -> None:  # type: ignore[no-untyped-def]
        self._explain("validation", module)

    def on_test_batch_end(self, _trainer, module, *_rest) -> None:  # type: ignore[no-untyped-def]
        self._explain("test", module)

    def on_predict_batch_end(self, _trainer, module, *_rest) -> None:  # type: ignore[no-untyped-def]
        self._explain("predict", module)


def train(network: nn.Module, callbacks: list[pl.Callback]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    data = TensorDataset(torch.randn(16, 3, 24, 20, generator=generator), torch.randint(5, (16,), generator=generator))
    module = Classifier(copy.deepcopy(network))
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    torch.manual_seed(5)
    trainer.fit(module, DataLoader(data, batch_size=4, shuffle=True), DataLoader(data, batch_size=8))
    trainer.test(module, DataLoader(data, batch_size=8))
    trainer.predict(module, DataLoader(data, batch_size=8))
    return module.state_dict() | {"random": torch.get_rng_state()}


def test_weights_after_training_are_the_same_to_the_last_bit(inplace_net: Any) -> None:
    looks = ExplainEverywhere()
    without, with_looks = train(inplace_net, []), train(inplace_net, [looks])
    assert looks.seen == {"train_start", "before_backward", "before_step", "validation", "test", "predict"}
    assert without.keys() == with_looks.keys()
    for name, value in without.items():
        assert torch.equal(value, with_looks[name]), name


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_ddp_notices_nothing(inplace_net: Any, images: Tensor) -> None:
    network = inplace_net.eval()  # eval: no Dropout, so that the second run is the first
    alone = copy.deepcopy(network)
    ddp = DistributedDataParallel(network)
    buckets: list[int] = []

    def count(_state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        buckets.append(bucket.index())
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    ddp.register_comm_hook(None, count)
    labels = torch.tensor([0, 1, 2])
    loss = nn.functional.cross_entropy(ddp(images), labels)
    for method in ("gradcam", "layercam"):
        assert torch.equal(cam(ddp, images, method=method).maps, cam(alone, images, method=method).maps)
    assert not buckets
    loss.backward()
    assert buckets
    nn.functional.cross_entropy(alone(images), labels).backward()
    for parameter, expected in zip(network.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad)


@pytest.mark.parametrize(
    ("backbone", "in_channels", "layer"),
    [("resnet18", 3, "layer4.1"), ("resnet18", 1, "layer4.1"), ("vgg16", 3, "features.30")],
)
def test_a_frozen_base_has_the_packages_maps(backbone: str, in_channels: int, layer: str) -> None:
    torch.manual_seed(0)
    network = TransferNetwork(num_classes=3, in_channels=in_channels, image_size=(96, 96), backbone=backbone)
    torch.nn.init.uniform_(network.head[-1].weight)  # so that something speaks for each class
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith("head"))
    images = torch.randn(2, in_channels, 96, 96)
    result = cam(network.train(), images, target=[2, 0])
    assert result.layer == layer
    unfrozen = copy.deepcopy(network).requires_grad_(True)
    maker = GradCAM(unfrozen, [unfrozen.get_submodule(layer)])
    expected = torch.from_numpy(maker(images, [ClassifierOutputTarget(number) for number in (2, 0)]))
    torch.testing.assert_close(result.maps, expected, rtol=0, atol=1e-6)
    assert result.maxima.min() > 0
    assert result.maps.std((1, 2)).min() > 0.05
    assert [name for name, parameter in network.named_parameters() if parameter.requires_grad] == [
        name for name, _ in network.named_parameters() if name.startswith("head")
    ]
