"""Each overlay of training has the effect that docs/overlays.md states: its commands run, on a few batches."""

import math
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Timer
from rich.console import Console
from torch import Tensor

from litlens.checkpoints.reading import read_checkpoint
from litlens.cli.main import train
from litlens.cli.parser import TrainingCommand
from litlens.cli.run_folder import LAST
from litlens.cli.train import Run, build, fit_run

ROOT = Path(__file__).resolve().parents[1]
WITH = ROOT / "configs" / "with"
PAGE = (ROOT / "docs" / "overlays.md").read_text()
COMMANDS = {re.findall(r"with/(\w+)\.yaml", line)[0]: line for line in re.findall(r"`python (train\.py [^`]+)`", PAGE)}
# One logger that shows no images, and no callbacks that draw.
BARE = "--config={trainer: {callbacks: [], logger: {class_path: CSVLogger, init_args: {save_dir: runs}}}}"
QUIET = [
    *("--trainer.accelerator=cpu", "--trainer.num_sanity_val_steps=0"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.limit_val_batches=1"),
]


class Watch(Callback):
    """Notes the batches, the learning rates, the weights after each step and in validation, and the gradients."""

    def __init__(self, *, fail_at: int = -1) -> None:
        self.rates: list[float] = []
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.seen: list[Tensor] = []
        self.trained: list[Tensor] = []
        self.validated: list[Tensor] = []
        self.norms: list[float] = []
        self.deterministic = False
        self.fail_at = fail_at

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        def note(module: Any, inputs: tuple[Tensor]) -> None:
            if module.training:
                self.seen.append(inputs[0].detach().clone())

        pl_module.network.register_forward_pre_hook(note)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.fail_at:
            raise RuntimeError("interrupted")
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.batches.append((batch[0].clone(), batch[1].clone()))
        self.deterministic = torch.are_deterministic_algorithms_enabled()

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        gradients = [weight.grad for weight in pl_module.parameters() if weight.grad is not None]
        if gradients:  # of the step before
            self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.trained.append(weights(pl_module.state_dict()))

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.validated.append(weights(pl_module.state_dict()))


def weights(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.detach().flatten().clone() for value in state.values() if value.is_floating_point()])


def with_overlays(*names: str, config: str = "digits_cnn") -> list[str]:
    return [f"--config={ROOT / 'configs' / config}.yaml", BARE, *(f"--config={WITH / name}.yaml" for name in names)]


def fitted(args: list[str], watch: Watch | None = None) -> Run:
    """What the command has after the training, before the test."""
    command = TrainingCommand([*args, *QUIET])
    folder = command.resumed or Path("runs") / f"run-{len(list(Path().glob('runs/*')))}"
    folder.mkdir(parents=True, exist_ok=True)
    parts = build(command, folder, resume=command.resumed is not None)
    if watch is not None:
        parts.trainer.callbacks.append(watch)
    return fit_run(command, parts, console=Console(quiet=True))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    torch.use_deterministic_algorithms(False)


# The effect of each overlay, after a training of so many epochs of so many batches.


def ema(watch: Watch, run: Run) -> None:
    average = watch.trained[0]
    for weights_of_step in watch.trained[1:]:
        average = 0.99 * average + 0.01 * weights_of_step
    torch.testing.assert_close(watch.validated[-1], average)
    assert not torch.allclose(average, watch.trained[-1])
    torch.testing.assert_close(weights(read_checkpoint(run.folder / LAST)["state_dict"]), average)


def swa(watch: Watch, run: Run) -> None:
    assert set(watch.rates) == {0.003}
    assert torch.equal(watch.validated[5], watch.trained[5])  # the last epoch before the average
    assert torch.equal(watch.validated[6], watch.trained[6])
    torch.testing.assert_close(watch.validated[7], (watch.trained[6] + watch.trained[7]) / 2)
    best = read_checkpoint(Path(run.checkpoint.best_model_path))
    validated = watch.validated[best["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"] - 1]
    assert torch.equal(weights(best["state_dict"]), validated)


def mixup(watch: Watch, run: Run) -> None:
    (images, _), seen = watch.batches[0], watch.seen[0]
    difference = images - images.roll(1, 0)
    share = float(((seen - images.roll(1, 0)) * difference).sum() / difference.square().sum())
    assert 0 < share < 1
    torch.testing.assert_close(seen, images.roll(1, 0) + share * difference, rtol=0, atol=1e-5)


def cutmix(watch: Watch, run: Run) -> None:
    for (images, _), seen in zip(watch.batches, watch.seen, strict=True):
        assert ((seen == images) | (seen == images.roll(1, 0))).all()
    assert any(not torch.equal(images, seen) for (images, _), seen in zip(watch.batches, watch.seen, strict=True))


