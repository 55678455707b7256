"""Run mypy and the tests with the lowest and the newest versions of all requirements, on the oldest and newest Python.

    python benchmarks/versions.py --python 3.10 3.13                        # writes benchmarks/versions.json
    python benchmarks/versions.py --python 3.10 --versions lowest --tests tests/data    # a part; writes nothing

Each environment is fresh, made by uv (`pip install uv`), and takes about six gigabytes. The Pythons must be
installed. The lowest versions are those of requirements.txt and the extras in setup.cfg; what these packages require is
as new as they allow. mypy runs with the newest versions alone: older ones lack types.
"""

import argparse
import configparser
import datetime
import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "versions.json"
RESOLUTION = {"lowest": "lowest-direct", "newest": "highest"}
SHOWN = ("torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "numpy", "matplotlib", "albumentations")


def main() -> None:
    """Try every environment, print a line each, and write the results of complete runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", required=True, help="versions, such as 3.10 3.13, or interpreters")
    parser.add_argument("--versions", nargs="+", choices=sorted(RESOLUTION), default=["lowest", "newest"])
    parser.add_argument("--tests", nargs="+", help="only these; nothing is written")
    parser.add_argument("--folder", type=Path, help="where the environments are kept; by default removed at the end")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        for python in options.python:
            for versions in options.versions:
                row = tried(python, versions, folder=folder, tests=options.tests or [])
                print(json.dumps(row), flush=True)
                if not options.tests:
                    kept = json.loads(RESULT.read_text()) if RESULT.is_file() else []
                    same = (row["python"].rpartition(".")[0], row["versions"])
                    kept = [old for old in kept if (old["python"].rpartition(".")[0], old["versions"]) != same]
                    rows = sorted([*kept, row], key=lambda row: (row["python"], row["versions"]))
                    RESULT.write_text(json.dumps(rows, indent=2) + "\n")


def tried(python: str, versions: str, *, folder: Path, tests: list[str]) -> dict[str, Any]:
    """Install everything into an environment of its own and run mypy and the tests in it."""
    home = folder / f"{Path(python).name}-{versions}"
    interpreter = str(home / "bin" / "python")
    _run("uv", "venv", "--quiet", "--clear", "--seed", "--python", python, str(home))
    # grad-cam and litlens are built here; everything else must have a wheel for this Python.
    wheels = ("--only-binary", ":all:", "--no-binary", "grad-cam")
    install = ("uv", "pip", "install", "--quiet", "--python", interpreter)
    _run(*install, "--resolution", RESOLUTION[versions], *wheels, *requirements())
    _run(*install, "--no-deps", "--editable", str(ROOT))
    # The lowest matplotlib calls a pyparsing that has deprecated what it calls.
    ignored = ["-W", "ignore::DeprecationWarning"] if versions == "lowest" else []
    started = time.monotonic()
    done = subprocess.run(
        [interpreter, "-m", "pytest", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile", *ignored, *tests],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - started
    counts = re.findall(r"(\d+) (passed|failed|errors?|skipped)", done.stdout.splitlines()[-1])
    mypy = subprocess.run([interpreter, "-m", "mypy"], cwd=ROOT, capture_output=True) if versions == "newest" else None
    installed = _run("uv", "pip", "list", "--format", "json", "--python", interpreter)
    found = {package["name"]: package["version"] for package in json.loads(installed)}
    return {
        "python": _run(interpreter, "-c", "import platform; print(platform.python_version())").strip(),
        "versions": versions,
        "tests": {what: int(number) for number, what in counts},
        "not_passed": re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, flags=re.MULTILINE),
        "mypy": None if mypy is None else mypy.returncode == 0,
        "seconds": round(seconds),
        "packages": {name: found[name] for name in SHOWN},
        "date": datetime.date.today().isoformat(),
    }


def requirements() -> list[str]:
    """Every requirement of litlens, of its extras and of its tests."""
    setup = configparser.ConfigParser(comment_prefixes=("#",), inline_comment_prefixes=None)
    setup.read(ROOT / "setup.cfg")
    lines = [*(ROOT / "requirements.txt").read_text().splitlines(), *setup["options.extras_require"].values()]
    found = [line.partition("#")[0].strip() for text in lines for line in text.splitlines()]
    return sorted({requirement for requirement in found if requirement})


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
