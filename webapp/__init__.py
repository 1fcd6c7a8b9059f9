"""The service: classifies drawn digits and stores the predictions."""

import os

__version__ = "1.0"

# onnxruntime 1.29 and newer send usage data to their vendor unless this is set before the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# One process per CPU: NumPy's own threads would compete with the other workers. It reads this when
# it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
