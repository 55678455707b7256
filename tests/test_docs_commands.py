"""docs/export.md, docs/serve.md and docs/timm.md: their commands and their code run, and agree with litlens."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from litlens.checkpoints.loaded_classifier import LoadedClassifier, load_classifier
from litlens.cli.main import evaluate, train

ROOT = Path(__file__).resolve().parents[1]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)


def run_commands(page: str, **replaced: str) -> None:
    for line in "".join(blocks(page, "console")).splitlines():
        for old, new in replaced.items():
            line = line.replace(old, new)
        command, *words = shlex.split(line)
        if command == "python":
            assert words[0] in ("train.py", "evaluate.py")
            (train if words[0] == "train.py" else evaluate)(words[1:])


def run_code(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "docs", "exec", dont_inherit=True), names)
    return names


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run of the digits as VERSION, an image, and a folder of it; the current one."""
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LITLENS_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def loaded(digits: Path) -> LoadedClassifier:
    train(["--config", str(ROOT / "configs" / "digits_cnn.yaml"), "--trainer.max_epochs=1", "--trainer.callbacks=[]"])
    (run,) = Path("runs/digits_cnn").iterdir()
    run.rename(run.with_name("VERSION"))
    rows, columns = np.mgrid[:40, :64]
    smooth = 127 + 60 * np.stack([np.sin(rows / (7 + k)) + np.cos(columns / (5 + k)) for k in range(3)], axis=2)
    Image.fromarray(smooth.astype(np.uint8)).save("image.jpg", quality=95)
    Path("new_images").mkdir()
    Path("image.jpg").rename("new_images/a.jpg")
    Path("image.jpg").write_bytes(Path("new_images/a.jpg").read_bytes())
    return load_classifier("runs/digits_cnn/VERSION")


def test_export(loaded: LoadedClassifier, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run_commands("export.md")
    assert capsys.readouterr().out.count("checked        on 32 images") == 2
    onnx, pt2 = blocks("export.md", "python")
    names = run_code(onnx)
    found = dict(zip(names["metadata"]["class_names"], names["probabilities"][0].tolist(), strict=True))
    assert loaded.predict("image.jpg") == pytest.approx(found, abs=1e-4)
    names = run_code(pt2)
    black = loaded.predict(np.zeros((8, 8), np.uint8))
    assert isinstance(black, dict)
    expected = torch.tensor([black[name] for name in loaded.class_names])
    torch.testing.assert_close(names["probabilities"], expected.expand(5, -1), atol=1e-4, rtol=0)


def test_serve(loaded: LoadedClassifier, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_commands("serve.md")
    lines = Path("runs/digits_cnn/VERSION/images-new_images-and-1-more/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["new_images/a.jpg", "image.jpg"]
    server, code = blocks("serve.md", "python")
    run_code(code)
    image = loaded.predict("image.jpg")
    assert isinstance(image, dict)
    assert capsys.readouterr().out.splitlines()[-1] == f"a.jpg {next(iter(image))}"

    testclient = pytest.importorskip("fastapi.testclient")
    monkeypatch.setenv("RUN", "runs/digits_cnn/VERSION")
    client = testclient.TestClient(run_code(server)["app"])
    answer = client.post("/predict?top_k=3", content=Path("image.jpg").read_bytes())
    assert answer.status_code == 200
    assert answer.json() == pytest.approx(loaded.predict("image.jpg", top_k=3), abs=1e-6)
    assert len(answer.json()) == 3
    assert len(client.post("/predict", content=Path("image.jpg").read_bytes()).json()) == 5
    refused = client.post("/predict", content=b"words")
    assert (refused.status_code, refused.json()) == (422, {"detail": "image: not an image"})


def test_timm(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    for name in ("configs", "data"):
        (tmp_path / name).symlink_to((ROOT if name == "configs" else stand_ins) / name)
    torch.save(timm.create_model("test_convnext").state_dict(), "w.pth")
    few = "--data.image_size 64 --trainer.max_epochs 1 --trainer.callbacks [] --trainer.check_val_every_n_epoch 1"
    run_commands("timm.md", convnext_tiny="test_convnext", DEFAULT=f"w.pth {few}", resnet18=f"test_resnet {few}")
    frozen, direct = (
        load_classifier(next(Path("runs", name).iterdir())) for name in ("catdog2k_mobilenet_frozen", "catdog2k_cnn")
    )
    assert frozen.classifier.network.arguments["backbone"] == "timm/test_convnext"
    assert frozen.metadata["preprocessing"]["normalize"]["mean"] == (0.5, 0.5, 0.5)  # not ImageNet's, of the config
    assert direct.classifier.network.drop_rate == 0.1
