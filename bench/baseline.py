"""In-process inference, without HTTP or storage: python -m bench.baseline FOLDER SECONDS.

Decodes, prepares and classifies the pictures of FOLDER in a loop and prints its metrics as JSON.
"""

import json
import sys
import time
from itertools import cycle
from pathlib import Path

import numpy as np
import psutil

from webapp.decode import decode
from webapp.model import Model
from webapp.preprocess import prepare

GRAPH = Path(__file__).parent.parent / "artifacts" / "digits.onnx"


def main() -> None:
    """Classify pictures for some seconds."""
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    bodies = [path.read_bytes() for path in sorted(folder.iterdir())]
    model = Model(GRAPH)
    model.classify(prepare(decode(bodies[0])))
    first_at = time.time()
    process, latencies_s = psutil.Process(), list[float]()
    cpu_s = sum(process.cpu_times()[:2])
    for body in cycle(bodies):
        started = time.perf_counter()
        model.classify(prepare(decode(body)))
        latencies_s.append(time.perf_counter() - started)
        if time.time() > first_at + seconds:
            break
    p50, p99 = 1000 * np.quantile(latencies_s, (0.5, 0.99))
    metrics = {
        "first_at": first_at,
        "requests": len(latencies_s),
        "cpu_s": sum(process.cpu_times()[:2]) - cpu_s,
        "p50_ms": p50,
        "p99_ms": p99,
        "pss_mb": process.memory_full_info().pss / 1e6,
    }
    print(json.dumps(metrics))


if __name__ == "__main__":
    main()
