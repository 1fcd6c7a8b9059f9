"""The service: reads drawn digits, and keeps a record of them."""

import os

# From version 1.29 on, onnxruntime reports to its maker what runs where, unless told not to before
# it is imported. What people draw here is nobody else's business.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# Each process is one of several; NumPy's own threads, which have to be told before it is imported,
# would only get in each other's way.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