def balanced(watch: Watch, run: Run) -> None:
    labels, batches = run.data.samples("train").labels, run.data.train_dataloader().indices(0)
    assert np.ptp(np.bincount(labels[np.concatenate(batches)])) == 1  # 1,056 places for ten classes
    assert np.ptp(np.bincount(labels)) > 1
    assert [found.tolist() for _, found in watch.batches] == [labels[batch].tolist() for batch in batches[:2]]


def class_weights(watch: Watch, run: Run) -> None:
    counts = np.bincount(run.data.samples("train").labels)
    assert run.classifier._class_weights is not None
    np.testing.assert_allclose(run.classifier._class_weights, counts.sum() / (10 * counts), rtol=1e-6)


def warmup(watch: Watch, run: Run) -> None:
    rise = [0.01 + 0.99 * step / 2 for step in range(2)]
    fall = [(1 + math.cos(math.pi * step / 18)) / 2 for step in range(18)]
    assert watch.rates == pytest.approx([0.003 * factor for factor in rise + fall])


def clip(watch: Watch, run: Run) -> None:
    assert max(watch.norms) == pytest.approx(1, abs=1e-4)


def fused(watch: Watch, run: Run) -> None:
    assert run.trainer.optimizers[0].defaults["fused"] is True


def accumulate(watch: Watch, run: Run) -> None:
    assert (len(watch.trained), run.trainer.global_step) == (8, 2)


def profile(watch: Watch, run: Run) -> None:
    assert "run_training_epoch" in (run.folder / "fit-profile.txt").read_text()


def debug(watch: Watch, run: Run) -> None:
    assert len(watch.trained) == len(watch.validated) == 1
    assert not list(run.folder.rglob("*"))


def overfit(watch: Watch, run: Run) -> None:
    assert len(watch.batches) == 60
    assert all(torch.equal(images, watch.batches[0][0]) for images, _ in watch.batches)
    assert float(run.trainer.callback_metrics["accuracy/train"]) == 1


def deterministic(watch: Watch, run: Run) -> None:
    assert watch.deterministic


def max_time(watch: Watch, run: Run) -> None:
    (timer,) = [callback for callback in run.trainer.callbacks if isinstance(callback, Timer)]
    assert timer._duration == 3600
    assert len(watch.trained) == 2


EFFECTS: dict[Callable[[Watch, Run], None], tuple[int, int] | None] = {
    ema: (2, 3),
    swa: (8, 1),
    mixup: (1, 1),
    cutmix: (1, 2),
    balanced: (1, 2),
    class_weights: (1, 1),
    warmup: (2, 10),
    clip: (1, 4),
    fused: (1, 1),
    accumulate: (1, 8),
    profile: (1, 1),
    debug: None,
    overfit: None,
    deterministic: (1, 1),
    max_time: (1, 2),
}


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda effect: effect.__name__)
def test_an_overlay_has_its_effect(effect: Callable[[Watch, Run], None], monkeypatch: pytest.MonkeyPatch) -> None:
    _, *args = shlex.split(COMMANDS[effect.__name__])
    base, *others = [f"{ROOT / arg}" if arg.endswith(".yaml") else arg for arg in args]
    assert [base, Path(others[0]).stem] == ["--config", "digits_cnn"]
    if (size := EFFECTS[effect]) is not None:
        others += [f"--trainer.max_epochs={size[0]}", f"--trainer.limit_train_batches={size[1]}"]
    watch = Watch()
    effect(watch, fitted([base, others[0], BARE, *others[1:]], watch))


def test_a_compiled_network_is_compiled_once_and_trains_as_it_does_without() -> None:
    from torch._dynamo.utils import counters

    counters.clear()
    few = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=2"]
    compiled = fitted([*with_overlays("compile"), "--model.torch_compile={backend: eager}", *few])
    assert counters["stats"]["unique_graphs"] == 1
    state, plain = (run.classifier.state_dict() for run in (compiled, fitted([*with_overlays(), *few])))
    assert list(state) == list(plain)
    assert all(torch.equal(state[name], plain[name]) for name in plain)


def test_the_settings_by_config_train_together() -> None:
    """The lines of docs/performance.md; `cli/test_checks` and the test of `compile` have the others."""
    page = (ROOT / "docs" / "performance.md").read_text()
    lines = re.findall(r"^\| `(\w+: \{.*?\})` \|", page, flags=re.M)
    assert len(lines) == 9
    chosen = [line for line in lines if not any(word in line for word in ("16-mixed", "torch_compile"))]
    few = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=4"]
    run = fitted([*with_overlays(), *(f"--config={{{line}}}" for line in chosen), *few])
    assert (run.trainer.precision, run.trainer.global_step) == ("32-true", 1)
    assert (run.data.num_workers, run.data.on_device, run.classifier.channels_last) == (2, True, False)
    assert run.trainer.optimizers[0].defaults["fused"] is True


