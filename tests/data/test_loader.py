"""The order of batches: the same for any number of workers, after a resume, and under a trainer or a plain loop."""

import itertools
import multiprocessing
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from litlens.data import sampling
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


def test_a_batch_has_the_promised_types_and_shapes() -> None:
    images, classes = next(iter(TrainingLoader(make_dataset(), batch_size=4)))
    assert (images.shape, images.dtype) == ((4, 1, 6, 6), torch.float32)
    assert (classes.shape, classes.dtype) == ((4,), torch.int64)


def test_workers_give_uint8_and_the_loader_normalizes() -> None:
    dataset = make_dataset()
    pixels, _ = dataset.fetch((0, np.arange(4)))
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (4, 6, 6, 1))
    images, _ = next(iter(EvaluationLoader(dataset, batch_size=4)))
    assert torch.equal(images, dataset.preprocessing.normalize(pixels))
    raw, _ = next(iter(EvaluationLoader(dataset, batch_size=4, device=torch.device("cpu"))))
    assert torch.equal(raw, pixels)


def test_training_has_full_batches_in_a_new_order_each_epoch() -> None:
    loader = TrainingLoader(make_dataset(), batch_size=4)
    first, second = labels(loader), labels(loader)
    assert len(loader) == len(first) == 5
    assert all(len(set(batch)) == 4 for batch in first)
    assert first != second


@given(epoch=st.integers(0, 9), batches=st.integers(0, 5))
def test_a_balanced_epoch_resumes_at_any_batch(epoch: int, batches: int) -> None:
    options: dict[str, Any] = {"batch_size": 4, "balance": np.repeat([0, 1, 2], [15, 5, 3])}
    loader = TrainingLoader(make_dataset(), epochs=itertools.count(epoch), **options)
    complete = labels(loader)
    assert np.ptp(np.bincount(options["balance"][np.concatenate(complete)])) == 1  # 20 places for three classes
    state = {**loader.state_dict(), "batches": batches}
    resumed = TrainingLoader(make_dataset(), epochs=itertools.count(epoch), **options)
    resumed.load_state_dict(state)
    assert labels(resumed) == complete[batches:]
    assert labels(resumed) == labels(loader)  # the next epoch
    if 0 < batches < 5:
        with pytest.raises(UserError, match=r"^data\.sampling: shuffled instead of balanced: .* after batch"):
            TrainingLoader(make_dataset(), batch_size=4).load_state_dict(state)


def test_evaluation_takes_every_sample_in_order() -> None:
    loader = EvaluationLoader(make_dataset(), batch_size=4)
    assert len(loader) == 6
    assert [label for batch in labels(loader) for label in batch] == list(range(SIZE))
    assert labels(loader)[-1] == [20, 21, 22]


