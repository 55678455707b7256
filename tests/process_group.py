"""Processes of one group, as a launcher starts them: each calls a function with its rank and the number of all."""

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, multiprocessing

_STUCK = timedelta(seconds=60)  # gloo's own limit is half an hour


def in_processes(number: int, function: Callable[..., None], *args: Any) -> None:
    """Call `function(rank, number, *args)` in forked processes of a gloo group; an error of one is raised here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(_run, args=(number, port, function, args), nprocs=number, start_method="fork")


def _run(rank: int, number: int, port: int, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    if number == 1:
        function(rank, number, *args)
        return
    # As torchrun sets them: Lightning then starts no processes of its own, and uses the group that is there.
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(number),
        GROUP_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="tests",
    )
    distributed.init_process_group("gloo", timeout=_STUCK)
    function(rank, number, *args)
    distributed.destroy_process_group()
