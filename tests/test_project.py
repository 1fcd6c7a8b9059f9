"""What the project's files say of each other."""

import re

from tests.conftest import ROOT


def pins(name: str) -> dict[str, str]:
    """Return the versions that a file of requirements pins."""
    text = (ROOT / name).read_text()
    return dict(re.findall(r"^([\w-]+)==([\w.]+)", text, re.MULTILINE))


def test_training_prepares_drawings_with_the_versions_that_serve() -> None:
    serving, training = pins("requirements-serve.txt"), pins("requirements-train.txt")
    shared = serving.keys() & training.keys()
    assert {"numpy", "pillow", "onnxruntime"} <= shared
    assert {name: training[name] for name in shared} == {name: serving[name] for name in shared}


def test_readme_names_only_targets_that_are_there() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"[`$] ?make\s+([a-z0-9-]+)", (ROOT / "README.md").read_text()))
    assert {"run", "test", "model"} <= named <= targets
