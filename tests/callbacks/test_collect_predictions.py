"""Predictions of a test: every sample once, in the data's order, with its name, on one process or several."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.multiprocessing
from lightning.pytorch import LightningDataModule

from litlens.callbacks.collect_predictions import CollectPredictions, gather_in_order
from litlens.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*is multi-threaded")


class Named(LightningDataModule):
    """A test split with names, as litlens' data modules have it."""

    def __init__(self, loader, *, labels=None) -> None:
        super().__init__()
        self.loader, self.labels = loader, labels

    def test_dataloader(self):
        return self.loader

    def samples(self, split):
        assert split == "test"
        labels = self.loader.dataset.tensors[1].numpy() if self.labels is None else self.labels
        return SimpleNamespace(names=[f"dog/{k}.png" for k in range(len(labels))], labels=labels)


def test_all_samples_in_order_with_their_names(trainer, small, samples) -> None:
    classifier, collect, data = small(), CollectPredictions(), Named(samples(23, 2))
    run = trainer(collect)
    run.test(classifier, data, verbose=False)
    images, labels = data.loader.dataset.tensors
    found = collect.predictions
    assert found is not None
    np.testing.assert_allclose(found.logits, classifier.layer(images).detach().numpy(), rtol=1e-5, atol=1e-6)
    assert found.labels.tolist() == labels.tolist()
    assert found.names == [f"dog/{k}.png" for k in range(23)]
    assert found.class_names == ["a", "b", "c"]
    assert found.correct.mean() == pytest.approx(float(run.callback_metrics["accuracy/test"]))
    run.test(classifier, data, verbose=False)
    assert len(collect.predictions) == 23


def test_without_a_data_module_samples_are_numbered(trainer, small, samples) -> None:
    collect = CollectPredictions()
    trainer(collect).test(small(), samples(3, 2), verbose=False)
    assert collect.predictions.names == ["test/00000", "test/00001", "test/00002"]


def test_a_limited_test_names_the_part_it_saw(trainer, small, samples) -> None:
    collect = CollectPredictions()
    trainer(collect, limit_test_batches=2).test(small(), Named(samples(23, 2, 5)), verbose=False)
    assert collect.predictions.names == [f"dog/{k}.png" for k in range(10)]


@pytest.mark.parametrize("size", [22, 24])
def test_a_count_that_does_not_match_is_an_error(trainer, small, samples, size) -> None:
    data = Named(samples(23, 2), labels=np.zeros(size, dtype=np.int64))
    with pytest.raises(RuntimeError, match="repeated or are missing"):
        trainer(CollectPredictions()).test(small(), data, verbose=False)


def test_another_order_is_an_error(trainer, small, samples) -> None:
    data = Named(samples(23, 2))
    data.labels = np.roll(data.loader.dataset.tensors[1].numpy(), 1)
    with pytest.raises(RuntimeError, match="not in the data module's order"):
        trainer(CollectPredictions()).test(small(), data, verbose=False)


def test_a_module_that_returns_nothing_is_tested_and_reported_once(trainer, small, samples, caplog) -> None:
    classifier = small()
    classifier.test_step = lambda batch, batch_idx: None
    classifier.on_test_epoch_end = lambda: None
    collect = CollectPredictions()
    trainer(collect).test(classifier, samples(30), verbose=False)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("litlens")]
    assert len(said) == 1
    assert "Small.test_step should return" in said[0]
    with pytest.raises(UserError, match=r"Small.test_step should return \{\"logits\""):
        _ = collect.predictions


def _share(rank: int, world_size: int, size: int, folder: str) -> None:
    """One process's part: sample i has the logits [i, -i] and the label i % 2."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size
    )
    mine = np.arange(size)[rank::world_size]
    shard = None
    if len(mine):
        shard = np.stack([mine, -mine], axis=1).astype(np.float32), mine % 2
    try:
        logits, labels, places = gather_in_order(shard)
        np.savez(f"{folder}/{rank}.npz", logits=logits, labels=labels, places=places)
    except ValueError as error:
        Path(folder, f"{rank}.txt").write_text(str(error))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("size", [13, 1], ids=["uneven", "one rank empty"])
def test_two_processes_gather_every_sample_once_and_in_order(tmp_path, size) -> None:
    torch.multiprocessing.start_processes(_share, args=(2, size, str(tmp_path)), nprocs=2, start_method="fork")
    for rank in range(2):
        found = np.load(tmp_path / f"{rank}.npz")
        assert found["places"].tolist() == list(range(size))
        assert found["logits"].tolist() == [[k, -k] for k in range(size)]
        assert found["labels"].tolist() == [k % 2 for k in range(size)]


def test_no_samples_anywhere_is_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        gather_in_order(None)
