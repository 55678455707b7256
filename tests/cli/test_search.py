"""`train.py --search` and docs/search.md: trials, resuming, sharing, failures, and a study that is read as data."""

import json
import pickle
import re
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml
from image_folders import fill
from jobs import Job
from optuna.storages import RDBStorage
from optuna.trial import Trial
from sqlalchemy.pool import NullPool

from litlens.checkpoints.reading import read_checkpoint
from litlens.cli.command_line import read_command_line
from litlens.cli.main import evaluate, train
from litlens.cli.parser import TrainingCommand
from litlens.cli.search_space import arguments, check_space, distributions, read_space
from litlens.models.classifier import ImageClassifier

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "search.md").read_text()
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
]
SEARCH = COMMANDS[1][2:]
QUIET = [
    *("--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.callbacks=[]"),
    "--trainer.enable_progress_bar=false",
]
SMALL = [
    *(*QUIET, "--trainer.max_epochs=2", "--trainer.limit_train_batches=4", "--data.augment=null"),
    *("--model.network=litlens.MLP", "--model.network.widths=[16]", "--trainer.num_sanity_val_steps=0"),
]


def enter(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Go to a folder with the shipped configs."""
    (folder / "configs").symlink_to(ROOT / "configs")
    patch.chdir(folder)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter(tmp_path, monkeypatch)
    return tmp_path


def search(*options: str, trials: int = 3) -> Path:
    """Run the first command of the page, on a small network, and return the run folder."""
    train([*SEARCH, *SMALL, f"--trials={trials}", *options])
    (run,) = Path("runs", "digits_cnn").iterdir()
    return run


def result(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results.json").read_text())["search"]
    return found


def without_times(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in trial.items() if key != "seconds"} for trial in trials]


def refused(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        train(args)
    assert stopped.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A search of three trials, in a folder of its own."""
    folder, tests = tmp_path_factory.mktemp("searched"), []
    plain = ImageClassifier.on_test_epoch_start
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        patch.setenv("LITLENS_CACHE", str(folder / "cache"))
        patch.setattr(ImageClassifier, "on_test_epoch_start", lambda self: (tests.append(self), plain(self)))
        run = search().resolve()
        assert len(tests) == 1  # by the best trial alone
        yield run


def study_of(run: Path) -> optuna.Study:
    storage = RDBStorage(f"sqlite:///{run / 'study.db'}", engine_kwargs={"poolclass": NullPool})
    return optuna.load_study(study_name="search", storage=storage)


def test_a_search_is_a_run_with_the_best_trials_checkpoint(searched: Path) -> None:
    found = result(searched)
    study = study_of(searched)
    assert [trial["values"] for trial in found["trials"]] == [trial.params for trial in study.trials]
    assert len({trial["values"]["model.optimizer.lr"] for trial in found["trials"]}) == 3
    best = searched / f"trial-{found['best_trial']}"
    assert study.best_value == found["trials"][found["best_trial"]]["value"]
    for name in ("checkpoints/best.ckpt", "splits.csv"):
        assert (searched / name).read_bytes() == (best / name).read_bytes()
    for number, trial in enumerate(found["trials"]):
        config = yaml.safe_load((searched / f"trial-{number}" / "config.yaml").read_text())
        options = config["model"]["init_args"]
        assert options["optimizer"]["init_args"]["lr"] == trial["values"]["model.optimizer.lr"]
        assert options["lr_scheduler"]["init_args"]["max_lr"] == trial["values"]["model.optimizer.lr"]
        assert options["network"]["init_args"]["dropout"] == trial["values"]["model.network.dropout"]
        assert not (searched / f"trial-{number}" / "results.json").exists()
        checkpoint = read_checkpoint(searched / f"trial-{number}" / "checkpoints" / "best.ckpt")["litlens"]
        assert checkpoint["metrics"]["accuracy/val"] == trial["value"]
        assert checkpoint["config"] == config

    command = TrainingCommand(["--config", str(searched / "best.yaml")])
    assert command.run_name == "digits_cnn"
    assert command.config.model.init_args.optimizer.init_args.lr == study.best_params["model.optimizer.lr"]
    assert not list(searched.glob(".*"))


def test_the_page_shows_the_trials_after_evaluation_too(searched: Path) -> None:
    before = {name: (searched / name).read_bytes() for name in ("results.json", "predictions-test.csv", "report.html")}
    evaluate(["--ckpt_path", str(searched), "--accelerator=cpu"])
    assert before == {name: (searched / name).read_bytes() for name in before}
    page = before["report.html"].decode()
    assert "3 trials, compared by accuracy/val" in page
    for trial in result(searched)["trials"]:
        assert f"{trial['value']:.4f}" in page
        assert f"{trial['values']['model.optimizer.lr']:.3g}" in page


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not(
    searched: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within the second epoch of the second trial; values, scores and weights are those of the whole search."""

    def stop(self: ImageClassifier, batch: Any, batch_idx: int) -> None:
        if self.global_step == 6 and "trial-1" in self.trainer.default_root_dir:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "on_train_batch_start", stop)
        with pytest.raises(SystemExit) as stopped:
            search()
    assert stopped.value.code == 130
    (run,) = Path("runs", "digits_cnn").iterdir()
    assert f"--resume {run}\n" in capsys.readouterr().err
    line = refused(["--resume", str(run), "--trainer.max_epochs=3"], capsys)
    assert "trainer.max_epochs: 3: the trials of a run have the same settings" in line
    train(["--resume", str(run), *QUIET])
    assert without_times(result(run)["trials"]) == without_times(result(searched)["trials"])
    for number in range(3):
        weights, expected = (
            read_checkpoint(place / f"trial-{number}" / "checkpoints" / "last.ckpt")["state_dict"]
            for place in (run, searched)
        )
        assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_a_trial_that_fails_or_is_pruned_does_not_end_the_search(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Trial, "should_prune", lambda self: self.params["model.optimizer.lr"] < 1e-6)
    (folder / "rates.yaml").write_text("model: {optimizer: {lr: {choices: [1.0e+20, 1.0e-9, 1.0e-2]}}}")
    # With this seed, the three trials have the three rates.
    plain = ["--model.optimizer=SGD", "--model.lr_scheduler=null"]
    train([*SEARCH[:2], *SMALL, *plain, "--search=rates.yaml", "--trials=3", "--seed_everything=4"])
    (run,) = Path("runs", "digits_cnn").iterdir()
    ended = {trial["values"]["model.optimizer.lr"]: trial for trial in result(run)["trials"]}
    assert {rate: trial["state"] for rate, trial in ended.items()} == {1e20: "fail", 1e-9: "pruned", 1e-2: "complete"}
    assert "became nan" in ended[1e20]["failed"]
    assert (ended[1e-9]["epochs"], ended[1e-2]["epochs"]) == (1, 2)
    assert "failed: the training loss became nan" in capsys.readouterr().out


def test_a_failure_is_of_one_trial_and_a_mistake_of_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Out of memory at the first step, where bf16 is emulated; more devices on resume; a process killed in `ask`."""
    plain = ImageClassifier.training_step

    def training_step(self: ImageClassifier, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.trainer.default_root_dir.endswith("trial-0"):
            raise torch.OutOfMemoryError
        return plain(self, batch, batch_idx)

    monkeypatch.setattr(ImageClassifier, "training_step", training_step)
    monkeypatch.setattr("litlens.cli.checks.cpu_has_bf16", lambda: False)
    run = search("--trainer.max_epochs=1", "--trainer.precision=bf16-mixed", trials=2)
    assert yaml.safe_load((run / "trial-1" / "config.yaml").read_text())["trainer"]["precision"] == "32-true"
    assert [trial["state"] for trial in result(run)["trials"]] == ["fail", "complete"]
    assert ", 1 epoch " in capsys.readouterr().out

    study = study_of(run)
    study.ask({"model.optimizer.lr": study.trials[0].distributions["model.optimizer.lr"]})
    more = ["--resume", str(run), *QUIET, "--trials=4"]
    assert "trainer.devices: 2: a trial runs on one device" in refused([*more, "--devices=2"], capsys)
    assert len(study.trials) == 3
    train(more)
    found = result(run)["trials"]
    assert [trial["state"] for trial in found] == ["fail", "complete", "fail", "complete"]
    assert len(found[2]["values"]) == 1
    assert not list(run.glob(".*"))


def test_a_search_of_what_links_and_constants_follow_from(
    folder: Path, monkeypatch: pytest.MonkeyPatch, stand_ins: Path
) -> None:
    """The size of the images, which the network has too, and the weights, whose constants the images are scaled by."""
    monkeypatch.setenv("TORCH_HOME", str(stand_ins / "torch"))
    fill(folder / "mine", {"a": 12, "b": 12})
    space = "{data.image_size: {choices: [32, 40]}, model.network.weights: {choices: [DEFAULT, null]}}"
    options = ["--data.folder=mine", "--data.batch_size=4", "--trainer.max_epochs=1", "--model.strategy=frozen"]
    train(["--config=configs/folder.yaml", *QUIET, *options, f"--search={space}", "--trials=2", "--seed_everything=2"])
    (run,) = Path("runs", "folder").iterdir()
    seen: set[int] = set()
    for number, trial in enumerate(result(run)["trials"]):
        assert trial["state"] == "complete", trial
        config = yaml.safe_load((run / f"trial-{number}" / "config.yaml").read_text())
        size, normalize = (config["data"]["init_args"][name] for name in ("image_size", "normalize"))
        assert config["model"]["init_args"]["network"]["init_args"]["image_size"] == [size, size]
        assert (normalize == "auto") == (trial["values"]["model.network.weights"] is None)
        seen |= {size, normalize == "auto"}
    assert seen == {32, 40, True, False}


@pytest.mark.usefixtures("folder")
def test_a_bug_in_a_trial_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:

    def broken(self: ImageClassifier, batch: Any, batch_idx: int) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(ImageClassifier, "training_step", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        search()
    assert not Path("runs").exists()


def test_two_processes_share_the_trials(folder: Path) -> None:
    run = search(trials=1)
    job = Job(folder)
    for _ in range(2):
        job.start(["--resume", str(run), "--trials=4", *QUIET])
    assert job.statuses() == [0, 0]
    trials = result(run)["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 4
    said = [
        line.split()[0] for line in job.text("output").splitlines() if line.startswith("trial-") and "epochs" in line
    ]
    assert sorted(said) == [f"trial-{number}" for number in range(1, 4)]


def test_the_study_is_data(searched: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is unpickled, and the ranges of the study are not those of the command."""
    monkeypatch.chdir(searched.parents[2])
    study = searched / "study.db"
    before = study.read_bytes()

    def unpickled(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("unpickled")

    with monkeypatch.context() as patch:
        patch.setattr(pickle, "loads", unpickled)
        patch.setattr(pickle, "load", unpickled)
        train(["--resume", str(searched), *QUIET])
    with closing(sqlite3.connect(study)) as connection, connection:
        connection.execute("UPDATE trial_params SET distribution_json = replace(distribution_json, '0.5', '0.9')")
    assert "has other ranges than" in refused(["--resume", str(searched), *QUIET], capsys)
    study.write_bytes(pickle.dumps(before))
    assert f"{study} is damaged or not a study" in refused(["--resume", str(searched), *QUIET], capsys)
    study.write_bytes(before)


@pytest.mark.parametrize(
    ("ranges", "options", "words"),
    [
        ("model.optmizer.lr: {low: 1, high: 2}", [], "line 1: model: ImageClassifier has no 'optmizer'; did you mean"),
        ("\nmodel.optimizer.weight_dekay: {low: 0, high: 1}", [], "line 2: model.optimizer: AdamW has no 'weight_de"),
        ("model.network: {choices: [litlens.MLP, MnistCN]}", [], "line 1: model.network: there is no class 'MnistCN'"),
        ("model.optimizer.lr: {lo: 1, high: 2}", [], "line 1: model.optimizer.lr: a range has no 'lo'; did you mean"),
        ("model.optimizer.lr: {low: 2, high: 1}", [], "line 1: model.optimizer.lr: "),
        ("model.optimizer.lr: {low: one, high: 1}", [], "line 1: model.optimizer.lr: could not convert"),
        ("model.optimizer.lr: {low: 1}", [], "line 1: model.optimizer.lr: give either low and high"),
        ("model.optimizer.lr: {low: 0.1, high: 1}", ["--trainer.devices=2"], "--search: trainer.devices: 2: a trial"),
        ("model.optimizer.lr: {low: 0.1, high: 1}", ["--folds=3"], "--search: it compares runs of one split"),
        ("model.optimizer.lr: {low: 0.1, high: 1}", ["--folds=0"], "folds: 0: give 2 or more"),
        ("{}", [], "--search: nothing to search"),
        ("model.optimizer.lr: {low: 0.1, high: 1}", ["--search=range.yaml"], "--search: there is no file range.yaml"),
    ],
)
def test_a_mistake_is_one_line_before_the_first_trial(
    ranges: str, options: list[str], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "ranges.yaml").write_text(ranges)
    assert words in refused([*SEARCH[:2], *SMALL, "--search=ranges.yaml", *options], capsys)
    assert not Path("runs").exists()


def test_a_run_that_is_no_search_does_not_become_one(
    folder: Path, digits_runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = digits_runs["mlp"]
    line = refused(["--resume", str(run), *SEARCH[2:]], capsys)
    assert line == f"error: {run} is not a search: start one by --config {run / 'config.yaml'} --search FILE"


def test_the_commands_of_the_page_run(searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those after the first, which every search here runs."""
    monkeypatch.chdir(searched.parents[2])
    extra = re.escape(COMMANDS[0][2])
    assert extra == re.escape("litlens[search]")
    assert re.search(r"^search = optuna", (ROOT / "setup.cfg").read_text(), flags=re.MULTILINE)
    for command in COMMANDS[2:]:
        assert "train.py" in command
        given = [word.replace("VERSION", searched.name) for word in command[command.index("train.py") + 1 :]]
        # The trials that there are; of everything else, one batch.
        train([*given, *QUIET, "--trials=3" if "--resume" in given else "--trainer.fast_dev_run=true"])


def test_a_choice_may_be_a_class_with_options() -> None:
    line = read_command_line(
        ["--search={model.network: {choices: [{class_path: litlens.MLP, init_args: {widths: [8]}}, MnistCNN]}}"]
    )
    space = distributions(read_space(line), line)
    args = ["--config", str(ROOT / "configs" / "digits_cnn.yaml")]
    check_space(space, line, args)
    tried = TrainingCommand([*args, *arguments({"model.network": space["model.network"].choices[0]})])
    assert tried.config.model.init_args.network.init_args.widths == [8]


def test_the_file_of_the_page_is_a_search_of_the_digits() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    line = read_command_line([f"--search={{{', '.join(text.splitlines())}}}"])
    space = distributions(read_space(line), line)
    check_space(space, line, ["--config", str(ROOT / "configs" / "digits_cnn.yaml")])
    assert [type(kind).__name__[:5] for kind in space.values()] == ["Float", "Float", "Categ"]
