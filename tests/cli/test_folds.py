"""Cross-validation by the command: numbers by hand, resuming, and docs/cross-validation.md, whose commands run here."""

import json
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from jobs import DIGITS, Job, free_port, slow, torchrun
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import StratifiedKFold
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

import litlens
from litlens.checkpoints.reading import read_checkpoint
from litlens.cli.main import evaluate, train
from litlens.data.assignment import SplitAssignment
from litlens.data.datasets.arrays import DigitsDataModule
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.scores import label_errors

ROOT = Path(__file__).resolve().parents[2]
WITH = ROOT / "configs" / "with"
PAGE = (ROOT / "docs" / "cross-validation.md").read_text()
FIRST, RESUME, EVALUATE = re.findall(r"```console\npython (.*?)\n```", PAGE)
QUICK = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
QUICK += ["--trainer.num_sanity_val_steps=0", "--trainer.max_epochs=1", "--trainer.callbacks=null"]


def arguments(command: str, run: Path) -> list[str]:
    return shlex.split(command.replace("runs/digits_cnn/VERSION", str(run)))[1:]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the page's first command, one epoch a fold; the current folder is where that was given."""
    folder = tmp_path_factory.mktemp("folds")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LITLENS_CACHE", str(folder / "cache"))
        (folder / "configs").symlink_to(ROOT / "configs")
        train([*shlex.split(FIRST)[1:], *QUICK])
        (found,) = folder.glob("runs/digits_cnn/*")
        yield found


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def splits(folder: Path) -> dict[str, list[str]]:
    samples = SplitAssignment.read(folder / "splits.csv", otherwise="").samples
    return {name: [one.name for one in samples if one.split == name] for name in ("train", "val", "test")}


def test_every_image_is_predicted_once_by_a_network_that_was_not_trained_on_it(run: Path) -> None:
    usual = DigitsDataModule(seed=42)
    usual.setup("fit")
    pool = sorted([*usual.samples("train").names, *usual.samples("val").names])
    labels = load_digits().target[[int(name.removeprefix("digits/")) for name in pool]]
    predictions = Predictions.load(run / "predictions-out-of-fold.csv")
    assert predictions.names == pool
    assert predictions.labels.tolist() == labels.tolist()
    logits = dict(zip(predictions.names, predictions.logits, strict=True))
    reference = StratifiedKFold(5, shuffle=True, random_state=42).split(pool, labels)
    for number, (_, val) in enumerate(reference, start=1):
        fold = run / f"fold-{number}"
        held_out = [pool[k] for k in val]
        assert splits(fold)["val"] == held_out
        assert sorted([*splits(fold)["train"], *held_out]) == pool
        assert splits(fold)["test"] == usual.samples("test").names
        own = Predictions.load(fold / "predictions-val.csv")
        assert own.names == held_out
        assert all(np.array_equal(row, logits[name]) for name, row in zip(own.names, own.logits, strict=True))
        assert not (fold / "predictions-test.csv").exists()
        # As validated in training: the last bits of a loss depend on the batches, the accuracy does not.
        saved = read_checkpoint(fold / "checkpoints" / "best.ckpt")["litlens"]["metrics"]["accuracy/val"]
        assert own.correct.mean() == pytest.approx(saved, abs=1e-6)


def test_the_numbers_by_hand(run: Path) -> None:
    found = results(run)["cross_validation"]
    predictions = Predictions.load(run / "predictions-out-of-fold.csv")
    guesses = predictions.logits.argmax(axis=1)
    pooled = accuracy_score(predictions.labels, guesses)
    assert found["out_of_fold"]["accuracy"] == pytest.approx(pooled, rel=1e-12)
    assert found["out_of_fold"]["n"] == 1438
    own = [Predictions.load(run / f"fold-{number}" / "predictions-val.csv") for number in range(1, 6)]
    accuracies = [accuracy_score(one.labels, one.logits.argmax(axis=1)) for one in own]
    f1 = [f1_score(one.labels, one.logits.argmax(axis=1), average="macro") for one in own]
    assert [fold["accuracy_val"] for fold in found["folds"]] == pytest.approx(accuracies, rel=1e-12)
    for name, values in (("accuracy", accuracies), ("f1", f1)):
        assert found[name]["mean"] == pytest.approx(np.mean(values), rel=1e-6)
        assert found[name]["std"] == pytest.approx(np.std(values, ddof=1), rel=1e-5)
    losses = [fold["loss_val"] for fold in found["folds"]]
    order = sorted(range(5), key=lambda fold: (-accuracies[fold], losses[fold]))
    assert found["best_fold"] == 1 + order[0]
    assert results(run)["seconds"] == pytest.approx(sum(fold["seconds"] for fold in found["folds"]), abs=0.1)


