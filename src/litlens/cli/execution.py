"""A command in this process: its signals, its exit status, and which warnings are shown."""

import atexit
import gc
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

from litlens.cli.processes import is_first_process, parent_of_this_command
from litlens.errors import mistake_behind
from litlens.files import is_disk_full
from litlens.signals import signals

# Lightning sets these for the processes that it starts and does not reset them, so that the next run in this process
# would count as one of those (lightning/pytorch/strategies/launchers/subprocess_script.py).
_LEFT_BEHIND = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")

# Warnings that a user can do nothing about, by the start of the message; the tests ignore the same.
IGNORED_WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    # Lightning 2.6 asks a tree node for its type in a way that torch has deprecated.
    (".isinstance.treespec, LeafSpec", FutureWarning),
    # Lightning 2.6 gathers by a function that torch 2.14 has deprecated.
    ("torch.distributed.nn.functional.all_gather is deprecated", FutureWarning),
    # Images in memory load fastest without workers, as measured.
    (r"The '\w+' does not have many workers", UserWarning),
    # Our loader is resumable within an epoch, as tests/data/test_loader.py shows.
    ("You're resuming from a checkpoint that ended before the epoch", UserWarning),
    ("The number of training batches .* is smaller than the logging interval", UserWarning),
    # config.yaml is written before the loggers open the run folder.
    ("Experiment logs directory", UserWarning),
    ("Checkpoint directory .* exists and is not empty", UserWarning),
)


def execute(module: str, args: list[str], *, ends_process: bool) -> None:
    """Run the command in a module; `ends_process` is whether nothing else runs in this process afterwards."""
    if "--version" in args:
        sys.stdout.write(f"{_version()}\n")
        return
    first = is_first_process()
    # Without markup, `[lr]` in a file name is printed as it is.
    console = Console(quiet=not first, highlight=False, markup=False, soft_wrap=True)
    verbose = "--verbose" in args
    args = [_expanded(arg) for arg in args if arg != "--verbose"]
    environment = {name: os.environ.get(name) for name in _LEFT_BEHIND}
    report = threading.excepthook
    # TensorBoard's thread ends with a full disk, and its next call in this thread raises the same error.
    threading.excepthook = lambda failed: None if is_disk_full(failed.exc_value) else report(failed)
    try:
        with signals.handled(first=first, parent=parent_of_this_command()):
            try:
                command = _imported(module, stays=ends_process)
                _quiet(first)
                command.run(args, console=console)
            except BaseException as error:
                _end(error, first=first, verbose=verbose, ends_process=ends_process)
    finally:
        threading.excepthook = report
        for name, value in environment.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _imported(module: str, *, stays: bool) -> Any:
    """Import a module; `stays` is whether no later garbage collection needs to look at all that it brings.

    A quarter of the time in which Lightning is imported is spent in collections that find nothing.
    """
    if not stays:
        return import_module(module)
    if sys.version_info >= (3, 13):
        # What is frozen is not freed at exit: the binding of triton (nanobind) then prints 25 lines, after all others.
        atexit.register(os.dup2, os.open(os.devnull, os.O_WRONLY), 2)
    gc.disable()
    try:
        return import_module(module)
    finally:
        gc.freeze()
        gc.enable()


def _end(error: BaseException, *, first: bool, verbose: bool, ends_process: bool) -> None:
    """Exit after a signal (130 or 143) or an error, with one line, which one process of several prints.

    After a signal, whatever is raised comes of it: the other processes of a job end as well.
    """
    # Lightning makes a KeyboardInterrupt that is no signal's a SystemExit (lightning/pytorch/trainer/call.py).
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        signals.received = signals.received or signal.SIGINT
    if signals.received:
        if first:
            sys.stderr.write(f"{signals.line()}\n")
        if verbose:
            traceback.print_exception(error)
        signals.end_launched()
        if ends_process:  # without what Python does at exit, which takes seconds and may wait for other processes
            signals.exit()
        sys.exit(signals.status(128 + signals.received))
    if isinstance(error, SystemExit):
        raise error
    mistake: object = mistake_behind(error)
    if is_disk_full(error):
        mistake = f"no space is left on the disk: make room{signals.remedy()}"
    speaks = signals.is_first_failure()
    signals.end_launched()
    if verbose or (speaks and mistake is None):
        raise error
    if speaks:
        sys.stderr.write(f"error: {mistake}\n")
    sys.exit(signals.status(1))


def _expanded(arg: str) -> str:
    """Expand `~`, which a shell does not in `--config=~/experiment.yaml`."""
    option, equals, value = arg.partition("=") if arg.startswith("--") else ("", "", arg)
    return option + equals + (str(Path(value).expanduser()) if value.startswith("~") else value)


def _version() -> str:
    found = []
    for package in ("litlens", "lightning", "torch", "torchvision"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} (not installed)")
    return ", ".join(found)


def _quiet(first: bool) -> None:
    """Silence Lightning's advertisements, and warnings that a user can do nothing about or the first process has."""
    if not first:
        warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message, category in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category)
