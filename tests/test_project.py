"""What the project's files say of each other."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import pytest
from click import Group
from click.testing import CliRunner
from flask import Flask

from tests.conftest import ROOT

DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
DIRECTORIES = ("train", "export", "webapp", "artifacts", "tests", "bench", "docs", "deploy")


@pytest.fixture(params=DOCUMENTS, ids=lambda path: path.name)
def text(request: pytest.FixtureRequest) -> str:
    """Return what a document says."""
    return Path(request.param).read_text()


def pins(name: str) -> dict[str, str]:
    """Return the versions that a file of requirements pins."""
    text = (ROOT / name).read_text()
    return dict(re.findall(r"^([\w-]+)==([\w.]+)", text, re.MULTILINE))


def test_training_prepares_drawings_with_the_versions_that_serve() -> None:
    serving, training = pins("requirements-serve.txt"), pins("requirements-train.txt")
    shared = serving.keys() & training.keys()
    assert {"numpy", "pillow", "onnxruntime"} <= shared
    assert {name: training[name] for name in shared} == {name: serving[name] for name in shared}


def test_documents_name_only_targets_that_are_there(text: str) -> None:
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"[`$] ?make\s+([a-z0-9-]+)", text)) <= {*targets}


def test_documents_name_only_files_that_are_there(text: str) -> None:
    named = re.findall(rf"`((?:{'|'.join(DIRECTORIES)})/[\w./-]*)`", text)
    named += re.findall(r"\]\((?!http)([^)#]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_documents_name_only_modules_that_are_there(text: str) -> None:
    named = set(re.findall(r"python -m\s+([\w.]+)", text)) - {"webapp"}
    assert [name for name in named if find_spec(name) is None] == []


def test_documents_name_only_routes_that_are_there(text: str, app: Flask) -> None:
    routes = {re.sub(r"<.*?>", "<id>", rule.rule) for rule in app.url_map.iter_rules()}
    named = re.findall(
        r"[` ](?:127\.0\.0\.1:8000)?(/(?:api|healthz|readyz|metrics)\b[\w/.<>]*)", text
    )
    assert {name.rstrip("/.") for name in named} - {"/api"} <= routes


def test_documents_name_only_commands_that_are_there(text: str, app: Flask) -> None:
    for line in re.findall(r"flask --app webapp\.app (predictions [^`\n]+)", text):
        words = [word for word in shlex.split(line) if word.startswith("-") or word.isalpha()]
        command, options = words[:2], {word for word in words if word.startswith("--")}
        shown = CliRunner().invoke(app.cli, [*command, "--help"])
        assert shown.exit_code == 0
        assert options - {"--help"} <= set(re.findall(r"--[\w-]+", shown.output))


def test_readme_names_every_command(app: Flask) -> None:
    readme = (ROOT / "README.md").read_text()
    group = app.cli.commands["predictions"]
    assert isinstance(group, Group)
    named = re.findall(r"flask --app webapp\.app predictions (\w+)", readme)
    assert {*named} == group.commands.keys()


def test_contributing_names_every_test_file() -> None:
    named = re.findall(r"`tests/(test_\w+\.py)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert {*named} == {path.name for path in ROOT.glob("tests/test_*.py")}


def test_mutants_of_the_page_apply_and_name_tests() -> None:
    tests = (ROOT / "tests/test_browser.py").read_text()
    for mutant in tomllib.loads((ROOT / "bench/page_mutants.toml").read_text())["mutant"]:
        assert (ROOT / "webapp" / mutant["file"]).read_text().count(mutant["old"]) == 1, mutant
        assert re.search(rf"^def test_\w*{mutant['test']}", tests, re.MULTILINE), mutant


def test_modules_of_the_service_import_each_other_without_cycles() -> None:
    version = {"__version__"}  # of the package, which imports no module
    imports = {path.stem: set(imported(path)) - version for path in ROOT.glob("webapp/*.py")}
    assert imports["api"] > {"auth", "metrics", "preprocess"}
    assert {*TopologicalSorter(imports).static_order()} == imports.keys()


def imported(path: Path) -> Iterator[str]:
    """Return the modules of the service that a file imports, in whichever function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "webapp":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("webapp."):
            yield str(node.module).split(".")[1]


def test_functions_are_short() -> None:
    lengths = [
        node.end_lineno - node.lineno + 1
        for package in ("train", "export", "webapp")
        for path in ROOT.glob(f"{package}/**/*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno
    ]
    assert max(lengths) < 50
    assert sorted(lengths)[len(lengths) // 2] < 10


def test_make_names_the_platforms_with_wheels(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements-serve.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import platform\n'
        "platform.machine = lambda: 'armv7l'\n$2\"\n"
    )
    python.chmod(0o755)
    command = ["make", f"PYTHON={python}", ".venv/ready"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode
    assert "no wheel for this platform" in made.stderr
    assert "armv7l" in made.stderr
    assert not (tmp_path / ".venv").exists()
