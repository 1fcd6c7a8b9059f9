"""The model in artifacts/ and the versions before it: replace it, or restore one of the last five.

Imports neither PyTorch nor ONNX, so that a server without them can roll back.
"""

import json
import os
import shutil
import time
from pathlib import Path

from webapp.files import atomic_write
from webapp.graphs import GRAPH_FILE, version_of

CARD, PREVIOUS = "model.json", "previous"
KEPT_VERSIONS = 5


def replace_model(
    folder: Path, card: bytes, graph: bytes, replaced_at_ns: int | None = None
) -> None:
    """Replace the model in `folder`, and keep the current one in previous/VERSION/.

    The newest KEPT_VERSIONS are kept, in the order in which they were replaced.
    """
    _keep_present(folder, replaced_at_ns or time.time_ns())
    replace_file(folder / CARD, card)
    replace_file(folder / GRAPH_FILE, graph)
    shutil.rmtree(folder / PREVIOUS / json.loads(card)["version"], ignore_errors=True)
    for outdated in kept_versions(folder)[:-KEPT_VERSIONS]:
        shutil.rmtree(outdated)


def rollback(folder: Path, version: str | None = None) -> str:
    """Restore a kept version, by default the one that was replaced last; return its name.

    The current model is kept as the oldest, so that repeated rollbacks go back step by step.
    Raises ValueError if there is no such version, or if it is damaged.
    """
    kept = {path.name: path for path in kept_versions(folder)}
    if not kept:
        raise ValueError(f"There is no earlier version in {folder / PREVIOUS}.")
    if version not in (None, *kept):
        names = ", ".join(reversed(kept))
        raise ValueError(
            f"There is no version {version} in {folder / PREVIOUS}. Available: {names}."
        )
    source = kept[version] if version else list(kept.values())[-1]
    card, graph = (source / CARD).read_bytes(), (source / GRAPH_FILE).read_bytes()
    if not _is_intact(card, graph) or json.loads(card)["version"] != source.name:
        raise ValueError(f"{source} is damaged. Delete it, or restore another version.")
    replace_model(folder, card, graph, min(map(_replaced_at_ns, kept.values())) - 1)
    return source.name


def kept_versions(folder: Path) -> list[Path]:
    """Return the folders of the kept versions; the one that was replaced last is the last."""
    kept = [graph.parent for graph in folder.glob(f"{PREVIOUS}/*/{GRAPH_FILE}")]
    return sorted(kept, key=_replaced_at_ns)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file atomically: readers see either the old content or the new."""
    with atomic_write(path) as draft, open(draft, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _keep_present(folder: Path, replaced_at_ns: int) -> None:
    """Copy the model to previous/VERSION/, unless there is none or it is damaged."""
    try:
        card, graph = (folder / CARD).read_bytes(), (folder / GRAPH_FILE).read_bytes()
    except FileNotFoundError:
        return
    if _is_intact(card, graph):
        kept = folder / PREVIOUS / json.loads(card)["version"]
        kept.mkdir(parents=True, exist_ok=True)
        replace_file(kept / CARD, card)
        replace_file(kept / GRAPH_FILE, graph)
        os.utime(kept, ns=(replaced_at_ns, replaced_at_ns))


def _replaced_at_ns(kept: Path) -> int:
    return kept.stat().st_mtime_ns


def _is_intact(card: bytes, graph: bytes) -> bool:
    """Return whether a graph is the one that its card describes."""
    try:
        return bool(json.loads(card)["version"] == version_of(graph))
    except (ValueError, LookupError, TypeError):
        return False
