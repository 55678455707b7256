"""train.py from end to end on the digits: the files of a run, resuming, evaluation, and mistakes in one line."""

import csv
import json
import os
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from litlens.checkpoints.reading import read_checkpoint
from litlens.cli.main import evaluate, train
from litlens.cli.parser import TrainingCommand
from litlens.cli.train import build
from litlens.errors import UserError
from litlens.evaluation.predictions import Predictions
from litlens.models.classifier import ImageClassifier

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs" / "digits_cnn.yaml")
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def run(folder: Path, *options: str, epochs: int = 2) -> Path:
    """Train on the digits in a folder and return the run folder."""
    train(["--config", CONFIG, f"--trainer.max_epochs={epochs}", *QUIET, *options])
    return max((folder / "runs" / "digits_cnn").iterdir(), key=lambda path: path.stat().st_mtime)


def refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of the error of a command that trains nothing."""
    with pytest.raises(SystemExit) as stopped:
        train([*options, *QUIET])
    assert stopped.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of two epochs for several tests."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LITLENS_CACHE", str(folder / "cache"))
        yield run(folder)


def test_the_files_of_a_run_are_frozen(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert {"config.yaml", "splits.csv", "checkpoints", "metrics.csv", "predictions-test.csv", "results.json"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    checkpoints = {path.name for path in (trained / "checkpoints").iterdir()}
    assert checkpoints == {"best.ckpt", "last.ckpt", "last-previous.ckpt"}


def test_no_progress_bar_is_written_into_a_file(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train(["--config", CONFIG, "--trainer.max_epochs=1", "--trainer.enable_model_summary=false"])
    evaluate(["--ckpt_path", str(trained), "--output", str(tmp_path / "out")])
    captured = capfd.readouterr()
    for written in (captured.out, captured.err):
        assert "\r" not in written
        assert not re.search("(it|img)/s", written)
        assert max(map(len, written.splitlines()), default=0) < 1000


def test_results_agree_with_predictions_and_checkpoint(trained: Path) -> None:
    results = json.loads((trained / "results.json").read_text())
    predictions = Predictions.load(trained / "predictions-test.csv")
    right = sum(int(row.argmax()) == label for row, label in zip(predictions.logits, predictions.labels, strict=True))
    assert results["n_test"] == len(predictions) == 359
    assert results["accuracy_test"] == right / 359
    loss = torch.nn.functional.cross_entropy(torch.tensor(predictions.logits), torch.tensor(predictions.labels))
    assert results["loss_test"] == pytest.approx(loss.item(), rel=1e-6)
    assert results["interval_test"][0] < results["accuracy_test"] < results["interval_test"][1]
    assert results["epochs"] == 2
    metadata = read_checkpoint(trained / "checkpoints" / "best.ckpt")["litlens"]
    assert results["accuracy_val"] == metadata["metrics"]["accuracy/val"]
    assert (results["seed"], results["hardware"]) == (42, metadata["computed_on"]["hardware"])


def test_the_logged_names_are_frozen(trained: Path) -> None:
    with (trained / "metrics.csv").open(newline="") as file:
        names = set(next(csv.reader(file)))
    expected = {f"{kind}/{split}" for kind in ("loss", "accuracy") for split in ("train", "val", "test")}
    assert names == expected | {"f1/val", "f1/test", "loss/train_step", "lr/weights", "lr/biases", "epoch", "step"}


def test_the_tags_of_tensorboard_are_frozen(trained: Path) -> None:
    events = EventAccumulator(str(trained), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    both = {f"{name}/{split}" for name in ("confusion_matrix", "precision_recall") for split in ("val", "test")}
    maps = {"grad_cam/val", "feature_maps/val"}
    assert set(tags["images"]) == both | maps | {"learning_curves", "prediction_grid/val", "wrong_samples/val"} | {
        "per_class/test"
    }
    logged = {f"{kind}/{split}" for kind in ("loss", "accuracy") for split in ("train", "val", "test")}
    logged |= {"f1/val", "f1/test", "loss/train_step", "lr/weights", "lr/biases"}
    best = {f"best/{kind}/val" for kind in ("loss", "accuracy", "f1")}
    of_classes = {f"{kind}/val/{digit}" for kind in ("precision", "recall", "f1") for digit in range(10)}
    assert set(tags["scalars"]) == logged | best | of_classes
    assert tags["graph"]
    assert not tags["histograms"]
    curves = {f"pr_curve/{split}/{digit}" for split in ("val", "test") for digit in range(10)}
    hyper_parameters = {f"_hparams_/{name}" for name in ("experiment", "session_start_info", "session_end_info")}
    written_once = {"config/text_summary", "custom_scalars__config__"}
    assert set(tags["tensors"]) == curves | written_once
    assert set(events.summary_metadata) >= hyper_parameters
    stored = read_checkpoint(trained / "checkpoints" / "best.ckpt")["litlens"]["metrics"]
    for name in best:
        assert events.Scalars(name)[-1].value == pytest.approx(stored[name.removeprefix("best/")])


def test_config_yaml_is_resolved_and_trains_again(trained: Path) -> None:
    config = yaml.safe_load((trained / "config.yaml").read_text())
    network = config["model"]["init_args"]["network"]["init_args"]
    assert (network["num_classes"], network["in_channels"], network["image_size"]) == (10, 1, [8, 8])
    assert config["model_checkpoint"]["init_args"]["dirpath"] is None
    train(["--config", str(trained / "config.yaml"), *QUIET, "--trainer.max_epochs=1"])
    again = [path for path in trained.parent.iterdir() if path != trained]
    assert len(again) == 1
    assert (again[0] / "checkpoints" / "best.ckpt").is_file()


def test_evaluation_in_a_fresh_process_agrees_to_the_last_bit(trained: Path) -> None:
    before = {name: (trained / name).read_bytes() for name in ("results.json", "predictions-test.csv")}
    (trained / "predictions-test.csv").unlink()
    command = [sys.executable, str(ROOT / "evaluate.py"), "--ckpt_path", str(trained)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "test accuracy" in done.stdout
    assert {name: (trained / name).read_bytes() for name in before} == before


def test_the_weights_of_the_checkpoint_are_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under Lightning's weight averaging the weights in training differ from those of the checkpoint."""
    monkeypatch.chdir(tmp_path)
    folder = run(tmp_path, "--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.98")
    before = (folder / "predictions-test.csv").read_bytes()
    evaluate(["--ckpt_path", str(folder)])
    assert (folder / "predictions-test.csv").read_bytes() == before


