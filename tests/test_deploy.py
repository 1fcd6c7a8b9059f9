"""Kubernetes manifests, compose file, proxy and images, as far as files alone can be checked."""

import json
import re
import subprocess
import sys
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
    """Return every object with the name of its file."""
    files = sorted(file for file in FOLDER.glob("*.yaml") if file.name != "kustomization.yaml")
    return [(file.name, each) for file in files for each in yaml.safe_load_all(file.read_text())]


def find(kind: str, name: str = "web") -> Any:
    """Return the object with a kind and name."""
    chosen = [each for _, each in objects() if each["kind"] == kind]
    return next(each for each in chosen if each["metadata"].get("name", name) == name)


def web_container() -> Any:
    """Return the container of the service."""
    (container,) = find("StatefulSet")["spec"]["template"]["spec"]["containers"]
    return container


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by the validator itself
def test_manifests_match_the_kubernetes_schemas() -> None:
    for _, each in objects():
        kubernetes_validate.validate(each, VERSION, strict=True)


def test_kustomization_lists_every_file_except_the_training() -> None:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "train.yaml"]) == sorted({name for name, _ in objects()})


def test_manifests_set_only_settings_that_exist() -> None:
    names = {setting.metadata["name"] for setting in fields(Settings)}
    assert set(find("ConfigMap", "settings")["data"]) <= names
    assert {variable["name"] for variable in web_container()["env"]} <= names


def test_manifests_contain_no_secrets() -> None:
    assert not [each for _, each in objects() if each["kind"] == "Secret"]
    assert all(variable.keys() == {"name", "valueFrom"} for variable in web_container()["env"])


def test_selectors_match_the_labels_of_the_pods() -> None:
    labels = find("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert find("StatefulSet")["spec"]["selector"]["matchLabels"] == labels
    assert find("Service")["spec"]["selector"] == labels
    assert find("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert find("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels


def test_probes_request_routes_that_exist(app: Flask) -> None:
    container = web_container()
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    assert {probe["path"] for probe in probes} <= {rule.rule for rule in app.url_map.iter_rules()}
    assert {probe["port"] for probe in probes} == {port["name"] for port in container["ports"]}


def test_ingress_forwards_no_internal_routes(app: Flask) -> None:
    (rule,) = find("Ingress")["spec"]["rules"]
    paths = {each["path"]: each["pathType"] for each in rule["http"]["paths"]}
    assert {path for path, kind in paths.items() if kind == "Exact"} == {"/", "/review", "/healthz"}
    assert {path for path, kind in paths.items() if kind == "Prefix"} == {"/api", "/static"}
    forwarded = re.compile(r"/|/review|/healthz|/(api|static)/.*")
    others = {each.rule for each in app.url_map.iter_rules() if not forwarded.fullmatch(each.rule)}
    assert others == {"/metrics", "/readyz"}


def test_proxy_closes_internal_routes_and_buffers_no_bodies() -> None:
    caddyfile = (ROOT / "deploy" / "Caddyfile").read_text()
    assert re.search(r"@internal path /metrics /readyz\n\s+respond @internal 404\n", caddyfile)
    assert "request_buffers" not in caddyfile


def test_base_images_are_build_arguments() -> None:
    for name in ("Dockerfile.serve", "Dockerfile.train"):
        images = re.findall(r"^FROM (\S+)", (ROOT / name).read_text(), re.MULTILINE)
        assert {*images} == {"${PYTHON_IMAGE}"}
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    built = {each["image"] for each in services if "build" in each}
    others = {each["image"] for each in services} - built
    assert all(re.match(r"\$\{\w+_IMAGE:-", image) for image in others)
    arguments = [each["build"]["args"]["PYTHON_IMAGE"] for each in services if "build" in each]
    assert {*arguments} == {"${PYTHON_IMAGE:-python:3.12-slim}"}


def test_whichever_training_runs_first_builds_the_image() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert services["retrain"]["build"] == services["train"]["build"]


def test_training_has_no_access_to_the_database() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for name in ("train", "retrain"):
        assert not compose["services"][name].keys() & {"networks", "environment", "env_file"}
    assert compose["services"]["db"]["networks"] == ["backend"]
    pod = find("CronJob", "retrain")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert not [each for each in pod["containers"] if each.keys() & {"env", "envFrom"}]


def test_retraining_reads_the_labels_that_the_service_writes() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    pod = find("CronJob", "retrain")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (labels,), (train,) = pod["initContainers"], pod["containers"]
    for exporting, training in (
        (services["labels"]["command"], services["retrain"]["command"]),
        (labels["command"], train["args"]),
    ):
        assert exporting[-2:] == ["--labelled", "/labels/labels.npz"]
        assert training == ["--labelled", "labels/labels.npz"]
    assert "labels:/labels" in services["labels"]["volumes"]
    assert "labels:/app/labels:ro" in services["retrain"]["volumes"]
    for container, path in ((labels, "/labels"), (train, "/app/labels")):
        (mount,) = [each for each in container["volumeMounts"] if each.get("subPath") == "labels"]
        assert mount["mountPath"] == path


def test_actions_are_pinned_to_commits() -> None:
    workflow = (ROOT / ".github" / "workflows" / "check.yml").read_text()
    actions = re.findall(r"uses: (\S+)", workflow)
    assert actions
    assert [action for action in actions if not re.search("@[0-9a-f]{40}$", action)] == []


@pytest.mark.parametrize("name", ["requirements-serve.txt", "requirements-train.txt"])
def test_sbom_lists_every_requirement_with_its_hashes(name: str) -> None:
    command = [sys.executable, "deploy/sbom.py", name]
    sbom = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.6")
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / name).read_text(), re.MULTILINE)
    assert [each["name"] for each in sbom["components"]] == pinned
    assert all(each["hashes"] for each in sbom["components"])
    assert "torch" not in pinned
