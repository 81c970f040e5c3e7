"""The process that runs ONNX bytes nobody has judged yet: no secrets, bounded memory, answers as JSON lines and Arrow files.

Started by path with ``python -P``; the first argument is the limit of its address space in bytes. One request per line:
``replay`` a model over an Arrow file of rows, or measure its ``latency`` row by row.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
WARM_UP = 20


def confine(memory_bytes: int) -> None:
    """Die with the parent, dump no core, stay within memory."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def read_rows(path: str) -> Any:
    """The rows of an Arrow IPC file."""
    import pyarrow as pa

    with pa.memory_map(path) as source, pa.ipc.open_file(source) as reader:
        return reader.read_all()


def replay(request: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs for every row, as columns ``0`` to ``C - 1`` of an Arrow file."""
    import numpy as np
    import pyarrow as pa

    from ctloop import onnx_rows
    from ctloop.events.values import Signature

    signature = Signature.model_validate(request["signature"])
    session = onnx_rows.open_session(Path(request["onnx"]).read_bytes())
    found = onnx_rows.run(session, signature, read_rows(request["rows"]))
    matrix = found.probabilities if signature.classes else found.value
    matrix = np.asarray(matrix, dtype=np.float64).reshape(-1, max(1, len(signature.classes)))
    table = pa.table({str(column): matrix[:, column] for column in range(matrix.shape[1])})
    with pa.ipc.new_file(request["outputs"], table.schema) as writer:
        writer.write_table(table)
    return {"rows": table.num_rows}


def latency(request: Mapping[str, Any]) -> dict[str, Any]:
    """The 99th percentile of one-row requests, in milliseconds of this process."""
    import numpy as np

    from ctloop import onnx_rows
    from ctloop.events.values import Signature

    signature = Signature.model_validate(request["signature"])
    session = onnx_rows.open_session(Path(request["onnx"]).read_bytes())
    rows = read_rows(request["rows"])
    feeds = onnx_rows.inputs(rows, signature)
    taken: list[float] = []
    for number in range(WARM_UP + int(request["requests"])):
        row = number % rows.num_rows
        started = time.perf_counter()
        session.run(None, {name: column[row : row + 1] for name, column in feeds.items()})
        taken.append(time.perf_counter() - started)
    return {"p99_ms": float(np.quantile(taken[WARM_UP:], 0.99)) * 1000}


def warm(request: Mapping[str, Any]) -> dict[str, Any]:
    """Have the libraries imported."""
    for name in ("pyarrow", "ctloop.onnx_rows"):
        import_module(name)

    return {}


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # native code may print
    confine(int(sys.argv[1]))
    operations = {"warm": warm, "replay": replay, "latency": latency}
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            answer = {"ok": True, **operations[request["op"]](request)}
        except Exception as error:  # noqa: BLE001 what ONNX Runtime raises for bytes that are no model has no common class
            answer = {"ok": False, "message": f"{type(error).__name__}: {error}"[:1500]}
        answers.write(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
