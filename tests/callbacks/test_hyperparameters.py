"""A configuration in one level: short names, plain values, nothing that is no parameter."""

from litlens.callbacks.run_metadata import flattened


def test_a_configuration_becomes_one_level() -> None:
    config = {
        "seed_everything": 42,
        "data": {
            "class_path": "litlens.data.datasets.arrays.MNISTDataModule",
            "init_args": {"augment": [{"shift": 0.1}]},
        },
        "model": {
            "class_path": "ImageClassifier",
            "init_args": {
                "network": {"class_path": "litlens.models.networks.scratch.MnistCNN", "init_args": {"dropout": 0.5}},
                "class_names": ["0", "1"],
                "init_from": None,
                "channels_last": True,
                "weights": "weights/vgg16.v1.pth",
            },
        },
        "trainer": {"precision": "bf16-mixed", "callbacks": [{"class_path": "X"}], "enable_progress_bar": True},
        "model_checkpoint": {"init_args": {"monitor": "loss/val"}},
    }
    assert flattened(config) == {
        "seed_everything": 42,
        "data": "MNISTDataModule",
        "data.augment": "[{'shift': 0.1}]",
        "model": "ImageClassifier",
        "model.network": "MnistCNN",
        "model.network.dropout": 0.5,
        "model.channels_last": True,
        "model.weights": "weights/vgg16.v1.pth",
        "trainer.precision": "bf16-mixed",
    }