@pytest.fixture
def method(request: pytest.FixtureRequest) -> Iterator[str]:
    """How worker processes are started: fork, as on Linux, or spawn, as on Windows and macOS."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize(
    ("num_workers", "method"), [(1, "fork"), (2, "fork"), (4, "fork"), (2, "spawn")], indirect=["method"]
)
def test_workers_change_nothing(num_workers: int, method: str) -> None:
    """Whether they live on, are new in each epoch, or begin within one."""
    dataset = make_dataset(augmented=method == "fork")  # a spawned worker would import albumentations for seconds
    alone = TrainingLoader(dataset, batch_size=4)
    epochs = [list(alone) for _ in range(3)]
    lasting = TrainingLoader(dataset, batch_size=4, num_workers=num_workers)
    assert same(list(lasting), epochs[0])
    assert same(list(lasting), epochs[1])
    again = TrainingLoader(dataset, batch_size=4, num_workers=num_workers, epochs=itertools.count(1))
    again.load_state_dict({**lasting.state_dict(), "batches": 3})
    assert same(list(again), epochs[1][3:])
    assert same(list(again), epochs[2])


@given(size=st.integers(1, 40), batch_size=st.integers(1, 9), epoch=st.integers(0, 3), data=st.data())
def test_a_loader_goes_on_at_any_batch(size: int, batch_size: int, epoch: int, data: st.DataObject) -> None:
    dataset = make_dataset(size=size)
    loader = TrainingLoader(dataset, batch_size=batch_size, epochs=itertools.count(epoch))
    whole, after = labels(loader), labels(loader)
    stop = data.draw(st.integers(1, len(whole)))
    stopped = TrainingLoader(dataset, batch_size=batch_size, epochs=itertools.count(epoch))
    assert labels(itertools.islice(stopped, stop)) == whole[:stop]
    resumed = TrainingLoader(dataset, batch_size=batch_size, epochs=itertools.count(epoch))
    resumed.load_state_dict(stopped.state_dict())
    assert labels(resumed) == whole[stop:]
    assert labels(resumed) == after


class Counting(SplitDataset):
    """Counts what is fetched."""

    fetched = 0

    def fetch(self, request: Any) -> Any:
        self.fetched += len(request[1])
        return super().fetch(request)


def test_resuming_at_batch_10000_fetches_nothing_before_it() -> None:
    plain = make_dataset(size=30_000)
    dataset = Counting(plain.split, preprocessing=plain.preprocessing, seed=plain.seed)
    loader = TrainingLoader(dataset, batch_size=2)
    loader.load_state_dict({**loader.state_dict(), "batches": 10_000})
    _, classes = next(iter(loader))
    order = sampling.training_indices(seed=plain.seed, epoch=0, size=30_000, batch_size=2)
    assert classes.tolist() == order[10_000].tolist()
    assert dataset.fetched == 2


def test_another_number_of_devices_goes_on_within_an_epoch_where_a_step_has_as_many_images() -> None:
    alone = TrainingLoader(make_dataset(), batch_size=4)
    whole = labels(alone)
    ranks = []
    for rank in range(2):
        trainer: Any = SimpleNamespace(world_size=2, global_rank=rank, state=SimpleNamespace(status=None))
        loader = TrainingLoader(make_dataset(), batch_size=2, trainer=trainer)
        loader.load_state_dict({**alone.state_dict(), "batches": 2})
        ranks.append(labels(loader))
    assert [sorted(first + second) for first, second in zip(*ranks, strict=True)] == [sorted(b) for b in whole[2:]]


@pytest.mark.parametrize(
    ("size", "rank", "allow_empty", "length"), [(5, 0, False, 2), (5, 1, False, 2), (1, 1, True, 1), (1, 1, False, 0)]
)
def test_each_rank_has_the_length_of_the_first_unless_it_is_empty(
    size: int, rank: int, allow_empty: bool, length: int
) -> None:
    """Lightning refuses a loader of length 0: a module has to allow it."""
    trainer: Any = SimpleNamespace(world_size=2, global_rank=rank, state=SimpleNamespace(status=None))
    loader = EvaluationLoader(make_dataset(size=size), batch_size=2, trainer=trainer, allow_empty=allow_empty)
    assert len(loader) == length
    assert sum(len(batch[1]) for batch in loader) == len(range(rank, size, 2))


def test_two_iterations_at_once_do_not_mix() -> None:
    loader = TrainingLoader(make_dataset(), batch_size=4)
    first, second = labels(loader), labels(loader)
    other = TrainingLoader(make_dataset(), batch_size=4)
    pairs = [(a[1].tolist(), b[1].tolist()) for a, b in zip(other, other, strict=True)]
    assert pairs == list(zip(first, second, strict=True))


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
        (UserError("data.augment: fix it"), "data.augment: fix it"),
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


def test_the_batches_before_a_mistake_are_yielded() -> None:
    loader, seen = EvaluationLoader(Broken(make_dataset(), UserError("no")), batch_size=2, num_workers=1), []
    with pytest.raises(UserError):
        seen.extend(batch[1].tolist() for batch in loader)
    assert seen == [[0, 1], [2, 3]]


def test_any_other_error_of_a_worker_keeps_its_traceback() -> None:
    loader = EvaluationLoader(Broken(make_dataset(), ValueError("ours")), batch_size=2, num_workers=1)
    with pytest.raises(ValueError, match="in DataLoader worker process 0") as caught:
        list(loader)
    assert "Traceback" in str(caught.value)
    assert not multiprocessing.active_children()  # which would otherwise wait for the garbage collector


def test_augmentation_is_another_each_epoch() -> None:
    dataset = make_dataset(augmented=True)
    index = np.array([5])
    assert not np.array_equal(dataset.pixels(index, epoch=0), dataset.pixels(index, epoch=1))
    assert np.array_equal(dataset.pixels(index, epoch=1), dataset.pixels(index, epoch=1))


def test_threads_change_nothing() -> None:
    steps: list[Any] = [
        {"OneOf": {"transforms": ["crop", "RandomResizedCrop"], "p": 1}},
        "shear",
        {"horizontal_flip": {"alternate": True}},
    ]
    pixels = np.random.default_rng(0).integers(256, size=(9, 120, 130, 3), dtype=np.uint8)
    prepared = Preprocessing(Resize((96, 96)), Normalize((0.5,) * 3, (0.2,) * 3))
    split = Split(ArrayImages(pixels), np.arange(9), np.arange(9), names=[str(row) for row in range(9)])
    found = {}
    before = torch.get_num_threads()
    for threads in (1, 4):
        torch.set_num_threads(threads)
        dataset = SplitDataset(split, prepared, Augmentation(steps, prepared.resize))
        found[threads] = [dataset.pixels(np.array([3, 8, 1, 0, 5, 7]), epoch=epoch) for epoch in range(3)]
    torch.set_num_threads(before)
    assert np.array_equal(found[1], found[4])


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
    def __init__(self, num_workers: int = 0, batch_size: int = 4) -> None:
        super().__init__()
        self.num_workers, self.batch_size = num_workers, batch_size

    def train_dataloader(self) -> TrainingLoader:
        options = {"batch_size": self.batch_size, "num_workers": self.num_workers, "trainer": self.trainer}
        return TrainingLoader(make_dataset(), **options)


def fit(tmp_path: Any, *, num_workers: int = 0, batch_size: int = 4, ckpt_path: Any = None, **options: Any) -> Recorder:
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
    data, others = Data(num_workers, batch_size), set(multiprocessing.active_children())
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=ckpt_path and True)
    assert set(multiprocessing.active_children()) <= others  # Lightning has ended the workers
    return model


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("steps", [2, 5, 7, 10])
# The resumed run does not need the callback that wrote the checkpoint.
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


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("limit", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 12}])
@pytest.mark.parametrize("batch_size", [2, 8])
def test_another_batch_size_goes_on_at_the_start_of_an_epoch(
    batch_size: int, limit: dict[str, int], tmp_path: Any
) -> None:
    first = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, every_n_epochs=1, save_top_k=-1)
    fit(tmp_path, max_epochs=1, callbacks=[first])
    options: dict[str, Any] = {"batch_size": batch_size, "enable_checkpointing": False}
    resumed = fit(tmp_path, ckpt_path=first.best_model_path, **limit, **options).seen
    expected = [step for step in fit(tmp_path, max_epochs=5, **options).seen if step[0] > 0]
    assert resumed == expected[: len(resumed)]
    assert len(resumed) == (7 if "max_steps" in limit else {2: 22, 8: 4}[batch_size])


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize(("steps", "batch_size"), [(2, 2), (3, 8), (5, 2)])
def test_another_batch_size_within_an_epoch_is_one_line(steps: int, batch_size: int, tmp_path: Any) -> None:
    """With more batches than before or fewer, or with fewer than were trained; after the last batch, too."""
    checkpoint = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=steps, save_top_k=-1)
    fit(tmp_path, max_steps=steps, callbacks=[checkpoint])
    options: dict[str, Any] = {"max_epochs": 3, "enable_checkpointing": False, "batch_size": batch_size}
    with pytest.raises(UserError) as caught:
        fit(tmp_path, ckpt_path=checkpoint.best_model_path, **options)
    assert str(caught.value) == (
        f"data.batch_size times devices: {batch_size} instead of 4: the checkpoint was written after batch {steps} of "
        "5 of an epoch, whose order would change: restore it, or resume from the end of an epoch"
    )


def test_overfitting_repeats_the_first_batches(tmp_path: Any) -> None:
    seen = fit(tmp_path, max_epochs=3, overfit_batches=2, enable_checkpointing=False).seen
    batches = [batch for _, batch in seen]
    assert batches[:2] == batches[2:4] == batches[4:6]
    assert batches[0] != batches[1]
