"""Convert the network to an ONNX graph."""

import hashlib
from collections.abc import Sequence
from typing import cast

import numpy as np
import onnx
import onnxruntime as ort
import torch
from google.protobuf.message import Message
from torch import Tensor, nn

from train.fit import to_images
from train.model import Network

ATOL = 1e-5  # largest allowed difference of a probability between torch and onnxruntime


class ExportModule(nn.Module):
    """Map `pixels`, uint8 [n, 28, 28], to calibrated `probabilities`, float32 [n, 10]."""

    def __init__(self, network: Network, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def forward(self, pixels: Tensor) -> Tensor:
        logits = self.network(to_images(pixels))  # [n, 10]
        return torch.softmax(logits / self.temperature, dim=1)


def make_graph(network: Network, temperature: float, parity_inputs: Tensor) -> onnx.ModelProto:
    """Return the graph: uint8 `pixels` [batch, 28, 28] to float32 `probabilities` [batch, 10].

    parity_inputs: uint8 [n, 28, 28], on which torch and onnxruntime must agree.
    Raises ValueError if they do not.
    """
    module = ExportModule(network, temperature).eval()
    program = torch.onnx.export(
        module,
        (parity_inputs[:2],),
        input_names=["pixels"],
        output_names=["probabilities"],
        dynamic_shapes={"pixels": {0: "batch"}},
        dynamo=True,
        verbose=False,
    )
    graph = cast(torch.onnx.ONNXProgram, program).model_proto
    strip_debug_info(graph)
    onnx.checker.check_model(graph, full_check=True)
    verify_parity(graph, module, parity_inputs)
    return graph


def version_of(graph: onnx.ModelProto) -> str:
    """Return the first 12 hex digits of the SHA-256 of the graph without its metadata."""
    bare = onnx.ModelProto()
    bare.CopyFrom(graph)
    del bare.metadata_props[:]
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()[:12]


def strip_debug_info(message: Message) -> None:
    """Remove the exporter's notes, such as source lines and paths of this machine."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in value if isinstance(value, Sequence) else [value]:
                strip_debug_info(part)


def verify_parity(graph: onnx.ModelProto, module: nn.Module, pixels: Tensor) -> None:
    """Raise ValueError if onnxruntime's probabilities differ from torch's by ATOL or more."""
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(None, {"pixels": pixels.numpy()})  # [n, 10]
    with torch.no_grad():
        difference = float(np.abs(probabilities - module(pixels).numpy()).max())
    if not difference < ATOL:
        raise ValueError(
            f"torch and onnxruntime differ by {difference:.1e} on {len(pixels)} images, "
            f"{ATOL:.0e} or more. Nothing was exported."
        )
    print(f"torch and onnxruntime agree within {difference:.1e} on {len(pixels):,} images")
