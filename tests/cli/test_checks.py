"""bf16 where the processor has it, float32 where it would be emulated; no SyncBatchNorm on several CPU processes."""

import platform
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import BackboneFinetuning, Callback, ModelPruning, StochasticWeightAveraging

from litlens.callbacks import EpochAverage, RunningAverage
from litlens.cli.checks import available_precision, check_callbacks, cpu_has_bf16
from litlens.cli.main import train
from litlens.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def plain_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """An x86 machine with AVX2 and no accelerator."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False}, raising=False)
    for name in ("CUDAAccelerator", "MPSAccelerator", "XLAAccelerator"):
        monkeypatch.setattr(f"litlens.cli.checks.{name}.is_available", lambda: False)


@pytest.mark.parametrize(
    ("asked", "accelerator", "given"),
    [
        ("bf16-mixed", "auto", "32-true"),
        ("bf16-mixed", "cpu", "32-true"),
        ("bf16-mixed", "gpu", "bf16-mixed"),
        ("16-mixed", "cpu", "32-true"),  # Lightning computes it in bf16 there
        ("16", "auto", "32-true"),
        ("16-mixed", "gpu", "16-mixed"),
        ("32-true", "auto", "32-true"),
        ("64-true", "cpu", "64-true"),
        ("bf16-true", "cpu", "bf16-true"),  # asks for weights in bf16: another network, not a faster way to the same
        (None, "auto", None),
    ],
)
def test_bf16_that_would_be_emulated_becomes_float32(plain_cpu: None, asked: Any, accelerator: str, given: Any) -> None:
    assert available_precision(asked, accelerator=accelerator) == given


def test_an_accelerator_keeps_what_was_asked_for(plain_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("litlens.cli.checks.CUDAAccelerator.is_available", lambda: True)
    assert available_precision("bf16-mixed", accelerator="auto") == "bf16-mixed"


@pytest.mark.parametrize("found", ["avx512_bf16", "amx_bf16"])
def test_a_processor_with_bf16_keeps_it(plain_cpu: None, monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {found: True}, raising=False)
    assert available_precision("bf16-mixed", accelerator="cpu") == "bf16-mixed"
    assert available_precision("16-mixed", accelerator="cpu") == "bf16-mixed"


@pytest.mark.parametrize(("level", "has"), [("AVX2", False), ("DEFAULT", False), ("AVX512", True)])
def test_older_torch_reports_only_the_vector_width(
    plain_cpu: None, monkeypatch: pytest.MonkeyPatch, level: str, has: bool
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: level)
    assert cpu_has_bf16() is has


def test_other_processors_are_trusted(plain_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert cpu_has_bf16()


def test_the_command_reports_and_records_the_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("litlens.cli.checks.cpu_has_bf16", lambda: False)
    options = ["--trainer.precision=bf16-mixed", "--trainer.accelerator=cpu", "--trainer.max_epochs=1"]
    train([f"--config={ROOT / 'configs' / 'digits_cnn.yaml'}", *options, "--trainer.logger=false"])
    said = capsys.readouterr().out
    assert "bf16-mixed is emulated here" in said
    assert "32 per step, cpu, precision 32-true, channels_last, images from 0 workers, seed 42\n" in said
    (config,) = tmp_path.glob("runs/digits_cnn/*/config.yaml")
    assert yaml.safe_load(config.read_text())["trainer"]["precision"] == "32-true"


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("true", "there is no C++ compiler: install g++, or set it to false"),
        ("{backend: eager, fullgrph: true}", "fullgrph"),
        ("{mode: fast, backend: inductor}", "Unrecognized mode=fast"),
    ],
)
def test_a_compilation_that_would_fail_is_refused_in_one_line(
    option: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: None if option == "true" or name == "srun" else name)
    with pytest.raises(SystemExit):
        train([f"--config={ROOT / 'configs' / 'digits_cnn.yaml'}", f"--model.torch_compile={option}"])
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: model.torch_compile: ")
    assert line in said
    assert list(tmp_path.glob("runs/*/*")) == []


def test_synchronized_batch_norm_on_the_cpu_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    configs = [f"--config={ROOT / 'configs' / name}.yaml" for name in ("digits_cnn", "with/ddp")]
    with pytest.raises(SystemExit):
        train([*configs, "--devices=2", "--trainer.accelerator=cpu"])
    assert capsys.readouterr().err.startswith("error: trainer.sync_batchnorm: torch's SyncBatchNorm needs GPUs")
    assert list(tmp_path.glob("runs/*/*")) == []


@pytest.mark.parametrize(
    ("callbacks", "line"),
    [
        ([BackboneFinetuning()], r"BackboneFinetuning: .* use TransferClassifier .* model\.unfreeze_epoch$"),
        ([ModelPruning("l1_unstructured")], r"ModelPruning: .* by torch\.nn\.utils\.prune$"),
        ([StochasticWeightAveraging(swa_lrs=0.1)], r"StochasticWeightAveraging: .* configs/with/swa\.yaml$"),
        ([RunningAverage(), EpochAverage()], "RunningAverage and EpochAverage: .* remove one$"),
    ],
)
def test_callbacks_whose_effect_would_be_lost_are_refused(callbacks: list[Callback], line: str) -> None:
    with pytest.raises(UserError, match=f"^trainer.callbacks: {line}"):
        check_callbacks([Callback(), *callbacks])
    check_callbacks([Callback(), RunningAverage()])


def test_a_refused_callback_leaves_no_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        train([f"--config={ROOT / 'configs' / 'digits_cnn.yaml'}", "--trainer.callbacks+=BackboneFinetuning"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: trainer.callbacks: BackboneFinetuning: ")
    assert not list(tmp_path.glob("runs/*/*"))
