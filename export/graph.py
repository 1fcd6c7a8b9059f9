"""The network as an ONNX graph that any runtime can serve."""

import hashlib
from collections.abc import Sequence
from typing import cast

import numpy as np
import onnx
import onnxruntime as ort
import torch
from google.protobuf.message import Message
from torch import Tensor, nn

from train.fit import as_images
from train.model import Network

AGREEMENT = 1e-5  # largest difference of a probability between torch and onnxruntime


class _Served(nn.Module):
    """The contract's graph: `pixels` as they are prepared to calibrated `probabilities`."""

    def __init__(self, network: Network, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.softmax(self.network(as_images(pixels)) / self.temperature, dim=1)


def make_graph(network: Network, temperature: float, probe: Tensor) -> onnx.ModelProto:
    """Return the graph: uint8 `pixels` [batch, 28, 28] to float32 `probabilities` [batch, 10].

    probe: uint8 [n, 28, 28], on which torch and onnxruntime have to agree.
    Raises ValueError where they do not.
    """
    served = _Served(network, temperature).eval()
    program = torch.onnx.export(
        served,
        (probe[:2],),
        input_names=["pixels"],
        output_names=["probabilities"],
        dynamic_shapes={"pixels": {0: "batch"}},
        dynamo=True,
        verbose=False,
    )
    graph = cast(torch.onnx.ONNXProgram, program).model_proto
    _strip(graph)
    onnx.checker.check_model(graph, full_check=True)
    _prove(graph, served, probe)
    return graph


def version_of(graph: onnx.ModelProto) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of the graph without its metadata."""
    bare = onnx.ModelProto()
    bare.CopyFrom(graph)
    del bare.metadata_props[:]
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()[:12]


def _strip(message: Message) -> None:
    """Take out what the exporter notes of its own work: source lines and paths of this machine."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in value if isinstance(value, Sequence) else [value]:
                _strip(part)


def _prove(graph: onnx.ModelProto, served: nn.Module, probe: Tensor) -> None:
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (answers,) = session.run(None, {"pixels": probe.numpy()})
    with torch.no_grad():
        difference = float(np.abs(answers - served(probe).numpy()).max())
    if not difference < AGREEMENT:
        raise ValueError(
            f"torch and onnxruntime differ by {difference:.1e} over {len(probe)} images, "
            f"more than {AGREEMENT:.0e}: nothing was exported."
        )
    print(f"torch and onnxruntime agree within {difference:.1e} over {len(probe):,} images")