def test_the_best_fold_is_tested_and_the_folder_is_a_run_of_it(run: Path) -> None:
    best = run / f"fold-{results(run)['cross_validation']['best_fold']}"
    for name in ("checkpoints/best.ckpt", "splits.csv"):
        assert (run / name).read_bytes() == (best / name).read_bytes()
    assert (run / "metrics.csv").read_text().splitlines()[1].count(",") >= 3
    assert results(run)["n_test"] == 359
    assert (results(run)["n_trained_on"], results(run)["n_validated_on"]) == (0, 0)
    before = {name: (run / name).read_bytes() for name in ("predictions-test.csv", "report.html")}
    evaluate(arguments(EVALUATE, run))
    assert {name: (run / name).read_bytes() for name in before} == before
    assert "cross_validation" in results(run)
    code = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[0]
    found: dict[str, Any] = {}
    exec(code.replace("runs/digits_cnn/VERSION", str(run)), found)
    assert isinstance(found["classifier"], litlens.LoadedClassifier)
    assert found["classifier"].class_names == [str(digit) for digit in range(10)]
    listed = [line.split(",")[0] for line in (run / "label-errors.csv").read_text().splitlines()[1:]]
    assert found["suspects"] == listed


def test_the_page_shows_the_folds_and_the_label_errors_with_their_images(run: Path) -> None:
    page = (run / "report.html").read_text()
    found = results(run)["cross_validation"]
    mean, std = 100 * found["accuracy"]["mean"], 100 * found["accuracy"]["std"]
    assert f"{mean:.2f} % ± {std:.2f}" in page
    predictions = Predictions.load(run / "predictions-out-of-fold.csv")
    worst = label_errors(predictions)
    assert found["label_errors"] == len(worst) > 0
    section = page[page.index('id="label-errors"') : page.index("</section>", page.index('id="label-errors"'))]
    assert re.findall(r'data-name="(.*?)"', section) == [predictions.names[k] for k in worst[:24]]
    assert section.count('src="data:image/png;base64,') == min(24, len(worst))


def test_tensorboard_shows_the_folds_as_runs(run: Path) -> None:
    shown = EventMultiplexer().AddRunsFromDirectory(str(run.parent.parent)).Reload().Runs()
    names = {f"digits_cnn/{run.name}{fold}" for fold in ["", *(f"/fold-{number}" for number in range(1, 6))]}
    assert set(shown) == names
    assert "accuracy/val" in shown[f"digits_cnn/{run.name}/fold-3"]["scalars"]
    assert "accuracy/test" in shown[f"digits_cnn/{run.name}"]["scalars"]
    assert not any("accuracy/test" in shown[name]["scalars"] for name in names if "fold" in name)


def test_finished_folds_are_not_run_again(run: Path) -> None:
    kept = {path: path.stat().st_mtime_ns for path in run.glob("fold-*/checkpoints/*")}
    tested = (run / "predictions-test.csv").read_bytes()
    (run / "predictions-test.csv").unlink()  # as if Ctrl-C had come in the test
    train([*arguments(RESUME, run / "fold-2"), "--trainer.enable_progress_bar=false"])
    assert (run / "predictions-test.csv").read_bytes() == tested
    assert {path: path.stat().st_mtime_ns for path in run.glob("fold-*/checkpoints/*")} == kept
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["folds"] == 5
    assert "folds" not in yaml.safe_load((run / "fold-2" / "config.yaml").read_text())


