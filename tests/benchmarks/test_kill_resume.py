"""A handful of kills of the benchmark: what was killed and resumed ends as the untouched run, to the bit."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_killed_anywhere_and_resumed_ends_as_the_untouched_one(tmp_path: Path) -> None:
    """In a process of its own: one that has trained cannot be forked."""
    output = tmp_path / "reliability.json"
    numbers = ["--steps", "3", "--instants", "3", "--output", str(output)]
    command = [sys.executable, str(ROOT / "benchmarks" / "kill_resume.py"), *numbers]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [(row["tried"], row["held"]) for row in json.loads(output.read_text())] == [(3, 3), (3, 3)]
