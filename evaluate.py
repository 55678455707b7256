"""Score a run on its test split: python evaluate.py --ckpt_path runs/NAME/VERSION"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "src"))

from litlens.cli.main import evaluate

if __name__ == "__main__":
    evaluate()