def test_the_checkpoint_holds_its_provenance(trained: Path) -> None:
    about = read_checkpoint(trained / "checkpoints" / "best.ckpt")["litlens"]
    assert about["seed"] == 42
    assert about["class_names"] == [str(digit) for digit in range(10)]
    assert about["preprocessing"]["resize"] == {"size": (8, 8), "mode": "crop"}
    assert about["computed_on"]["batch_size"] == 32
    assert about["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert set(about["data"]) == {"files", "bytes", "stat", "content"}


def test_a_resumed_run_ends_as_if_it_had_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dropout, shuffling, augmentation and OneCycle continue; interrupted within a step of the second epoch."""
    monkeypatch.chdir(tmp_path)
    whole = run(tmp_path, epochs=3)

    def stop(self: ImageClassifier, batch: Any, batch_idx: int) -> None:
        if self.global_step == 50:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "on_train_batch_start", stop)
        with pytest.raises(SystemExit) as stopped:
            run(tmp_path, epochs=3)
    assert stopped.value.code == 130
    assert "--resume" in capsys.readouterr().err
    interrupted = next(path for path in whole.parent.iterdir() if path != whole)
    train(["--resume", str(interrupted), *QUIET])

    first, second = (read_checkpoint(path / "checkpoints" / "last.ckpt") for path in (whole, interrupted))
    assert first["global_step"] == second["global_step"] == 99
    for name, tensor in first["state_dict"].items():
        assert torch.equal(tensor, second["state_dict"][name]), name
    assert (whole / "predictions-test.csv").read_bytes() == (interrupted / "predictions-test.csv").read_bytes()
    assert (whole / "metrics.csv").read_text() == (interrupted / "metrics.csv").read_text()


def test_a_run_starts_from_the_weights_of_another(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A learning rate of 0 leaves every weight as it was loaded."""
    still = ["--model.optimizer=SGD", "--model.optimizer.lr=0", "--model.lr_scheduler=null", "--trainer.max_epochs=1"]
    train(["--config", CONFIG, *QUIET, *still, f"--model.init_from={trained}"])
    assert "initialized from" in capsys.readouterr().out
    newest = max(trained.parent.glob("*/results.json"), key=lambda path: path.stat().st_mtime).parent
    source, ended = (
        read_checkpoint(folder / "checkpoints" / "best.ckpt")["state_dict"] for folder in (trained, newest)
    )
    names = [name for name in source if name.endswith((".weight", ".bias"))]
    assert len(names) >= 6
    assert newest != trained
    for name in names:
        assert torch.equal(source[name], ended[name]), name


def test_a_single_logger_writes_into_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = run(tmp_path, "--trainer.logger=CSVLogger", "--trainer.logger.save_dir=out", epochs=1)
    assert (folder / "metrics.csv").is_file()
    assert not (tmp_path / "out").exists()


def test_a_run_without_validation_is_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = ["--model_checkpoint.monitor=loss/train", "--model_checkpoint.mode=min", "--early_stopping=null"]
    folder = run(tmp_path, "--trainer.limit_val_batches=0", *chosen, epochs=1)
    results = json.loads((folder / "results.json").read_text())
    assert results["n_test"] == 359
    assert "accuracy_val" not in results
    evaluate(["--ckpt_path", str(folder)])
    assert json.loads((folder / "results.json").read_text()) == results


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trainer.max_epochs=0"], "trainer.max_epochs: 0"),
        (["--trials=5"], "--trials: 5: only a search has trials: add --search FILE"),
        (["--trainer.max_epochs=1", "--model_checkpoint.monitor=loss/vla"], "loss/vla is never logged"),
        (["--trainer.max_epochs=1", "--early_stopping=EarlyStopping", "--early_stopping.monitor=loss/vla"], "loss/vla"),
        (
            [
                *("--trainer.max_epochs=1", "--model.lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau"),
                "--model.lr_scheduler.monitor=loss/vla",
            ],
            "monitor: loss/vla is never logged; did you mean 'loss/val'?",
        ),
        (["--config={model: {init_args: {class_names: [a, b]}}}"], "command line: model.class_names"),
        (["--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=2"], "validation runs every 2 epoch(s)"),
        (
            ["--data.batch_size=1", "--model.network=litlens.MLP", "--model.network.batch_norm=true"],
            "data.batch_size: 1: batch norm (layers.1) needs",
        ),
    ],
)
def test_a_mistake_is_one_line(
    options: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in refused(["--config", CONFIG, *options], capsys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trainer.limit_test_batches=0"], "trainer.limit_test_batches: 0"),
        (["--trainer.limit_val_batches=0"], "model_checkpoint watches accuracy/val"),
        (
            ["--trainer.limit_val_batches=0", "--early_stopping=EarlyStopping", "--early_stopping.monitor=loss/val"],
            "null",
        ),
        (["--early_stopping=EarlyStopping", "--early_stopping.monitor=x", "--early_stopping.mode=up"], "`mode` can be"),
        (["--model_checkpoint.save_top_k=3"], "model_checkpoint.save_top_k: 3"),
        (["--model_checkpoint.save_weights_only=true"], "model_checkpoint.save_weights_only"),
        (
            ["--model.network=litlens.MLP", "--model.network.dropout=1.5"],
            "dropout probability has to be between 0 and 1",
        ),
        (["--model.init_from=runs/typo"], "there is no run folder or checkpoint at runs/typo"),
        (["--data.num_workers=-1"], "data.num_workers: -1"),
        (["--trainer.accelerator=tpu"], "torch_xla"),
        (["--model_checkpoint.every_n_train_steps=10"], "model_checkpoint.every_n_train_steps: 10 would save weights"),
        (
            ["--model_checkpoint.save_on_train_epoch_end=true", "--trainer.val_check_interval=0.3"],
            "model_checkpoint.save_on_train_epoch_end: True would save weights",
        ),
        # Of 1,078 images for training in batches of 32, 33 batches; 12 each of validation and test.
        (["--trainer.val_check_interval=1000"], "trainer.val_check_interval: 1000 is more than the 33 batches"),
        (["--trainer.limit_test_batches=0.01"], "trainer.limit_test_batches: 0.01 of the 12 batches of test"),
        (["--trainer.limit_val_batches=0.08"], "give at least 0.084"),
        (["--trainer.limit_train_batches=0.01"], "trainer.limit_train_batches: 0.01 of the 33 batches of train"),
        (["--trainer.overfit_batches=0.01"], "trainer.overfit_batches: 0.01 of the 33 batches of train"),
        (["--model.optimizer=SGD", "--model.optimizer.lr=-1"], "model.optimizer: Invalid learning rate: -1"),
        (["--model.lr_scheduler=CosineLR", "--trainer.max_epochs=-1", "--trainer.max_steps=9"], "CosineLR: give T_max"),
    ],
)
def test_a_mistake_found_before_training_leaves_no_run_folder(
    options: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in refused(["--config", CONFIG, *options], capsys)
    assert not list(tmp_path.glob("runs/*/*"))


def test_without_a_monitor_the_last_epoch_is_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = run(tmp_path, "--model_checkpoint.monitor=null", "--model_checkpoint.mode=min", epochs=1)
    best, last = (read_checkpoint(folder / "checkpoints" / f"{name}.ckpt") for name in ("best", "last"))
    assert best["global_step"] == last["global_step"] == 33


def test_ctrl_c_in_the_test_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(self: ImageClassifier) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ImageClassifier, "on_test_epoch_start", stop)
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, epochs=1)
    assert stopped.value.code == 130
    assert "stopped" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="looks for a GPU where there is none")
