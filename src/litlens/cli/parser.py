"""The command line of training: Lightning's parser, with litlens' defaults and its links between data and model."""

import re
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser
from torch import nn

# Class names in a config resolve once their modules are imported.
import litlens.callbacks.live.network_figures
import litlens.callbacks.live.samples
import litlens.callbacks.live.score_figures
import litlens.callbacks.run_metadata
import litlens.callbacks.running_average
import litlens.callbacks.steps
import litlens.data.datasets.arrays
import litlens.data.datasets.catdog
import litlens.data.datasets.fonts
import litlens.models.networks.mlp
import litlens.models.networks.scratch
import litlens.models.transfer  # noqa: F401
from litlens.cli.help import short_lists, show_help
from litlens.cli.links import LinkedModel, ModelBuilder, keep_builder, prefer_own_classes
from litlens.cli.mistakes import SHORTCUTS, config_files, mistakes_of_values, parse
from litlens.cli.resume import resumed_args
from litlens.data.module import ImageDataModule
from litlens.models.classifier import ImageClassifier

_EARLY_STOPPING = {"class_path": "EarlyStopping", "init_args": {"monitor": "loss/val", "patience": 5}}
_MODEL_CHECKPOINT = {
    "class_path": "ModelCheckpoint",
    "init_args": {
        "monitor": "accuracy/val",
        "mode": "max",
        "filename": "best",
        "enable_version_counter": False,
    },
}
# Every logger writes into the run folder, whatever stands here.
_LOGGERS = [
    {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "runs", "default_hp_metric": False}},
    {"class_path": "CSVLogger", "init_args": {"save_dir": "runs"}},
]
# As class paths, so that config.yaml shows them and a config may name others.
_CALLBACKS = [
    {"class_path": f"litlens.callbacks.{name}"}
    for name in (
        "LearningRate",
        "LearningCurves",
        "ConfusionMatrix",
        "PerClassMetrics",
        "PrecisionRecallCurves",
        "WrongSamples",
        "PredictionGrid",
        "GradCam",
        "FeatureMaps",
        "ModelGraph",
        "HyperParameters",
    )
]


class _Parser(LightningArgumentParser):
    """Lightning's parser, for networks that a function makes.

    jsonargparse 4.53 hands `linked_targets` to `add_function_arguments`, which refuses it, where the command line
    replaces a class with options by a function (`cached_get_class_parser` in jsonargparse/_typehints.py).
    """

    def add_function_arguments(self, function: Any, *args: Any, linked_targets: Any = None, **kwargs: Any) -> list[str]:
        return super().add_function_arguments(function, *args, **kwargs)


class TrainingCommand:
    """One command line of training, parsed: a config, its overlays and the shell. Builds what it names."""

    def __init__(self, args: list[str]) -> None:
        self.args, self.resumed = resumed_args(expand_shortcuts(args))
        prefer_own_classes()
        self.links = LinkedModel(self.args)
        self.parser = training_parser(self.links)
        show_help(self.args)
        with short_lists():
            self.config = parse(self.parser, self.args)

    @property
    def run_name(self) -> str:
        """What the run is called: the name of the first config file; overlays come later."""
        if self.resumed is not None:
            return self.resumed.parent.name
        files = config_files(self.args)
        if not files:
            return "run"
        first = files[0].resolve()
        of_a_run = first.name == "config.yaml" and (first.parent / "checkpoints").is_dir()  # in runs/NAME/VERSION
        return first.parents[1].name if of_a_run else first.stem

    def build_data(self) -> ImageDataModule:
        """Build the data module alone; everything random follows from the seed from here on."""
        seed_everything(self.config.seed_everything, workers=True)
        only_data = Namespace({key: self.config[key] for key in ("seed_everything", "data")})  # type: ignore[no-untyped-call]
        with mistakes_of_values():
            data: ImageDataModule = self.parser.instantiate(only_data).data
        return data

    def build(self, config: Namespace, data: ImageDataModule) -> Any:
        """Build the rest: `model`, `early_stopping`, `model_checkpoint`, and the `trainer`'s loggers and callbacks.

        `config` is `self.config`, or a copy of it with other places to write to.
        """
        builder = ModelBuilder()
        self.links.set_in(config, data)
        config.data = data
        with builder.full_traceback(), mistakes_of_values():
            built = self.parser.instantiate(config, instantiators=[(builder, nn.Module, True)])
        keep_builder(built.model, config)
        return built

    def resolved_config(self, data: ImageDataModule) -> dict[str, Any]:
        """Every value of the experiment as plain ones, those that follow from the data among them."""
        text = self.parser.dump(self.config, skip_unset=False, skip_link_targets=False)
        # What is left out belongs to the call.
        config = {
            key: value for key, value in yaml.safe_load(text).items() if key not in ("config", "inspect", "resume")
        }
        for target, value in self.links.values(data).items():
            _set(config, target.split("."), value)
        if not all(map(_is_text, data.class_names)):
            # YAML has no way to write them; they follow from the data when the config is read.
            del config["model"]["init_args"]["class_names"]
        return config


def training_parser(links: LinkedModel) -> LightningArgumentParser:
    """Lightning's parser with the options of training: a superset of the keys of a config."""
    parser = _Parser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="config")
    parser.add_argument("--seed_everything", type=int, default=42, help="Every random choice follows from it.")
    parser.add_argument("--inspect", action="store_true", help="Show the data and train nothing.")
    parser.add_argument("--resume", type=str | None, default=None, help="A run folder to go on with.")
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.set_defaults({"trainer.logger": _LOGGERS, "trainer.callbacks": _CALLBACKS})
    parser.add_lightning_class_args(ImageClassifier, "model", subclass_mode=True)
    parser.add_lightning_class_args(ImageDataModule, "data", subclass_mode=True)
    parser.add_argument("--early_stopping", type=EarlyStopping | None, default=_EARLY_STOPPING)
    parser.add_argument("--model_checkpoint", type=ModelCheckpoint, default=_MODEL_CHECKPOINT)
    parser.link_arguments("seed_everything", "data.init_args.seed")
    links.add_to(parser)
    return parser


def expand_shortcuts(args: list[str]) -> list[str]:
    """`--devices N` stands for `--trainer.devices N`."""
    for short, long in SHORTCUTS.items():
        args = [re.sub(rf"^--{short}(?==|$)", f"--{long}", arg) for arg in args]
    return args


def _set(config: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        config = config.setdefault(key, {})
    config[keys[-1]] = value


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
