"""Versions of the model: which are kept, and which one a rollback restores."""

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from export.versions import kept_versions, replace_model, rollback
from tests.clients import Clients
from tests.conftest import ROOT, Server, wait_until
from tests.graphs import another_version, flipped, publish
from tests.test_metrics import workers_by_version
from webapp.files import atomic_write


def publish_version(folder: Path, number: int) -> str:
    """Publish a model that answers as the published one does; return its version."""
    version, graph = another_version(number)
    replace_model(folder, json.dumps({"version": version}).encode(), graph)
    return version


def present(folder: Path) -> str:
    """Return the version of the model in a folder."""
    version: str = json.loads((folder / "model.json").read_text())["version"]
    return version


def kept(folder: Path) -> list[str]:
    """Return the versions that are kept."""
    return [path.name for path in kept_versions(folder)]


def test_five_replaced_versions_are_kept(tmp_path: Path) -> None:
    versions = [publish_version(tmp_path, number) for number in range(7)]
    assert (kept(tmp_path), present(tmp_path)) == (versions[1:6], versions[6])
    publish_version(tmp_path, 6)
    assert kept(tmp_path) == versions[1:6]


def test_rollbacks_go_back_step_by_step_and_keep_the_present_version(tmp_path: Path) -> None:
    one, two, three = (publish_version(tmp_path, number) for number in range(3))
    assert [rollback(tmp_path) for _ in range(3)] == [two, one, three]
    assert rollback(tmp_path, one) == present(tmp_path) == one
    assert (tmp_path / "digits.onnx").read_bytes() == another_version(0)[1]
    assert sorted(kept(tmp_path)) == sorted([two, three])


def test_version_from_before_a_bad_one_is_restored_after_another_is_published(
    tmp_path: Path,
) -> None:
    good = publish_version(tmp_path, 0)
    publish_version(tmp_path, 1)
    rollback(tmp_path)
    publish_version(tmp_path, 2)
    assert rollback(tmp_path) == good


def test_damaged_version_is_neither_restored_nor_kept(tmp_path: Path) -> None:
    one, two, three = (publish_version(tmp_path, number) for number in range(3))
    damaged = tmp_path / "previous" / two / "digits.onnx"
    damaged.write_bytes(flipped(damaged.read_bytes()))
    with pytest.raises(ValueError, match="damaged"):
        rollback(tmp_path)
    assert present(tmp_path) == three
    (tmp_path / "digits.onnx").write_text("damaged")
    assert rollback(tmp_path, one) == present(tmp_path) == one
    assert kept(tmp_path) == [two]


def test_unknown_version_is_reported_with_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no earlier version"):
        rollback(tmp_path)
    one = publish_version(tmp_path, 0)
    publish_version(tmp_path, 1)
    with pytest.raises(ValueError, match=one):
        rollback(tmp_path, "unknown")


def test_drafts_of_two_writers_do_not_collide(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with atomic_write(file) as one, atomic_write(file) as other:
        one.write_text("one")
        other.write_text("other")
    assert file.read_text() == "one"
    assert [*tmp_path.iterdir()] == [file]


def test_error_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with suppress(OSError), atomic_write(file) as draft:
        draft.write_text("new")
        raise OSError
    assert file.read_text() == "old"
    assert [*tmp_path.iterdir()] == [file]


def test_rollback_needs_no_installed_package(tmp_path: Path) -> None:
    one = publish_version(tmp_path, 0)
    publish_version(tmp_path, 1)
    command = f"{sys.executable} -S"  # without site-packages
    make = ["make", "--no-print-directory", "rollback", f"PYTHON={command}", f"MODELS={tmp_path}"]
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout.split()[2], present(tmp_path)) == (one, one)
    done = subprocess.run(
        [*make, "VERSION=no"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert "no version no in" in done.stderr


def test_no_request_fails_while_models_are_published_and_rolled_back(
    tmp_path: Path, models: Path
) -> None:
    served: dict[str, float] = {present(models): 0}
    with (
        Server(tmp_path, MODEL_DIR=str(models), WEB_CONCURRENCY="2") as server,
        Clients(server.port) as clients,
    ):

        def serve(version: str) -> str:
            wait_until(lambda: workers_by_version(server) == {version: 2})
            return version

        def damage() -> None:
            publish(flipped((models / "digits.onnx").read_bytes()), models)
            wait_until(lambda: "rejected" in server.get("/readyz"))

        first = present(models)
        for number in (1, 2):
            served[another_version(number)[0]] = time.monotonic()
            newest = serve(publish_version(models, number))
        damage()
        assert [serve(rollback(models)) for _ in range(2)][-1] == first != newest
        damage()
        assert serve(rollback(models, [*served][1])) in served
    assert set(clients.statuses) == {201}
    assert {version for _, version in clients.versions} == served.keys()
    assert all(at >= served[version] for at, version in clients.versions)