def test_a_step_looks_for_no_gpu_and_enters_no_profiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(torch.cuda, "_device_count_nvml", lambda: looks.append(1) or -1)
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as Lightning sets it
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    optimizer.step()
    assert len(looks) == 1
    profiler = build(TrainingCommand(["--config", CONFIG, *QUIET]), tmp_path / "run").trainer.profiler
    looks.clear()
    optimizer.step()
    assert not looks
    assert isinstance(profiler.profile("[Callback]LearningRate.on_after_backward"), nullcontext)


def test_a_list_of_callbacks_replaces_only_what_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint still holds the random state, and a loss that is not finite still ends the run."""
    monkeypatch.chdir(tmp_path)
    chosen = "--config={trainer: {callbacks: [{class_path: litlens.callbacks.LearningRate}]}}"
    diverging = ["--model.optimizer=SGD", "--model.optimizer.lr=1e20", "--model.lr_scheduler=null"]
    line = refused(["--config", CONFIG, chosen, *diverging], capsys)
    assert "the training loss became nan" in line
    twice = chosen.replace("[{", "[{class_path: litlens.callbacks.RandomState}, {")
    folder = run(tmp_path, twice, epochs=1)
    assert "RandomState" in read_checkpoint(folder / "checkpoints" / "last.ckpt")["callbacks"]
    assert (folder / "results.json").is_file()


def test_a_tilde_in_a_path_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine[lr].yaml").write_text(Path(CONFIG).read_text())
    train(["--config=~/mine[lr].yaml", *QUIET, "--trainer.max_epochs=1"])
    (folder,) = (tmp_path / "runs" / "mine[lr]").iterdir()
    said = capsys.readouterr().out
    assert f"runs/mine[lr]/{folder.name}" in said
    evaluate([f"--ckpt_path=~/{folder.relative_to(tmp_path)}", "--output", "~/o[/x]", "--accelerator=cpu"])
    assert (tmp_path / "o[/x]" / "results.json").is_file()
    assert "o[/x]/report.html" in capsys.readouterr().out


def test_after_a_run_of_several_processes_the_next_has_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's launcher, as in `_call_children_scripts`, leaves LOCAL_RANK in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def launched(self: ImageClassifier) -> None:
        monkeypatch.setenv("LOCAL_RANK", "0")

    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "on_train_start", launched)
        run(tmp_path, epochs=1)
    assert "LOCAL_RANK" not in os.environ
    run(tmp_path, epochs=1)
    assert len(list((tmp_path / "runs" / "digits_cnn").iterdir())) == 2


def test_verbose_shows_the_traceback_of_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="limit_test_batches"):
        train(["--config", CONFIG, "--trainer.limit_test_batches=0", "--verbose"])
    with pytest.raises(UserError, match="nowhere"):
        evaluate(["--ckpt_path", "nowhere", "--verbose"])


def test_fast_dev_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train(["--config", CONFIG, *QUIET, "--trainer.fast_dev_run=true"])
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.mark.parametrize("options", [[], ["--model.lr_scheduler=CosineLR"]], ids=["OneCycleLR", "CosineLR"])
def test_a_run_whose_schedule_has_ended_is_not_extended(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = run(tmp_path, *options, epochs=1)
    capsys.readouterr()
    line = refused(["--resume", str(folder), "--trainer.max_epochs=2"], capsys)
    assert "its length cannot change" in line
    assert f"--model.init_from {folder / 'checkpoints' / 'last.ckpt'}" in line
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_epochs"] == 1


def test_a_config_named_config_is_not_mistaken_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(Path(CONFIG).read_text())
    train(["--config", "{trainer: {max_epochs: 1}}", "--config", "config.yaml", *QUIET, "--trainer.fast_dev_run=true"])
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["config"]


def test_missing_data_leaves_no_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("litlens.data.datasets.arrays.fetch", _refuse)
    with pytest.raises(SystemExit):
        train(["--config", str(ROOT / "configs" / "mnist_cnn.yaml")])
    assert not list((tmp_path / "runs").glob("*/*"))


def _refuse(*args: Any, **kwargs: Any) -> None:
    raise UserError("no network")


@pytest.fixture
def float_first() -> Iterator[None]:
    """As where a module that was imported before Lightning has written `Union[float, int]`, alone or in `Optional`."""
    for forget in typing._cleanups:  # type: ignore[attr-defined]
        forget()
    assert typing.get_args(typing.Optional[float | int | None])[0] is float  # noqa: UP045
    yield
    for forget in typing._cleanups:  # type: ignore[attr-defined]
        forget()


@pytest.mark.parametrize(
    "option", ["limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches"]
)
@pytest.mark.usefixtures("float_first")
def test_one_batch_is_not_all_of_them(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Trainer.__init__.__annotations__, option, float | int | None)
    value = TrainingCommand(["--config", CONFIG, f"--trainer.{option}=1"]).config.trainer[option]
    assert (value, type(value)) == (1, int)
