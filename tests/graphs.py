"""Variants of the published model, each with a card that is valid for it."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tests.conftest import ROOT

GRAPH = ROOT / "artifacts" / "digits.onnx"


def published() -> onnx.ModelProto:
    """Return the published graph."""
    return onnx.load(GRAPH)


def version_of(graph: onnx.ModelProto) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of a graph without its metadata."""
    bare = onnx.ModelProto()
    bare.CopyFrom(graph)
    del bare.metadata_props[:]
    return hashlib.sha256(bare.SerializeToString()).hexdigest()[:12]


def with_card(graph: onnx.ModelProto) -> bytes:
    """Return a graph as a file's bytes, with the published card and the graph's own version."""
    (published_card,) = published().metadata_props
    card = json.loads(published_card.value) | {"version": version_of(graph)}
    onnx.helper.set_model_props(graph, {"card": json.dumps(card)})
    return bytes(graph.SerializeToString())


def publish(graph: bytes, folder: Path) -> None:
    """Replace the graph in a folder as `python -m export` does: by one rename."""
    draft = folder / "draft"
    draft.write_bytes(graph)
    draft.replace(folder / GRAPH.name)


def another_version(number: int) -> tuple[str, bytes]:
    """Return the version and the bytes of a graph that answers as the published one does."""
    graph = published()
    graph.producer_version = str(number)
    return version_of(graph), with_card(graph)


def misreading() -> bytes:
    """Return a graph that reads every digit d as 9 - d."""
    graph = published()
    (dense,) = (node for node in graph.graph.node if node.op_type == "Gemm")
    for initializer in graph.graph.initializer:
        if initializer.name in dense.input[1:]:
            reversed_rows = np.ascontiguousarray(numpy_helper.to_array(initializer)[::-1])
            initializer.CopyFrom(numpy_helper.from_array(reversed_rows, initializer.name))
    return with_card(graph)


def flipped(graph: bytes) -> bytes:
    """Return a graph with one bit of its weights inverted."""
    middle = len(graph) // 2
    return graph[:middle] + bytes([graph[middle] ^ 1]) + graph[middle + 1 :]
