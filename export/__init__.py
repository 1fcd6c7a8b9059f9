"""The way from a training run to what is served."""

import webapp  # noqa: F401  before onnxruntime, which it keeps from reporting home
