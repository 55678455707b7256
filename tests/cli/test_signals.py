"""SIGTERM and SIGINT: at every stage of a run, alone and in jobs of several processes."""

import json
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from jobs import DIGITS, Job, free_port, slow, slurm, torchrun

from litlens.checkpoints.reading import read_checkpoint
from litlens.cli.run_folder import BEST, LAST

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no processes are forked there")


def step(run: Path) -> int:
    return int(read_checkpoint(run / LAST)["global_step"])


def test_a_signal_in_training_ends_it_after_the_step_with_a_checkpoint(tmp_path: Path) -> None:
    """In a new run, in one that was resumed within an epoch, and in the last batch of an epoch, before it validates."""
    job, resumed = Job(tmp_path), list[str]()
    for number, status, at in ((signal.SIGTERM, 143, 5), (signal.SIGINT, 130, 8), (signal.SIGTERM, 143, 32)):
        job.clear()
        args = [*resumed, "--trainer.callbacks=[]"] if resumed else [*DIGITS, "--trainer.max_epochs=1"]
        job.start([*args, *slow("on_train_batch_start", step=at, seconds=0.5)])
        job.wait_for("on_train_batch_start-0")
        job.signal(number, 0)
        assert job.statuses() == [status]
        (run,) = job.runs
        resumed = ["--resume", str(run.relative_to(tmp_path))]
        assert step(run) == at + 1
        name = signal.Signals(number).name
        assert job.text("errors") == f"stopped by {name}; resume with: python train.py {' '.join(resumed)}\n"
    assert not (run / BEST).exists()  # which a validation writes
    (tmp_path / "go").touch()
    job.start(resumed)
    assert job.statuses() == [0], job.text("errors")
    assert step(run) == 33


def wait_in_page(*args: object, **options: object) -> Path:
    Path("page-0").touch()
    time.sleep(60)
    raise AssertionError("no signal came")