def test_a_short_run_writes_everything() -> None:
    _, *args = shlex.split(COMMANDS["short"])
    train([str(ROOT / arg) if arg.endswith(".yaml") else arg for arg in [*args[:2], BARE, *args[2:]]])
    (folder,) = Path().glob("runs/digits_cnn/*")
    assert read_checkpoint(folder / LAST)["global_step"] == 6
    assert {"report.html", "results.json", "predictions-test.csv"} <= {path.name for path in folder.iterdir()}


def test_the_page_lists_every_overlay() -> None:
    assert set(COMMANDS) == {path.stem for path in WITH.glob("*.yaml")}
    for path in re.findall(r"configs/\S+\.yaml", PAGE):
        assert (ROOT / path).is_file()


def same_state(first: Path, second: Path) -> None:
    one, two = (read_checkpoint(folder / LAST) for folder in (first, second))
    for key in ("state_dict", "current_model_state", "averaging_state"):
        assert one[key].keys() == two[key].keys()
        for name, value in one[key].items():
            assert torch.equal(value, two[key][name]), name
    assert one["lr_schedulers"] == two["lr_schedulers"]


def test_overlays_resume_within_an_epoch_to_the_bit() -> None:
    overlays = with_overlays("ema", "warmup", "balanced", "mixup", "clip")
    args = [*overlays, "--trainer.max_epochs=3", "--trainer.limit_train_batches=3", "--checkpoint_minutes=0"]
    whole = fitted(args)
    with pytest.raises(RuntimeError, match="interrupted"):
        fitted(args, Watch(fail_at=5))
    folder = Path("runs/run-1")
    assert read_checkpoint(folder / LAST)["global_step"] == 5
    same_state(whole.folder, fitted(["--resume", str(folder)]).folder)


def test_a_run_that_time_ended_can_be_tested_stays_ended_and_resumes_to_the_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    args = [*with_overlays("swa", "max_time"), "--trainer.max_epochs=8", "--trainer.limit_train_batches=2"]
    whole = fitted(args)

    class Clock(Callback):
        """Lets an hour pass within epoch 6."""

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 6 and batch_idx == 0:
                (timer,) = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]
                timer._offset += 3600

    def steps(run: Run) -> int:
        return int(read_checkpoint(run.folder / LAST)["global_step"])

    ended = fitted(args, Clock())  # type: ignore[arg-type]
    assert steps(ended) == 14  # both steps of the epoch
    assert Path(ended.checkpoint.best_model_path).is_file()
    resume = ["--resume", str(ended.folder)]
    assert steps(fitted(resume)) == 14
    assert steps(fitted([*resume, "--trainer.max_time=00:02:00:00"])) == 16
    same_state(whole.folder, ended.folder)


@pytest.mark.parametrize(
    ("config", "more"),
    [
        ("mnist_cnn", ["cutmix", "ema"]),  # has an average already
        ("fonts_bottleneck", ["mixup", "ema"]),
        ("catdog2k_mobilenet_frozen", ["swa"]),  # trains on cached features
        ("catdog2k_vgg16_finetune", ["ema"]),  # in two stages
        ("catdog_resnet18_finetune", ["mixup", "cutmix", "swa"]),
    ],
)
def test_overlays_work_together_on_each_kind_of_config(
    config: str, more: list[str], stand_ins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("data", "weights"):
        Path(name).symlink_to(stand_ins / name)
    monkeypatch.setenv("TORCH_HOME", str(stand_ins / "torch"))
    names = ["balanced", "class_weights", "warmup", "clip", "deterministic", "max_time", *more]
    few = ["--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1", "--trainer.limit_train_batches=1"]
    few += ["--data.image_size=64"] if config.startswith("catdog") else []
    by_name = config.startswith("catdog2k")
    few += shlex.split(re.findall(r"--model\.class_weights '.*?'", PAGE)[0]) if by_name else []
    run = fitted([*with_overlays(*names, config=config), *few, "--data.batch_size=4"])
    assert read_checkpoint(run.folder / LAST)["averaging_state"]["n_averaged"] == 1
    assert math.isfinite(run.trainer.callback_metrics["loss/val"])
    if by_name:
        assert run.classifier._class_weights is not None
        assert run.classifier._class_weights.tolist() == [2.0, 1.0]
