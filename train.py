"""Train, test and measure a classifier of pictures: python train.py --config configs/mnist_cnn.yaml"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "src"))

from litlens.cli.main import train

if __name__ == "__main__":
    train()
