"""What is deployed on a cluster: the files, as far as they can be held to anything without one."""

from dataclasses import fields
from typing import Any

import kubernetes_validate
import pytest
import yaml
from flask import Flask

from tests.conftest import ROOT
from webapp.settings import Settings

FOLDER = ROOT / "deploy" / "kubernetes"
VERSION = "1.37"


def objects() -> list[tuple[str, Any]]:
    """Return each object with the name of its file."""
    files = sorted(file for file in FOLDER.glob("*.yaml") if file.name != "kustomization.yaml")
    return [(file.name, each) for file in files for each in yaml.safe_load_all(file.read_text())]


def of_kind(kind: str, name: str = "web") -> Any:
    """Return an object by its kind and name."""
    chosen = [each for _, each in objects() if each["kind"] == kind]
    return next(each for each in chosen if each["metadata"].get("name", name) == name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the validator's own
def test_every_object_is_what_kubernetes_expects() -> None:
    for _, each in objects():
        kubernetes_validate.validate(each, VERSION, strict=True)


def test_every_file_is_applied_but_the_training() -> None:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "train.yaml"]) == sorted({name for name, _ in objects()})


def test_every_setting_is_one_of_the_service() -> None:
    names = {setting.metadata["name"] for setting in fields(Settings)}
    (container,) = of_kind("StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert set(of_kind("ConfigMap", "settings")["data"]) <= names
    assert {variable["name"] for variable in container["env"]} <= names


def test_secrets_stand_in_no_file() -> None:
    assert not [each for _, each in objects() if each["kind"] == "Secret"]
    (container,) = of_kind("StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert all(variable.keys() == {"name", "valueFrom"} for variable in container["env"])


def test_everything_that_selects_finds_its_pods() -> None:
    labels = of_kind("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert of_kind("StatefulSet")["spec"]["selector"]["matchLabels"] == labels
    assert of_kind("Service")["spec"]["selector"] == labels
    assert of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert of_kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels


def test_probes_ask_for_routes_that_there_are(app: Flask) -> None:
    (container,) = of_kind("StatefulSet")["spec"]["template"]["spec"]["containers"]
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    assert {probe["path"] for probe in probes} <= {rule.rule for rule in app.url_map.iter_rules()}
    assert {probe["port"] for probe in probes} == {port["name"] for port in container["ports"]}