def test_a_signal_elsewhere_ends_a_run_at_once_and_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each stage: the step of the last checkpoint, or None where nothing may be left."""
    monkeypatch.setattr("litlens.cli.train.write_run_report", wait_in_page)
    stages = {
        "on_fit_start": (0, None),
        "on_validation_batch_start": (66, 33),
        "on_train_epoch_end": (66, 33),
        "on_save_checkpoint": (33, 0),
        "on_test_batch_start": (66, 66),
        "page": (66, 66),
    }
    jobs = {stage: Job(tmp_path / stage) for stage in stages}
    for stage, job in jobs.items():
        job.folder.mkdir()
        hook = slow(stage, step=stages[stage][0]) if stage != "page" else []
        job.start([*DIGITS, "--trainer.max_epochs=2", *hook])
    for stage, job in jobs.items():
        job.wait_for(f"{stage}-0")
        sent = job.signal(signal.SIGTERM, 0)
        assert job.statuses() == [143], stage
        assert time.monotonic() - sent < 10
        left = stages[stage][1]
        if left is None:
            assert {path.name for path in job.folder.iterdir()} == {"output-0", "errors-0", f"{stage}-0"}
            assert job.text("errors") == "stopped by SIGTERM\n"
        else:
            (run,) = job.runs
            assert step(run) == left, stage
            assert job.text("errors") == (
                f"stopped by SIGTERM; resume with: python train.py --resume {run.relative_to(job.folder)}\n"
            )
    monkeypatch.undo()
    job = jobs["on_test_batch_start"]
    (run,) = job.runs
    job.clear()
    (job.folder / "go").touch()
    job.start(["--resume", str(run)])
    assert job.statuses() == [0], job.text("errors")
    assert (run / "results.json").is_file()
    assert step(run) == 66


@pytest.mark.parametrize(
    ("launcher", "here"),
    [
        (torchrun, 2),
        pytest.param(torchrun, 1, marks=pytest.mark.slow),
        pytest.param(slurm, 2, marks=pytest.mark.slow),
    ],
)
def test_a_job_of_two_processes_has_one_folder_and_one_voice(tmp_path: Path, launcher: Any, here: int) -> None:
    """On one machine or two. The signals reach the second process alone."""
    job = Job(tmp_path)

    def start(args: list[str]) -> None:
        job.clear()
        port = free_port()
        for rank in range(2):
            job.start(args, launcher(rank, here=here, machines=2 // here, port=port))

    start([*DIGITS, "--trainer.max_epoch=1"])
    assert job.statuses() == [1, 1]
    option = "there is no option --trainer.max_epoch; did you mean 'trainer.max_epochs'?"
    assert job.text("errors") == f"error: command line: {option}\n"
    assert not job.runs
    failures = {
        "image": (1, "an image cannot be read"),
        "loss": (1, "the training loss became nan in epoch 0, step 3 "),
        "disk": (0, "last.ckpt cannot be written (No space left on device): make room"),
    }
    for what, (rank, said) in failures.items():
        fails = ["--trainer.callbacks+=jobs.Fails", f"--trainer.callbacks.what={what}"]
        start([*DIGITS, "--checkpoint_minutes=0", *fails, f"--trainer.callbacks.rank={rank}"])
        assert job.statuses() == [1, 1]
        (line,) = job.text("errors").splitlines()
        assert line.startswith("error: ")
        assert said in line
        if what == "image":  # in the first step
            assert not job.runs
        else:
            (run,) = job.runs
            assert step(run) == 3
            shutil.rmtree(run)
    two_epochs = ["--trainer.max_epochs=2", "--model.lr_scheduler=null"]
    start([*DIGITS, *two_epochs, *slow("on_train_batch_start", step=3, seconds=0.2)])
    job.wait_for("on_train_batch_start-0", "on_train_batch_start-1")
    sent = job.signal(signal.SIGTERM, 1)
    assert job.statuses() == [143, 143], job.text("errors")
    assert time.monotonic() - sent < 10
    (run,) = job.runs
    stopped_at = step(run)
    assert stopped_at in (4, 5)
    line = f"stopped by SIGTERM; resume with: python train.py --resume {run.relative_to(tmp_path)}\n"
    assert job.text("errors") == line

    start(["--resume", str(run.relative_to(tmp_path)), *slow("on_validation_batch_start", step=10)])
    job.wait_for("on_validation_batch_start-0", "on_validation_batch_start-1")
    sent = job.signal(signal.SIGTERM, 1)
    assert job.statuses() == [143, 143], job.text("errors")
    assert time.monotonic() - sent < 10
    assert step(run) == stopped_at
    assert job.text("errors") == line
    assert job.text("output").count("run folder") == 1

    # On one device, each step has the same images; the last bits differ.
    (tmp_path / "go").touch()
    job.clear()
    job.start(["--resume", str(run), "--data.batch_size=64", "--trainer.max_epochs=1", "--model.lr_scheduler=null"])
    assert job.statuses() == [0], job.text("errors")
    assert f"trained on 2 device(s) until step {stopped_at}, now on 1: the last bits will differ" in job.text("output")
    assert job.runs == [run]
    assert step(run) == 16


@pytest.mark.slow
def test_every_launcher_gives_the_same_figures(tmp_path: Path) -> None:
    figures = []
    for number, (launcher, here) in enumerate([(torchrun, 2), (torchrun, 1), (slurm, 2)]):
        job = Job(tmp_path / str(number))
        job.folder.mkdir()
        port = free_port()
        for rank in range(2):
            job.start([*DIGITS, "--trainer.max_epochs=1"], launcher(rank, here=here, machines=2 // here, port=port))
        assert job.statuses() == [0, 0], job.text("errors")
        (run,) = job.runs
        results = json.loads((run / "results.json").read_text())
        figures.append((results["accuracy_test"], results["loss_test"], (run / "predictions-test.csv").read_bytes()))
    assert figures[0] == figures[1] == figures[2]
