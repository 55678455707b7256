"""Set configs/folder.yaml beside fastai's fine_tune with its defaults, at equal minutes: docs/default_recipe.json.

    python benchmarks/default_recipe.py --data ../data --weights ../weights/mobilenet_v2_imagenet_features.pth \
        --fastai fastai-env/bin/python --seeds 42 43                            ten minutes a seed on a core

Three folders of images: 2,000 cats and dogs, the 483 of catanddog, and 3,000 of Fashion-MNIST as PNG files. `train.py`
runs first, from its start to its report, given the folder and the weights. fastai, in an environment of its own
(`pip install fastai torchvision`), then has the same splits, the same MobileNetV2 of torchvision with the same weights,
and the same image size; its own batch size, learning rates, head and schedule; and as many epochs as fit into the
seconds that `train.py` took: one of the head, then at least one of all layers. Its seconds are those of `fine_tune`
alone, without imports and the test.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
JSON = ROOT / "docs" / "default_recipe.json"
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
_EACH = 300  # images of a class of Fashion-MNIST


def main() -> None:
    """Run both sides on each folder, one after the other, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="the folder of data sets")
    weights = ROOT / "weights" / "mobilenet_v2_imagenet_features.pth"
    parser.add_argument("--weights", type=Path, default=weights, help="a state dict of torchvision's mobilenet_v2")
    parser.add_argument("--fastai", default=sys.executable, help="the Python that has fastai")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--fine-tune", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fine_tune:
        print("\n" + json.dumps(fine_tune(**json.loads(options.fine_tune))))
        return
    sys.path.insert(0, str(ROOT / "src"))
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        fashion = write_fashion(options.data / "FashionMNIST" / "raw", Path(scratch) / "fashion")
        for name, folder in (
            ("catdog_2k", options.data / "catdog_2k"),
            ("catanddog", options.data / "catanddog"),
            ("fashion_3k", fashion),
        ):
            for seed in options.seeds:
                ours = train(folder.resolve(), options.weights.resolve(), seed=seed, place=Path(scratch))
                theirs = fastai_in_a_process(
                    options.fastai, ours, folder.resolve(), options.weights.resolve(), seed=seed
                )
                ours.pop("run")
                rows.append({"folder": name, "seed": seed, "litlens": ours, "fastai": theirs})
                print(json.dumps(rows[-1]), flush=True)
                write(rows)  # complete rows are kept if it is stopped


def write(rows: list[dict[str, Any]]) -> None:
    """Write what has been measured, with its means."""
    import torch

    from litlens.checkpoints.provenance import hardware, versions

    about: dict[str, Any] = {"hardware": hardware(torch.device("cpu")), "versions": versions()}
    about |= {"date": date.today().isoformat(), "processors": os.cpu_count(), "threads": torch.get_num_threads()}
    JSON.write_text(json.dumps({"rows": rows, "means": means(rows), **about}, indent=2) + "\n")


