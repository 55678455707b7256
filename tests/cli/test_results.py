"""results.json says of a run what its checkpoint says."""

from litlens.cli.results import run_results


def test_the_hardware_is_what_the_checkpoint_was_computed_on() -> None:
    about = {"metrics": {"accuracy/val": 0.5}, "seed": 3, "computed_on": {"hardware": "2 × A GPU"}}
    results = run_results({"accuracy_test": 0.25}, about=about, parameters=7, epochs=2, seconds=1.23)
    assert results["hardware"] == "2 × A GPU"
    assert (results["accuracy_val"], results["accuracy_test"], results["seed"]) == (0.5, 0.25, 3)
