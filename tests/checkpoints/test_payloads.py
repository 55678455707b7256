"""Whatever a checkpoint, a weights file, a cache or a config contains, nothing in it runs."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import SqueezeNet1_1_Weights

from litlens.checkpoints.durable import DurableCheckpointIO
from litlens.checkpoints.last import newest_checkpoint
from litlens.checkpoints.loaded_classifier import load_classifier
from litlens.checkpoints.reading import LAST, previous_checkpoint, read_checkpoint
from litlens.checkpoints.warm_start import initialize_from
from litlens.cli.main import train
from litlens.data.cache import mapped_array
from litlens.errors import UserError
from litlens.models.networks.mlp import MLP
from litlens.models.pretrained import load_weights, timm_base, torchvision_network

ROOT = Path(__file__).resolve().parents[2]


class Canary:
    """Creates the file `ran` in the current folder when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


class Builder:
    """Calls what torch's loader of weights allows, with what it would not."""

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_parameter, (Canary(), False, {})


@pytest.fixture(autouse=True)
def nothing_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    pickle.loads(pickle.dumps(Canary()))  # it does run where it may
    (tmp_path / "ran").unlink()
    yield
    assert not (tmp_path / "ran").exists()


def checkpoint(**more: Any) -> dict[str, Any]:
    return {"litlens": {"format": 2, "class_names": []}, "state_dict": {}, "global_step": 0, **more}


FILES: dict[str, Callable[[Path], Any]] = {
    "value": lambda path: torch.save(checkpoint(payload=Canary()), path),
    "key": lambda path: torch.save({**checkpoint(), Canary(): 0}, path),
    "weight": lambda path: torch.save(checkpoint(state_dict={"network.weight": Canary()}), path),
    "hyperparameter": lambda path: torch.save(checkpoint(hyper_parameters={"_instantiator": Canary()}), path),
    "builder": lambda path: torch.save(checkpoint(payload=Builder()), path),
    "class": lambda path: torch.save(checkpoint(payload=Canary), path),
    "network": lambda path: torch.save(MLP(), path),
    "before 1.6": lambda path: torch.save(checkpoint(payload=Canary()), path, _use_new_zipfile_serialization=False),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Canary())),
    "text pickle": lambda path: path.write_bytes(b"cos\nsystem\n(S'touch ran'\ntR."),
    "script": lambda path: torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1)), path),
}


def as_hub_file(path: Path) -> None:
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(SqueezeNet1_1_Weights.DEFAULT.url).name)
    cached.parent.mkdir(parents=True)
    path.rename(cached)
    load_weights(torchvision_network("squeezenet1_1"), "squeezenet1_1", "DEFAULT")


def as_previous(path: Path) -> None:
    path.rename(previous_checkpoint(path))
    newest_checkpoint(path.parents[1])


READERS: dict[str, Callable[[Path], Any]] = {
    "read": read_checkpoint,
    "load": load_classifier,
    "run folder": lambda path: load_classifier(path.rename(path.with_name("best.ckpt")).parents[1]),
    "init_from": lambda path: initialize_from(MLP(), [], path),
    "resume": lambda path: newest_checkpoint(path.parents[1]),
    "resume from the one before": as_previous,
    "trainer": lambda path: DurableCheckpointIO().load_checkpoint(path, weights_only=False),
    "weights": lambda path: load_weights(torchvision_network("squeezenet1_1"), "squeezenet1_1", str(path)),
    "downloaded weights": as_hub_file,
    "weights for timm": lambda path: timm_base("timm/test_vit", weights=str(path)),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", FILES)
@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*weights_only")
def test_a_payload_is_refused_in_one_line(kind: str, reader: str, tmp_path: Path) -> None:
    path = tmp_path / LAST
    path.parent.mkdir()
    FILES[kind](path)
    with pytest.raises(UserError) as caught:
        READERS[reader](path)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's advice is to run it all the same


def test_a_cache_is_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "cache.npy"
    np.save(path, np.array([Canary(), Canary()], dtype=object), allow_pickle=True)
    assert mapped_array(path) is None
    path.write_bytes(pickle.dumps(Canary()))
    assert mapped_array(path) is None


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch ran']",
        "!!python/object/new:os.system ['touch ran']",
        "!!python/name:os.system",
        "!!python/module:this",
        "{class_path: os.system, init_args: {command: touch ran}}",
        "{class_path: subprocess.check_output, init_args: {args: [touch, ran]}}",
    ],
)
@pytest.mark.parametrize("way", ["--config", "--model.network", "--resume"])
def test_a_tag_or_a_function_of_a_config_is_refused_in_one_line(
    value: str, way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run" / "config.yaml"
    config.parent.mkdir()
    content = (ROOT / "configs" / "digits_cnn.yaml").read_text()
    if way == "--model.network":
        args = ["--config", str(config), way, value]
    else:
        content = f"model: {{class_path: ImageClassifier, init_args: {{network: {value}}}}}\ndata: DigitsDataModule\n"
        args = [way, str(config if way == "--config" else config.parent)]
    config.write_text(content)
    with pytest.raises(SystemExit) as stop:
        train(args)
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
