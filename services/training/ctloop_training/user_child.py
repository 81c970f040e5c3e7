"""The process that runs the user's function: no secrets, no services, two pipes to the Ray task that started it.

Started by path with ``python -P -S``, so that neither the services' folders nor the task's own are importable. The
first argument is the JSON of ``user_process.Launch``. Requests and answers are one JSON object per line; columns travel
as Arrow files, the estimator only as ONNX. Nothing is ever pickled across this line.
"""

import ctypes
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

PR_SET_PDEATHSIG = 1
MESSAGE_LIMIT = 1500


class Failed(Exception):
    """The user's part failed: reason of ``TrainingFailed`` and one sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NoServices(MetaPathFinder):
    """User code imports ctloop's public modules, not the platform and not the services."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.startswith("ctloop_") or fullname == "ctloop.platform" or fullname.startswith("ctloop.platform."):
            raise ModuleNotFoundError(f"{fullname} is not for model files", name=fullname)
        return None


def confine(memory_bytes: int, file_bytes: int) -> None:
    """Die with the parent, dump no core, stay within memory and file size."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_AS, memory_bytes),
    ):
        _, hard = resource.getrlimit(limit)
        allowed = value if hard < 0 else min(value, hard)
        resource.setrlimit(limit, (allowed, allowed))


class Worker:
    """The loaded model and the operations the task asks for."""

    def __init__(self, launch: Mapping[str, Any]) -> None:
        from ctloop.events.manifest import RecordSpec

        self.launch = launch
        self.spec = RecordSpec.model_validate(launch["record"])
        self.model: Any = None

    def load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Import the libraries and the user's module."""
        from ctloop.bundle import load_model

        for name in ("pandas", "sklearn", "skl2onnx", "onnxruntime", "ctloop.columns", "ctloop.onnx_export"):
            import_module(name)  # now, not in the first fit
        self.model = load_model(Path(self.launch["bundle"]), self.launch["module"], self.launch["function"])
        return {}

    def fit(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Fit on an Arrow file; predict another one; export where a folder is named."""
        import numpy as np

        from ctloop import columns
        from ctloop.onnx_export import check_estimator
        from ctloop.problems import Problem

        rows = read_arrow(request["rows"])
        X, y = columns.to_frame(rows, self.spec), columns.target(rows, self.spec, tuple(request["classes"]))
        random.seed(request["seed"])
        np.random.seed(request["seed"] % 2**32)
        started = time.perf_counter()
        estimator = self.model.fit(X, y, **request["params"])
        seconds = time.perf_counter() - started
        try:
            check_estimator(estimator, self.spec)
        except Problem as problem:
            raise Failed("wrong-type", f"{problem.title}: {problem.cause}") from problem
        classes = request["classes"]
        write_outputs(self.predict(estimator, read_arrow(request["predict"]), classes), request["outputs"])
        answer: dict[str, Any] = {"seconds": seconds}
        if request.get("export"):
            answer |= self.export(estimator, request)
        return answer

    def predict(self, estimator: Any, rows: Any, classes: Sequence[str]) -> Any:
        """The estimator's outputs, [N, classes] or [N, 1], float64."""
        import numpy as np

        from ctloop import columns

        X = columns.to_frame(rows, self.spec)
        if not classes:
            return np.asarray(estimator.predict(X), dtype=np.float64).reshape(-1, 1)
        raw = np.asarray(estimator.predict_proba(X), dtype=np.float64)
        full = np.zeros((len(X), len(classes)))
        full[:, np.asarray(estimator.classes_, dtype=np.int64)] = raw
        return full

    def export(self, estimator: Any, request: Mapping[str, Any]) -> dict[str, Any]:
        """The inference form, its golden answers and parity, as files and JSON."""
        from ctloop.onnx_export import export, golden

        rows = read_arrow(request["predict"])
        try:
            exported = export(estimator, self.spec, rows, tuple(request["classes"]))
            examples = golden(exported, rows)
        except MemoryError:
            raise
        except Exception as error:
            traceback.print_exc()
            raise Failed("export-failed", said(error)) from error
        folder = Path(request["export"])
        (folder / "model.onnx").write_bytes(exported.body)
        (folder / "golden.arrow").write_bytes(examples)
        return {
            "signature": exported.signature.model_dump(mode="json"),
            "parity": exported.parity.model_dump(mode="json"),
        }


def read_arrow(path: str) -> Any:
    """A table from an Arrow IPC file, mapped into memory."""
    import pyarrow as pa

    with pa.memory_map(path) as source, pa.ipc.open_file(source) as reader:
        return reader.read_all()


def write_outputs(outputs: Any, path: str) -> None:
    """Columns ``0`` to ``C - 1`` of a matrix as an Arrow IPC file."""
    import pyarrow as pa

    table = pa.table({str(column): outputs[:, column] for column in range(outputs.shape[1])})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


def said(error: BaseException) -> str:
    """An error in one bounded sentence."""
    return f"{type(error).__name__}: {error}"[:MESSAGE_LIMIT]


def answer_of(worker: Worker, request: Mapping[str, Any]) -> dict[str, Any]:
    """Do what was asked; every failure is an answer with a reason."""
    operations = {"load": worker.load, "fit": worker.fit}
    try:
        return {"ok": True, **operations[request["op"]](request)}
    except Failed as failed:
        return {"ok": False, "reason": failed.reason, "message": str(failed)}
    except MemoryError as error:
        traceback.print_exc()
        return {"ok": False, "reason": "out-of-memory", "message": said(error)}
    except BaseException as error:  # noqa: BLE001 - whatever user code raises, SystemExit included, is its answer
        traceback.print_exc()
        return {"ok": False, "reason": "raised", "message": said(error)}
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def main() -> None:
    """Answer requests until the pipe closes."""
    launch = json.loads(sys.argv[1])
    confine(launch["memory_bytes"], launch["file_bytes"])
    sys.path.extend(launch["paths"])
    sys.meta_path.insert(0, NoServices())
    requests, answers = os.fdopen(launch["requests"], "rb"), os.fdopen(launch["answers"], "wb", buffering=0)
    worker = Worker(launch)
    for line in requests:
        answer = answer_of(worker, json.loads(line))
        answers.write(json.dumps(answer).encode() + b"\n")
    os._exit(0)  # exit handlers of user code are not ours to wait for


if __name__ == "__main__":
    main()