def test_an_evaluation_of_a_fold_neither_finishes_it_nor_changes_its_scores(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "digits_cnn" / run.name)
    (copy / "fold-3" / "predictions-val.csv").unlink()
    (copy / "fold-3" / "results.json").unlink()
    for number in (2, 3):
        evaluate(["--ckpt_path", str(copy / f"fold-{number}")])
        assert "accuracy_test" in results(copy / f"fold-{number}")
    train(["--resume", str(copy), "--trainer.enable_progress_bar=false"])
    again, first = (results(folder)["cross_validation"] for folder in (copy, run))
    for fold in (*again["folds"], *first["folds"]):
        del fold["seconds"]  # the sum over the parts of a resumed fold
    assert again == first


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["--folds=140", f"--config={WITH / 'lr_finder.yaml'}"],
            "folds: 140: class 8 has 139 images in training and validation: use at most 139 folds",
        ),
        (["--folds=0", f"--config={WITH / 'lr_finder.yaml'}"], "folds: 0: give 2 or more"),
        (
            ["--folds=2", "--model_checkpoint=ModelCheckpoint", "--model_checkpoint.dirpath=here"],
            "model_checkpoint.dirpath: each fold keeps its checkpoints in its own folder: remove it",
        ),
        (
            ["--resume=RUN", "--trainer.max_epochs=3"],
            "command line: trainer.max_epochs: 3: the folds of a run have the same settings: remove it, or start a new "
            "run: --config RUN/config.yaml --trainer.max_epochs=3",
        ),
        (
            ["--resume=RUN", '--trainer.callbacks+={"class_path": "RunningAverage", "init_args": {"decay": 0.9}}'],
            "command line: trainer.callbacks: RunningAverage: the folds of a run have the same settings: remove it, or "
            "start a new run: --config RUN/config.yaml --trainer.callbacks=RunningAverage",
        ),
        (["--resume=RUN", "--folds=4"], "folds: 4: RUN keeps its number of folds: remove --folds"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    run: Path,
    options: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    given = [option.replace("RUN", str(run)) for option in options]
    if "--resume=RUN" not in options:
        given = ["--config", str(ROOT / "configs" / "digits_cnn.yaml"), *QUICK, *given]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        train(given)
    assert stopped.value.code == 1
    captured = capsys.readouterr()
    assert captured.err == f"error: {line.replace('RUN', str(run))}\n"
    assert "Finder" not in captured.out  # refused before the range test
    assert not list(tmp_path.iterdir())
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.skipif(sys.platform == "win32", reason="no processes are forked there")
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_signal_in_the_second_fold_and_a_resume_change_no_bit(tmp_path: Path, processes: int) -> None:
    """Of two processes, the signal reaches the second alone."""
    runs = {}
    for name in ("complete", "stopped"):
        job = Job(tmp_path / name)
        job.folder.mkdir()

        def start(job: Job, args: list[str]) -> None:
            port = free_port()
            for rank in range(processes):
                environment = torchrun(rank, here=processes, machines=1, port=port) if processes > 1 else None
                job.start(args, environment)

        two_folds = [*DIGITS, "--folds=2", "--trainer.max_epochs=1", "--model.lr_scheduler=null"]
        if name == "complete":
            start(job, two_folds)
        else:
            wait = slow("on_train_batch_start", step=5, seconds=0.5)
            start(job, [*two_folds, *wait, "--trainer.callbacks.folder=fold-2"])
            job.wait_for(*(f"on_train_batch_start-{rank}" for rank in range(processes)))
            job.signal(signal.SIGTERM, processes - 1)
            assert job.statuses() == [143] * processes, job.text("errors")
            (run,) = job.runs
            finished = (run / "fold-1" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
            line = f"stopped by SIGTERM; resume with: python train.py --resume {run.relative_to(job.folder)}\n"
            assert job.text("errors") == line
            assert 5 <= read_checkpoint(run / "fold-2" / "checkpoints" / "last.ckpt")["global_step"] <= 8
            job.clear()
            start(job, ["--resume", str(run.relative_to(job.folder))])
        assert job.statuses() == [0] * processes, job.text("errors")
        (runs[name],) = job.runs
    assert (runs["stopped"] / "fold-1" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == finished
    for name in ("predictions-out-of-fold.csv", "predictions-test.csv", "label-errors.csv"):
        assert (runs["stopped"] / name).read_bytes() == (runs["complete"] / name).read_bytes(), name
