"""The command line of training: Lightning's parser, with litlens' defaults and its links between data and model."""

import copy
import re
import sys
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
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
from litlens.callbacks.collect_predictions import CollectPredictions
from litlens.callbacks.run_metadata import Provenance
from litlens.callbacks.steps import FiniteLoss, RandomState
from litlens.cli.checks import check_checkpointing
from litlens.cli.help import short_lists, show_help
from litlens.cli.links import LinkedModel, ModelBuilder, keep_builder, prefer_own_classes
from litlens.cli.mistakes import SHORTCUTS, config_files, mistakes_of_values, parse
from litlens.cli.precision import available_precision
from litlens.cli.resume import LastCheckpoint, Resumption, resumed_args
from litlens.cli.run_folder import new_run_folder, removed_if_refused
from litlens.data.module import ImageDataModule
from litlens.models.classifier import ImageClassifier
from litlens.models.pretrained import channels_of, mean_and_std, wanted_normalization, weights_normalization

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
_TRAINER = {
    # Every logger writes into the run folder, whatever stands here (`_point_into`).
    "logger": [
        {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "runs", "default_hp_metric": False}},
        {"class_path": "CSVLogger", "init_args": {"save_dir": "runs"}},
    ],
    # The loaders of litlens share samples out themselves; Lightning's sampler would count some twice.
    "use_distributed_sampler": False,
}
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


