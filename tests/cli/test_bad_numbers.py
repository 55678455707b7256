"""A run that meets bad numbers or too little memory ends with status 1, one line, and its last good checkpoint."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from litlens.checkpoints.logs import written_logs
from litlens.checkpoints.reading import read_checkpoint
from litlens.cli.main import evaluate, train
from litlens.cli.parser import TrainingCommand
from litlens.cli.replay import replay
from litlens.models.classifier import ImageClassifier

CONFIG = str(Path(__file__).resolve().parents[2] / "configs" / "digits_cnn.yaml")
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.logger=false"]
STEPS = 8  # of an epoch


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def options(*, epochs: int) -> list[str]:
    """A small run."""
    small = ["--trainer.callbacks=[]", "--trainer.limit_val_batches=2", f"--trainer.limit_train_batches={STEPS}"]
    return ["--config", CONFIG, *QUIET, *small, f"--trainer.max_epochs={epochs}"]


def stopped(capsys: pytest.CaptureFixture[str], *, epochs: int = 2) -> str:
    """The line that a small run ends with."""
    with pytest.raises(SystemExit) as stop:
        train(options(epochs=epochs))
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def run_folder() -> Path:
    (folder,) = Path("runs", "digits_cnn").iterdir()
    return folder


def good_steps() -> dict[str, int]:
    """The step of each checkpoint of the run, none of which holds a bad number."""
    steps = {}
    for path in (run_folder() / "checkpoints").iterdir():
        checkpoint = read_checkpoint(path)
        assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
        steps[path.name] = checkpoint["global_step"]
    return steps


def breaks_in_step(monkeypatch: pytest.MonkeyPatch, step: int, what: str) -> None:
    plain = ImageClassifier.training_step

    def training_step(self: ImageClassifier, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = plain(self, batch, batch_idx)
        if self.global_step != step:
            return loss
        if what == "loss":
            return loss * float("nan")
        next(self.network.parameters()).register_hook(lambda grad: grad * float("nan"))
        return loss

    monkeypatch.setattr(ImageClassifier, "training_step", training_step)


def test_in_the_last_step_of_the_first_epoch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    breaks_in_step(monkeypatch, STEPS - 1, "loss")
    line = stopped(capsys)
    assert line.startswith(f"error: the training loss became nan in epoch 0, step {STEPS - 1} (lr/")
    assert f", batch {STEPS - 1} (digits/" in line
    assert line.endswith(f"; litlens.replay('{run_folder()}', {STEPS - 1}) returns the step's images")
    assert replay(run_folder(), STEPS - 1).names[0] in line
    assert good_steps() == {"last.ckpt": 0}


def test_in_the_last_step_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resumed without the bad gradient, the run ends with the weights of one that never had it."""
    with monkeypatch.context() as patch:
        breaks_in_step(patch, 2 * STEPS - 1, "gradient")
        line = stopped(capsys)
    assert line.startswith("error: the total norm of the gradients became nan in epoch 1")
    assert good_steps() == {"last.ckpt": STEPS, "best.ckpt": STEPS, "last-previous.ckpt": 0}
    train(["--resume", str(run_folder())])
    resumed = read_checkpoint(run_folder() / "checkpoints" / "last.ckpt")
    (tmp_path / "plain").mkdir()
    monkeypatch.chdir(tmp_path / "plain")
    train(options(epochs=2))
    plain = read_checkpoint(run_folder() / "checkpoints" / "last.ckpt")
    for name, value in plain["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name


def test_validation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Logits that are NaN for one image, in the second epoch."""
    plain = ImageClassifier.validation_step

    def validation_step(self: ImageClassifier, batch: Any, batch_idx: int) -> Any:
        images, labels = batch
        if self.current_epoch == 1 and batch_idx == 1:
            images = images.clone()
            images[4] = float("nan")
        return plain(self, (images, labels), batch_idx)

    monkeypatch.setattr(ImageClassifier, "validation_step", validation_step)
    line = stopped(capsys, epochs=3)
    data = TrainingCommand(options(epochs=3)).build_data()
    data.setup("fit")
    name = data.samples("val").names[32 + 4]
    assert f"validation loss or logits became NaN or infinite in epoch 1, batch 1, in {name}. Lower" in line
    assert good_steps() == {"last.ckpt": STEPS, "best.ckpt": STEPS, "last-previous.ckpt": 0}


def test_a_disk_that_is_full_when_logs_are_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the end of the second epoch; that of a checkpoint is in tests/checkpoints/test_durable.py."""

    def written(trainer: Any) -> dict[str, int]:
        if trainer.global_step == 2 * STEPS:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written_logs(trainer)

    monkeypatch.setattr("litlens.checkpoints.last.written_logs", written)
    line = stopped(capsys)
    remedy = f"make room; resume with: python train.py --resume {run_folder()}"
    assert line == f"error: no space is left on the disk: {remedy}"
    assert good_steps()["last.ckpt"] == STEPS


def test_out_of_memory_on_a_device(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plain = ImageClassifier.training_step

    def training_step(self: ImageClassifier, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step == STEPS + 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nOf the allocated memory")
        return plain(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "training_step", training_step)
        line = stopped(capsys)
    assert line == (
        f"error: data.batch_size: 32: the device ran out of memory in epoch 1, step {STEPS + 2}; "
        "try --data.batch_size=16 --trainer.accumulate_grad_batches=2, or --trainer.precision=bf16-mixed"
    )
    assert good_steps()["last.ckpt"] == STEPS

    def test_step(self: ImageClassifier, batch: Any, batch_idx: int) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(ImageClassifier, "test_step", test_step)
    with pytest.raises(SystemExit) as stop:
        evaluate(["--ckpt_path", str(run_folder()), "--accelerator=cpu", "--data.batch_size=9"])
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert said == "error: data.batch_size: 9: the device ran out of memory; try --data.batch_size=4\n"


@pytest.mark.parametrize("pass_over", ["--images", "--robustness"])
def test_out_of_memory_with_a_fixed_batch(
    pass_over: str,
    digits_runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def forward(*args: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    options = ["--images", str(tmp_path)]
    if pass_over == "--robustness":
        monkeypatch.setattr("litlens.evaluation.distortions._accuracy", forward)
        options = ["--robustness", "--output", str(tmp_path)]
    else:
        monkeypatch.setattr(torch.nn.Linear, "forward", forward)
    with pytest.raises(SystemExit):
        evaluate(["--ckpt_path", str(digits_runs["mlp"]), *options])
    assert capsys.readouterr().err == "error: the device ran out of memory: add --accelerator cpu\n"
