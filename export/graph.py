"""Convert the network to an ONNX graph."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import onnx
import onnxruntime as ort
import torch
from google.protobuf.message import Message
from numpy.typing import NDArray
from torch import Tensor, nn

from train.fit import EVALUATION_BATCH_SIZE, to_images
from train.metrics import Probabilities
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


def run_graph(graph: bytes, pixels: NDArray[np.uint8]) -> Probabilities:
    """Return the probabilities, float32 [n, 10], of pixels, uint8 [n, 28, 28], by onnxruntime."""
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    starts = range(0, len(pixels), EVALUATION_BATCH_SIZE)
    batches = [pixels[start : start + EVALUATION_BATCH_SIZE] for start in starts]
    return np.concatenate([session.run(None, {"pixels": batch})[0] for batch in batches])


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
    probabilities = run_graph(graph.SerializeToString(), pixels.numpy())  # [n, 10]
    with torch.no_grad():
        difference = float(np.abs(probabilities - module(pixels).numpy()).max())
    if not difference < ATOL:
        raise ValueError(
            f"torch and onnxruntime differ by {difference:.1e} on {len(pixels)} images. "
            f"The limit is {ATOL:.0e}. Nothing was exported."
        )
    print(f"torch and onnxruntime agree within {difference:.1e} on {len(pixels):,} images")