class TrainingCommand(LightningCLI):
    """Parses a config, its overlays and the shell, and builds data module, classifier and trainer from them.

    `--inspect` builds the data module alone.
    """

    def __init__(self, args: list[str]) -> None:
        self.run_folder = Path()
        self.args, self.resumed = resumed_args(expand_shortcuts(args))
        prefer_own_classes()
        self.links = LinkedModel(self.args)
        self.collect = CollectPredictions()
        super().__init__(
            ImageClassifier,
            ImageDataModule,
            run=False,
            args=self.args,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            # The checkpoint carries what rebuilds the classifier; Lightning's own way once ran code on loading
            # (https://github.com/Lightning-AI/pytorch-lightning/issues/21822).
            load_from_checkpoint_support=False,
            save_config_callback=None,
            seed_everything_default=42,
            trainer_defaults=_TRAINER,
            parser_class=_Parser,
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what is neither data, model nor trainer."""
        parser.add_argument("--seed_everything", type=int, default=42, help="Every random choice follows from it.")
        parser.add_argument("--inspect", action="store_true", help="Show the data and train nothing.")
        parser.add_argument("--resume", type=str | None, default=None, help="A run folder to go on with.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the two groups of callbacks, the links, and litlens' callbacks and loggers as defaults."""
        parser.add_argument("--early_stopping", type=EarlyStopping | None, default=_EARLY_STOPPING)
        parser.add_argument("--model_checkpoint", type=ModelCheckpoint, default=_MODEL_CHECKPOINT)
        parser.set_defaults({"trainer.callbacks": _CALLBACKS})
        parser.link_arguments("seed_everything", "data.init_args.seed")
        self.links.add_to(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, with one line for whatever the user got wrong."""
        show_help(self.args)
        with short_lists():
            self.config = parse(parser, self.args)

    def before_instantiate_classes(self) -> None:
        """Make the run folder, and point loggers and checkpoints into it."""
        if self.config.inspect:
            return
        options = self.config.trainer
        self.asked_precision = options.precision
        options.precision = available_precision(options.precision, accelerator=options.accelerator)
        # What config.yaml shows is the experiment, without the places of this run: it can be trained again.
        self._experiment: dict[str, Any] = yaml.safe_load(
            self.parser.dump(self.config, skip_unset=False, skip_link_targets=False)
        )
        check_checkpointing(self._experiment["model_checkpoint"]["init_args"], self._experiment["trainer"])
        self.run_folder = self.resumed or new_run_folder(self.run_name)
        checkpoint = self.config.model_checkpoint.init_args
        if checkpoint.dirpath is None:
            checkpoint.dirpath = str(self.run_folder / "checkpoints")
        loggers = self.config.trainer.logger
        for logger in loggers if isinstance(loggers, list) else [loggers]:
            if hasattr(logger, "class_path"):  # else a truth value
                _point_into(logger, self.run_folder)
        options.default_root_dir = str(self.run_folder)
        if options.enable_progress_bar is None:  # in a file, a bar is one line of 30 kB
            options.enable_progress_bar = sys.stdout.isatty()

    def instantiate_classes(self) -> None:
        """Build data module, classifier and trainer; with `--inspect` the data module alone."""
        if self.config.inspect:
            network = self.config.get("model.init_args.network")
            for key in ("model", "trainer", "early_stopping", "model_checkpoint"):
                self.config.pop(key)
            self.datamodule = self.parser.instantiate(self.config).data
            if self.datamodule.normalize == "auto" and (wanted := _of_weights(network, self.datamodule.in_channels)):
                self.datamodule.normalize = wanted
            return
        builder = ModelBuilder()
        refused = removed_if_refused(self.run_folder, kept=lambda: self.resumed is not None)
        with refused, builder.full_traceback(), mistakes_of_values():
            # The data first: the network's size follows from them.
            only_data = Namespace({key: self.config[key] for key in ("seed_everything", "data")})  # type: ignore[no-untyped-call]
            self.config.data = self.parser.instantiate(only_data).data
            self.links.set_in(self.config, self.config.data)
            self.config_init = self.parser.instantiate(self.config, instantiators=[(builder, nn.Module, True)])
            self.datamodule, self.model = self.config_init.data, self.config_init.model
            keep_builder(self.model, self.config)
            self.trainer = self.instantiate_trainer()

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Build the trainer with the callbacks of the two groups among its own."""
        # Before the data are read: `auto` means the constants of the pretrained weights.
        wanted = wanted_normalization(self.model.network, channels=self.datamodule.in_channels)
        if wanted is not None and self.datamodule.normalize == "auto":
            self.datamodule.normalize = self._experiment["data"]["init_args"]["normalize"] = wanted
        built = self.config_init
        self.checkpoint: ModelCheckpoint = built.model_checkpoint
        self.early_stopping: EarlyStopping | None = built.early_stopping
        config = self.resolved_config()
        # What correctness needs: `trainer.callbacks` replaces what is drawn, and nothing else.
        callbacks: list[Callback] = [RandomState(), FiniteLoss(), self.collect, Provenance(config)]
        callbacks += [self.checkpoint, LastCheckpoint(self.run_folder)]
        if self.early_stopping is not None:
            callbacks.append(self.early_stopping)
        if self.resumed is not None:
            callbacks.append(Resumption(config, folder=self.run_folder))
        # In place of Lightning's summary the command prints `layer_table`.
        settings = {**built.trainer.as_dict(), **kwargs, "enable_model_summary": False}
        chosen = settings["callbacks"] or []
        needed = tuple(map(type, callbacks[:4]))
        settings["callbacks"] = [
            callback
            for callback in (chosen if isinstance(chosen, list) else [chosen])
            if not isinstance(callback, needed)  # named in a config as well
        ]
        return self._instantiate_trainer(settings, callbacks)

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

    def resolved_config(self) -> dict[str, Any]:
        """Every value of the run as plain ones, those that follow from the data among them."""
        config = copy.deepcopy(self._experiment)
        for target, value in self.links.values(self.datamodule).items():
            _set(config, target.split("."), value)
        if not all(map(_is_text, self.datamodule.class_names)):
            # YAML has no way to write them; they follow from the data when the config is read.
            del config["model"]["init_args"]["class_names"]
        # These belong to the call, not to the experiment.
        return {key: value for key, value in config.items() if key not in ("config", "inspect", "resume")}


def expand_shortcuts(args: list[str]) -> list[str]:
    """`--devices N` stands for `--trainer.devices N`."""
    for short, long in SHORTCUTS.items():
        args = [re.sub(rf"^--{short}(?==|$)", f"--{long}", arg) for arg in args]
    return args


def _of_weights(network: Any, channels: int) -> dict[str, list[float]] | None:
    """The constants of the pretrained weights that a config names for a TransferNetwork, which are not read."""
    if not isinstance(network, Namespace) or not network.class_path.endswith(".TransferNetwork"):
        return None
    options = network.init_args
    if options.weights in (None, "None") or options.normalization in (None, "None"):
        return None
    if options.normalization != "auto":
        return channels_of(mean_and_std(options.normalization), channels)
    return channels_of(weights_normalization(options.backbone, options.weights), channels)


def _point_into(logger: Any, folder: Path) -> None:
    options = logger.init_args
    if logger.class_path.endswith("WandbLogger"):
        # W&B makes a folder of its own inside, and shows the run under its name and time. Absolute: its service
        # stays in the folder that the process was in when its first run began.
        options.save_dir = str(folder.resolve())
        options.name = options.name or "/".join(folder.parts[-2:])
    elif "save_dir" in options:
        options.save_dir, options.name, options.version = str(folder.parent), folder.name, ""


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
