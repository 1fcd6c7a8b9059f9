"""Export a training run as an ONNX graph with its model card."""

import webapp  # noqa: F401  before onnxruntime: it turns off onnxruntime's telemetry
