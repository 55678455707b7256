"""The order of batches: the same for any number of workers, after a resume, and under a trainer or a plain loop."""

from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from litlens.data.augment import Augmentation
from litlens.data.decode import BadImage
from litlens.data.loader import EvaluationLoader, SplitDataset, TrainingLoader
from litlens.data.preprocessing import Normalize, Preprocessing, Resize
from litlens.data.split import ArrayImages, Split
from litlens.errors import UserError

SIZE = 23


def make_dataset(*, augmented: bool = False, size: int = SIZE) -> SplitDataset:
    pixels = np.random.default_rng(0).integers(256, size=(size, 6, 6, 1), dtype=np.uint8)
    split = Split(
        ArrayImages(pixels), rows=np.arange(size), labels=np.arange(size), names=[str(i) for i in range(size)]
    )
    prepared = Preprocessing(Resize((6, 6)), Normalize((0.5,), (0.5,)))
    augmentation = Augmentation(["rotation", "horizontal_flip"], Resize((6, 6))) if augmented else None
    return SplitDataset(split, preprocessing=prepared, augmentation=augmentation, seed=3)


def labels(batches: Iterable[tuple[Tensor, Tensor]]) -> list[list[int]]:
    return [batch[1].tolist() for batch in batches]


def same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, second, strict=True)
    )


def test_a_batch_is_what_the_contract_says() -> None:
    images, classes = next(iter(TrainingLoader(make_dataset(), batch_size=4)))
    assert (images.shape, images.dtype) == ((4, 1, 6, 6), torch.float32)
    assert (classes.shape, classes.dtype) == ((4,), torch.int64)


def test_workers_hand_on_bytes_and_the_loader_normalizes() -> None:
    dataset = make_dataset()
    pixels, _ = dataset.fetch((0, np.arange(4)))
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (4, 6, 6, 1))
    images, _ = next(iter(EvaluationLoader(dataset, batch_size=4)))
    assert torch.equal(images, dataset.preprocessing.normalize(pixels))
    handed_on, _ = next(iter(EvaluationLoader(dataset, batch_size=4, normalized=False)))
    assert torch.equal(handed_on, pixels)


def test_training_has_full_batches_in_a_new_order_each_epoch() -> None:
    loader = TrainingLoader(make_dataset(), batch_size=4)
    first, second = labels(loader), labels(loader)
    assert len(loader) == len(first) == 5
    assert all(len(set(batch)) == 4 for batch in first)
    assert first != second


def test_evaluation_is_whole_and_in_order() -> None:
    loader = EvaluationLoader(make_dataset(), batch_size=4)
    assert len(loader) == 6
    assert [label for batch in labels(loader) for label in batch] == list(range(SIZE))
    assert labels(loader)[-1] == [20, 21, 22]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(num_workers: int) -> None:
    alone = TrainingLoader(make_dataset(augmented=True), batch_size=4)
    shared = TrainingLoader(make_dataset(augmented=True), batch_size=4, num_workers=num_workers)
    for _ in range(2):
        assert same(list(alone), list(shared))


class Broken(SplitDataset):
    """Cannot fetch any batch that has sample 5."""

    def __init__(self, whole: SplitDataset, error: Exception) -> None:
        super().__init__(whole.split, preprocessing=whole.preprocessing, seed=whole.seed)
        self.error = error

    def fetch(self, request: Any) -> Any:
        if 5 in request[1]:
            raise self.error
        return super().fetch(request)


@pytest.mark.parametrize("kind", [TrainingLoader, EvaluationLoader])
@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("data.augment: mend it"), "data.augment: mend it"),
        (BadImage("a/5.png", "an empty file"), "a/5.png: an empty file"),
    ],
    ids=["mistake", "bad image"],
)
def test_a_mistake_met_in_a_worker_is_the_same_one_line(
    kind: Any, num_workers: int, error: UserError, line: str
) -> None:
    loader = kind(Broken(make_dataset(), error), batch_size=2, num_workers=num_workers)
    with pytest.raises(UserError) as caught:
        list(loader)
    assert type(caught.value) is type(error)
    assert str(caught.value) == line


def test_the_batches_before_a_mistake_are_handed_out() -> None:
    loader, seen = EvaluationLoader(Broken(make_dataset(), UserError("no")), batch_size=2, num_workers=1), []
    with pytest.raises(UserError):
        seen.extend(batch[1].tolist() for batch in loader)
    assert seen == [[0, 1], [2, 3]]


def test_any_other_error_of_a_worker_keeps_its_traceback() -> None:
    loader = EvaluationLoader(Broken(make_dataset(), ValueError("ours")), batch_size=2, num_workers=1)
    with pytest.raises(ValueError, match="in DataLoader worker process 0") as caught:
        list(loader)
    assert "Traceback" in str(caught.value)


def test_augmentation_is_another_each_epoch() -> None:
    dataset = make_dataset(augmented=True)
    index = np.array([5])
    assert not np.array_equal(dataset.pixels(index, epoch=0), dataset.pixels(index, epoch=1))
    assert np.array_equal(dataset.pixels(index, epoch=1), dataset.pixels(index, epoch=1))


class Recorder(pl.LightningModule):
    """Notes which samples it is given in which epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(36, 1)
        self.seen: list[tuple[int, list[int]]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.seen.append((self.current_epoch, batch[1].tolist()))
        loss: Tensor = self.layer(batch[0].flatten(1)).mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Data(pl.LightningDataModule):
    def __init__(self, num_workers: int = 0) -> None:
        super().__init__()
        self.num_workers = num_workers

    def train_dataloader(self) -> TrainingLoader:
        return TrainingLoader(make_dataset(), batch_size=4, num_workers=self.num_workers, trainer=self.trainer)


def fit(tmp_path: Any, *, num_workers: int = 0, ckpt_path: Any = None, **options: Any) -> Recorder:
    model = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )
    trainer.fit(model, datamodule=Data(num_workers), ckpt_path=ckpt_path, weights_only=ckpt_path and True)
    return model


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("steps", [2, 5, 7, 10])
# The run that goes on has no need of the callback that wrote the checkpoint.
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_resumed_run_sees_what_the_uninterrupted_one_does(tmp_path: Any, steps: int, num_workers: int) -> None:
    """Within an epoch of five steps (2, 7) and at its end (5, 10): no batch twice, none left out."""
    whole = fit(tmp_path, max_epochs=3, num_workers=num_workers, enable_checkpointing=False).seen
    checkpoint = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=steps, save_top_k=-1)
    fit(tmp_path, max_steps=steps, num_workers=num_workers, callbacks=[checkpoint])
    resumed = fit(
        tmp_path,
        max_epochs=3,
        num_workers=num_workers,
        ckpt_path=checkpoint.best_model_path,
        enable_checkpointing=False,
    ).seen
    assert resumed == whole[steps:]


def test_overfitting_repeats_the_first_batches(tmp_path: Any) -> None:
    seen = fit(tmp_path, max_epochs=3, overfit_batches=2, enable_checkpointing=False).seen
    batches = [batch for _, batch in seen]
    assert batches[:2] == batches[2:4] == batches[4:6]
    assert batches[0] != batches[1]
