"""Where a run is kept: `runs/NAME/VERSION/`, made once, shared by every process of the run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from litlens.errors import UserError
from litlens.files import write_atomically

# Lightning starts the other ranks of a machine with this process's environment, so that they find the folder here.
_VARIABLE = "LITLENS_RUN_FOLDER"

BEST = Path("checkpoints", "best.ckpt")  # in a run folder


def new_run_folder(name: str, *, runs: Path = Path("runs")) -> Path:
    """Make `runs/NAME/VERSION`, VERSION a time stamp; two runs that start in the same second get two folders."""
    if "LOCAL_RANK" in os.environ and _VARIABLE in os.environ:
        return Path(os.environ[_VARIABLE])
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for attempt in range(1000):
        folder = runs / name / (stamp if attempt == 0 else f"{stamp}_{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"cannot make the run folder {folder}: {error.strerror}") from error
        os.environ[_VARIABLE] = str(folder)
        return folder
    raise UserError(f"cannot make a new folder in {runs / name}: a thousand runs have started this second")


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write config.yaml, in one step."""
    write_atomically(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))


@contextmanager
def removed_if_unused(folder: Path) -> Iterator[None]:
    """Remove the folder again where the run fails before it has kept anything in it."""
    try:
        yield
    except BaseException:
        with suppress(OSError):  # something is in it
            folder.rmdir()
        raise


def checkpoint_path(run: Path) -> Path:
    """The checkpoint that `RUN_DIR` means: a run folder's best one, or the file itself."""
    if run.is_dir():
        best = run / BEST
        if best.is_file():
            return best
        raise UserError(f"{run} holds no {BEST}: name a run folder or a checkpoint")
    if run.is_file():
        return run
    raise UserError(f"there is no run folder or checkpoint at {run}")