def means(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """The mean over seeds of what both sides measure, by folder and side."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in dict.fromkeys(row["folder"] for row in rows):
        of_folder = [row for row in rows if row["folder"] == name]
        found[name] = {
            side: {
                key: round(sum(row[side][key] for row in of_folder) / len(of_folder), 4)
                for key in ("accuracy_val", "accuracy_test", "seconds", "cpu_seconds", "epochs")
            }
            for side in ("litlens", "fastai")
        }
    return found


def train(folder: Path, weights: Path, *, seed: int, place: Path) -> dict[str, Any]:
    """`train.py` with nothing but the folder and the weights, with an empty cache; the seconds are the command's."""
    cache = tempfile.mkdtemp(dir=place)
    command = [sys.executable, str(ROOT / "train.py"), f"--config={ROOT / 'configs' / 'folder.yaml'}"]
    command += [f"--data.folder={folder}", f"--model.network.weights={weights}", f"--seed_everything={seed}"]
    environment = {**os.environ, "LITLENS_CACHE": cache, "PYTHONPATH": str(ROOT / "src")}
    start, before = time.perf_counter(), os.times()
    subprocess.run(command, cwd=place, env=environment, check=True, stdout=sys.stderr)
    seconds, cpu = time.perf_counter() - start, _cpu_since(before)
    run = max((place / "runs" / "folder").iterdir(), key=lambda path: path.stat().st_mtime)
    import yaml

    config = yaml.safe_load((run / "config.yaml").read_text())
    results = json.loads((run / "results.json").read_text())
    return {
        "run": str(run),
        "images": sum(1 for _ in (run / "splits.csv").open()) - 1,
        "image_size": config["data"]["init_args"]["image_size"][0],
        "batch_size": config["data"]["init_args"]["batch_size"],
        **{key: results[key] for key in ("epochs", "accuracy_val", "accuracy_test", "n_test")},
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
    }


def fastai_in_a_process(python: str, ours: dict[str, Any], folder: Path, weights: Path, *, seed: int) -> dict[str, Any]:
    """fastai's side, with the Python that has it."""
    task = {
        "folder": str(folder),
        "weights": str(weights),
        "splits": str(Path(ours["run"]) / "splits.csv"),
        "side": ours["image_size"],
        "seconds": ours["seconds"],
        "seed": seed,
    }
    command = [python, __file__, "--fine-tune", json.dumps(task)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


def fine_tune(*, folder: str, weights: str, splits: str, side: int, seconds: float, seed: int) -> dict[str, Any]:
    """fastai's `vision_learner` and `fine_tune`, with the epochs that fit into the seconds."""
    import fastai

    make, held_out = _fastai(folder=folder, weights=weights, splits=splits, side=side, seed=seed)
    # What an epoch of the head, and of all layers, takes: some batches of each, and the validation.
    probe = make()
    head = _seconds_of_epoch(probe)
    probe.unfreeze()
    epochs = max(1, int((seconds - head) / _seconds_of_epoch(probe)))
    learn = make()
    start, before = time.perf_counter(), os.times()
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(epochs)
    took, cpu = time.perf_counter() - start, _cpu_since(before)
    with learn.no_bar():
        test_images = learn.dls.test_dl(held_out, with_labels=True)
        (_, val), (_, test) = learn.validate(), learn.validate(dl=test_images)
    return {
        "epochs": 1 + epochs,
        "batch_size": learn.dls.bs,
        "accuracy_val": float(val),
        "accuracy_test": float(test),
        "seconds": round(took, 1),
        "cpu_seconds": round(cpu, 1),
        "version": fastai.__version__,
    }


def frozen_epoch(*, folder: str, weights: str, splits: str, side: int, seed: int) -> float:
    """Seconds of one epoch of fastai's head on frozen layers, and its validation."""
    make, _ = _fastai(folder=folder, weights=weights, splits=splits, side=side, seed=seed)
    learn = make()  # is frozen
    start = time.perf_counter()
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1)
    return time.perf_counter() - start


def _fastai(*, folder: str, weights: str, splits: str, side: int, seed: int) -> tuple[Any, Any]:
    """A function that makes a learner with its defaults, and the table of the test split."""
    import torch
    from fastai.vision import learner
    from fastai.vision.all import ImageDataLoaders, Resize, accuracy, imagenet_stats, set_seed, vision_learner
    from pandas import read_csv
    from torchvision.models import mobilenet_v2

    def arch(**_: Any) -> torch.nn.Module:
        network = mobilenet_v2()
        given = torch.load(weights, weights_only=True)
        missing, unexpected = network.load_state_dict(given, strict=False)
        assert not unexpected
        assert all(key.startswith("classifier.") or key.endswith("num_batches_tracked") for key in missing)
        return network

    # As fastai's own entries for torchvision's networks: the base is all but the classifier.
    learner.model_meta[arch] = {"cut": -1, "split": learner.default_split, "stats": imagenet_stats}
    table = read_csv(splits, dtype=str)
    fitted = table[table.split != "test"].assign(is_valid=lambda rows: rows.split == "val")

    def make() -> Any:
        set_seed(seed)
        dls = ImageDataLoaders.from_df(
            fitted, folder, fn_col="name", label_col="label", valid_col="is_valid", item_tfms=Resize(side)
        )
        return vision_learner(dls, arch, metrics=accuracy)

    return make, table[table.split == "test"]


def _seconds_of_epoch(learn: Any, batches: int = 4) -> float:
    """The time of an epoch, from some training batches and one validation."""
    from itertools import islice

    learn.create_opt()
    learn.model.train()
    start = 0.0
    for number, (images, labels) in enumerate(islice(learn.dls.train, batches + 1)):
        if number == 1:  # the first one warms up
            start = time.perf_counter()
        learn.loss_func(learn.model(images), labels).backward()
        learn.opt.step()
        learn.opt.zero_grad()
    training = (time.perf_counter() - start) / batches * len(learn.dls.train)
    start = time.perf_counter()
    with learn.no_bar():
        learn.validate()
    return training + time.perf_counter() - start


def _cpu_since(before: os.times_result) -> float:
    """CPU seconds of this process and the ones that it waited for."""
    return sum(now - then for now, then in zip(os.times()[:4], before[:4], strict=True))


def write_fashion(raw: Path, folder: Path) -> Path:
    """The first images of each class of Fashion-MNIST's training set, as PNG files in a folder for each class."""
    import numpy as np
    from PIL import Image

    def read(name: str, start: int) -> Any:
        path = raw / name
        content = path.read_bytes() if path.is_file() else gzip.decompress(path.with_name(f"{name}.gz").read_bytes())
        return np.frombuffer(content, np.uint8, offset=start)

    pixels = read("train-images-idx3-ubyte", 16).reshape(-1, 28, 28)
    labels = read("train-labels-idx1-ubyte", 8)
    for label, name in enumerate(FASHION):
        (folder / name).mkdir(parents=True)
        for row in np.flatnonzero(labels == label)[:_EACH]:
            Image.fromarray(pixels[row]).save(folder / name / f"{row:05}.png")
    return folder


if __name__ == "__main__":
    main()
