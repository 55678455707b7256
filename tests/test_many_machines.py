"""docs/many-machines.md: its commands, on this computer, give one run with the figures of one process."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import free_port

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "many-machines.md").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs a torch with libuv there")
def test_torchrun_on_two_machines_trains_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (block,) = re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)
    replaced = {"HOST": "127.0.0.1", "29500": str(free_port()), "configs/mnist_cnn.yaml": "configs/digits_cnn.yaml"}
    machines = []
    for command in block.splitlines():
        _, *words = shlex.split(command)
        words = [replaced.get(word, word) for word in words]
        words[words.index("--nproc_per_node") + 1] = "1"
        words = [str(ROOT / word) if (ROOT / word).is_file() else word for word in words]
        words += ["--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--trainer.callbacks=[]"]
        started = [sys.executable, "-m", "torch.distributed.run", *words]
        machines.append(
            subprocess.Popen(started, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    printed = [machine.communicate(timeout=240) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], printed
    assert "on 2 device(s)" in printed[0][0]
    # torch 2.9 itself prints that the processes are connected.
    assert [line for line in printed[1][0].splitlines() if not line.startswith("[Gloo] Rank")] == []
    (run,) = (tmp_path / "runs" / "digits_cnn").iterdir()
    assert json.loads((run / "results.json").read_text())["n_test"] == 359


def test_the_slurm_script_starts_a_task_for_each_gpu() -> None:
    (script,) = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", script, flags=re.MULTILINE))
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert script.splitlines()[-1].startswith("srun python train.py --config configs/")
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=True)
    assert done.stderr == ""
