"""Checkpoints are data: whatever else stands in the file is refused before it runs."""

import pickle
import re
from pathlib import Path
from typing import Any

import torch

from litlens.errors import UserError
from litlens.models.classifier import CHECKPOINT_FORMAT

BEST = Path("checkpoints", "best.ckpt")  # in a run folder


def checkpoint_path(run: Path) -> Path:
    """The checkpoint that a run folder or a path means: a run folder's best one, or the file itself.

    Raises UserError where there is none.
    """
    if run.is_dir():
        best = run / BEST
        if best.is_file():
            return best
        raise UserError(f"{run} holds no {BEST}: give a run folder or a checkpoint")
    if run.is_file():
        return run
    raise UserError(f"there is no run folder or checkpoint at {run}")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint of litlens onto the CPU: tensors and plain values only, nothing in the file is executed.

    Raises UserError, in one line, where there is no file, the file is damaged, holds anything but tensors and plain
    values, or was not written by litlens.
    """
    path = Path(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint at {path}") from error
    except pickle.UnpicklingError as error:
        if re.search(r"unsupported (global|class)", str(error), flags=re.IGNORECASE):
            raise UserError(
                f"{path} holds more than tensors and plain values, so it was not loaded and nothing in it has run; "
                "use a checkpoint that litlens wrote"
            ) from error
        # torch's own words would advise to load it all the same.
        raise UserError(f"{path} is damaged or no checkpoint") from error
    # Of bytes that are no pickle, the unpickler raises whatever it stumbles over: IndexError, struct.error, KeyError.
    except Exception as error:
        raise UserError(f"{path} is damaged or no checkpoint: {_first_line(error)}") from error
    keys: dict[str, Any] = checkpoint if isinstance(checkpoint, dict) else {}
    if not all(isinstance(keys.get(key), dict) for key in ("litlens", "state_dict")):
        raise UserError(f"{path} was not written by litlens: it lacks the key 'litlens' or 'state_dict'")
    found = checkpoint["litlens"].get("format")
    if found != CHECKPOINT_FORMAT:
        raise UserError(
            f"{path} has format {found}, this litlens reads format {CHECKPOINT_FORMAT}: use the version that wrote it"
        )
    return keys


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
