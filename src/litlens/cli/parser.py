"""The command line of training: Lightning's parser, litlens' defaults, and what is built from them."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal

import yaml
from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeFloat, PositiveInt
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser
from torch import nn

from litlens.cli.automatic import resolve_auto
from litlens.cli.checks import available_precision
from litlens.cli.choices import show_help
from litlens.cli.command_line import read_command_line
from litlens.cli.links import link_data_to_model, linked_values
from litlens.cli.mistakes import mistakes_of_values, parse
from litlens.cli.resume import keep_splits, resumed_folder
from litlens.cli.run_folder import BEST, BEST_CONFIG, CONFIG
from litlens.data.folds import fold_assignment
from litlens.data.module import ImageDataModule
from litlens.errors import UserError
from litlens.models.classifier import ImageClassifier
from litlens.models.constructor_arguments import keep_arguments

_NETWORK = "model.init_args.network"
_CLASS_NAMES = "model.init_args.class_names"
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
# Every logger writes into the run folder, whatever `save_dir` says.
_LOGGERS = [
    {
        "class_path": "litlens.callbacks.tensorboard.TensorBoard",
        "init_args": {"save_dir": "runs", "default_hp_metric": False},
    },
    {"class_path": "CSVLogger", "init_args": {"save_dir": "runs"}},
]
# As class paths, so that config.yaml shows them and a config may name others.
CALLBACKS = [
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


class _Trainer(Trainer):
    """Lightning's Trainer, in whose options `max_epochs` may be `auto`; only its signature is used.

    1 is one batch, 1.0 are all, and the first type wins. `typing` gives equal unions the order in which any module
    first wrote them: after an import of Rich, which has `Union[float, int]`, 1 would be 1.0. `int | float` keeps its
    order, and with a default of 1.0, which None means to Lightning, jsonargparse does not put it into an `Optional`.
    """

    def __init__(
        self,
        *,
        max_epochs: int | Literal["auto"] | None = None,
        limit_train_batches: int | float | None = 1.0,
        limit_val_batches: int | float | None = 1.0,
        limit_test_batches: int | float | None = 1.0,
        limit_predict_batches: int | float | None = 1.0,
        overfit_batches: int | float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            max_epochs=max_epochs,  # type: ignore[arg-type]
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches,
            overfit_batches=overfit_batches,
            **kwargs,
        )


class TrainingCommand:
    """A parsed command line of training (config, overlays, options), and what is built from it."""

    def __init__(self, args: list[str]) -> None:
        show_help(args)
        args = [re.sub(r"^--devices(?==|$)", "--trainer.devices", arg) for arg in args]
        self.line = read_command_line(args)
        self.resumed: Path | None = None
        if name := self.line.last("resume"):
            self.resumed = resumed_folder(str(name))
            self.line = read_command_line(["--config", str(self.resumed / CONFIG), *args])
        self.parser = self._parser()
        self.config = parse(self.parser, self.line)
        options = self.config.trainer
        self.asked_precision = options.precision
        options.precision = available_precision(options.precision, accelerator=options.accelerator)
        self.automatic = ""  # what `auto` was replaced by, in one line

    @property
    def run_name(self) -> str:
        """The name of the first config file, without its ending."""
        if not self.line.files:
            return "run"
        first = self.line.files[0].resolve()
        of_a_run = first.name in (CONFIG, BEST_CONFIG) and (first.parent / BEST).parent.is_dir()  # in runs/NAME/VERSION
        return first.parents[1].name if of_a_run else first.stem

    def build_data(self, *, splits_of: Path | None = None, fold: int | None = None) -> ImageDataModule:
        """Seed every random generator, build the data module, and resolve every `auto`.

        The data keep the splits of a run's folder, if any, and are divided for a fold of a cross-validation (from 1).
        """
        seed_everything(self.config.seed_everything, workers=True)
        only_data = Namespace({key: self.config[key] for key in ("seed_everything", "data")})  # type: ignore[no-untyped-call]
        with mistakes_of_values():
            data: ImageDataModule = self.parser.instantiate(only_data).data
        if splits_of is not None:
            keep_splits(data, splits_of, class_names=self.line.last("model.class_names"))
        if fold is not None:
            data.divide_by(partial(fold_assignment, number=fold, folds=self.config.folds, seed=data.seed))
        self.automatic = resolve_auto(self.config, data) or self.automatic
        return data

    def build(self, config: Namespace, data: ImageDataModule) -> Any:
        """Build `model`, `early_stopping`, `model_checkpoint`, and the `trainer`'s loggers and callbacks.

        `config` is `self.config` or a copy with other folders. Raises UserError where a linked option is given with
        another value than the data's; config.yaml of a run gives the same value.
        """
        for target, value in self._linked(data).items():
            key = target.replace(".init_args", "")
            given = self.line.last(key)
            if given not in (None, value):
                name = key.rpartition(".")[2]
                raise UserError(
                    f"{self.line.where(key)}{key}: set by the data module ({value}): remove {name}: {given}"
                )
            parent, _, name = target.rpartition(".")
            if parent.endswith(".dict_kwargs"):
                config.model.init_args.network.dict_kwargs = {**(config.get(parent) or {}), name: value}
            else:
                config[target] = value
        config.data = data
        builder = _ModelBuilder()
        try:
            with mistakes_of_values():
                built = self.parser.instantiate(config, instantiators=[(builder, nn.Module, True)])
        except Exception:
            if builder.failure is not None:
                raise builder.failure from None
            raise
        made = config.get(_NETWORK)
        if made is not None and not isinstance(resolve_name(made.class_path), type):
            # jsonargparse calls no instantiator for a function.
            arguments = {**made.init_args.as_dict(), **made.get("dict_kwargs", {})}
            keep_arguments(built.model.network, arguments, builder=made.class_path)
        return built

    def resolved_config(self, data: ImageDataModule, *, of_network: bool = True) -> dict[str, Any]:
        """Every option of the experiment in plain values, linked ones included; of the network, unless `of_network`."""
        text = self.parser.dump(self.config, skip_unset=False, skip_link_targets=False)
        of_the_call = ("config", "inspect", "resume", "folds", "search", "trials")
        config = {key: value for key, value in yaml.safe_load(text).items() if key not in of_the_call}
        for target, value in self._linked(data).items():
            *parents, name = target.split(".")
            inner = config
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[name] = value
            if target != _CLASS_NAMES and not of_network:
                del inner[name]
        if re.search("[\ud800-\udfff]", "".join(data.class_names)):
            # YAML cannot hold names that are not UTF-8; they are set again when the config is read.
            del config["model"]["init_args"]["class_names"]
        return config

    def _parser(self) -> LightningArgumentParser:
        parser = LightningArgumentParser(exit_on_error=False, allow_abbrev=False)
        parser.add_argument("-c", "--config", action="config")
        parser.add_argument("--seed_everything", type=int, default=42, help="Every random choice follows from it.")
        parser.add_argument("--inspect", action="store_true", help="Show the data and train nothing.")
        help_text = "Minutes between two checkpoints within an epoch."
        parser.add_argument("--checkpoint_minutes", type=NonNegativeFloat, default=10.0, help=help_text)
        parser.add_argument("--resume", type=str | None, default=None, help="The folder of a run to resume.")
        parser.add_argument("--folds", type=int | None, default=None, help="Cross-validate in so many runs.")
        help_text = "A file of options and their ranges, or that mapping, to search for the best values."
        parser.add_argument("--search", type=str | dict[str, Any] | None, default=None, help=help_text)
        parser.add_argument("--trials", type=PositiveInt, default=20, help="How many values a search tries.")
        parser.add_lightning_class_args(_Trainer, "trainer")
        parser.set_defaults({"trainer.logger": _LOGGERS, "trainer.callbacks": CALLBACKS})
        parser.add_lightning_class_args(ImageClassifier, "model", subclass_mode=True)
        parser.add_lightning_class_args(ImageDataModule, "data", subclass_mode=True)
        parser.add_argument("--early_stopping", type=EarlyStopping | None, default=_EARLY_STOPPING)
        parser.add_argument("--model_checkpoint", type=ModelCheckpoint, default=_MODEL_CHECKPOINT)
        parser.link_arguments("seed_everything", "data.init_args.seed")
        # A linked option is not required; its value is set in `build`.
        link_data_to_model(parser)
        return parser

    def _linked(self, data: ImageDataModule) -> dict[str, Any]:
        """The keys of the linked options with their values from the data, as plain ones."""
        network = self.config.get(_NETWORK)
        values = linked_values(network, data) if network is not None else {}
        in_network = {f"{_NETWORK}.{name}": value for name, value in values.items()}
        return {_CLASS_NAMES: list(data.class_names), **in_network}


class _ModelBuilder:
    """Constructs every `nn.Module` of a configuration and keeps its arguments for the checkpoint.

    jsonargparse reports an error in a constructor as one of the configuration, without its traceback. `failure` is such
    an error, where the class is not one of litlens, torch or torchvision.
    """

    failure: Exception | None = None

    def __call__(self, kind: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
        """Construct a module (jsonargparse calls this)."""
        try:
            module = kind(*args, **kwargs)
        except UserError:
            raise
        except Exception as error:
            if kind.__module__.partition(".")[0] not in ("litlens", "torch", "torchvision"):
                self.failure = self.failure or error
            raise
        if not args:
            keep_arguments(module, kwargs)
        return module
