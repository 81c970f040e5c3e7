"""The handle of the process that runs unjudged models: started warm, asked one thing at a time, killed when it is late."""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ctloop.events.values import Signature

CHILD = Path(__file__).with_name("model_child.py")
MEMORY_BYTES = 6 << 30
"""Of address space: libraries map about 2 GiB before a model is loaded."""
START_SECONDS = 60.0
REPLAY_SECONDS = 120.0
LATENCY_REQUESTS = 300
KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")

Matrix = NDArray[np.float64]


class ModelMisbehaved(Exception):
    """The model does not load or run, asks for too much memory, takes too long, or answers nonsense."""


class ModelProcess:
    """One process for all models, one after another. A model that ends it ends nothing else; the next gets a new one."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES, replay_seconds: float = REPLAY_SECONDS) -> None:
        self._memory_bytes = memory_bytes
        self._replay_seconds = replay_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._one_at_a_time = asyncio.Lock()
        self._warming: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._warming = asyncio.create_task(self._warm())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._warming is not None:
            self._warming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._warming
        await self._kill()

    async def replay(self, onnx: bytes, signature: Signature, rows: pa.Table) -> Matrix:
        """Outputs [rows, classes] or [rows, 1].

        Raises:
            ModelMisbehaved
        """
        with Files(onnx, rows) as files:
            request = {"op": "replay", "signature": signature.model_dump(mode="json"), **files}
            await self._ask(request, self._replay_seconds)
            return _outputs(files["outputs"], rows.num_rows, max(1, len(signature.classes)))

    async def p99_ms(self, onnx: bytes, signature: Signature, rows: pa.Table) -> float:
        """The 99th percentile of one-row requests in milliseconds.

        Raises:
            ModelMisbehaved
        """
        with Files(onnx, rows.slice(0, 200)) as files:
            request = {"op": "latency", "signature": signature.model_dump(mode="json"), "requests": LATENCY_REQUESTS}
            answer = await self._ask(request | files, self._replay_seconds)
        value = answer.get("p99_ms")
        if not isinstance(value, float) or not np.isfinite(value):
            raise ModelMisbehaved("its latency is no number")
        return value

    async def _warm(self) -> None:
        with contextlib.suppress(ModelMisbehaved):
            await self._ask({"op": "warm"}, START_SECONDS)

    async def _ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        async with self._one_at_a_time:
            try:
                async with asyncio.timeout(seconds):
                    line = await self._exchange(json.dumps(request).encode() + b"\n")
            except TimeoutError as error:
                await self._kill()
                raise ModelMisbehaved(f"it did not answer within {seconds:g} s") from error
            except BaseException:
                await self._kill()  # an answer of an abandoned request must not be taken for the next one's
                raise
        return _answer(line)

    async def _exchange(self, request: bytes) -> bytes:
        process = await self._running()
        assert process.stdin is not None and process.stdout is not None, "both are pipes"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(request)
            await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            code = await process.wait()
            raise ModelMisbehaved(f"it ended the process that ran it (exit code {code})")
        return line

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            kept = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", str(CHILD), str(self._memory_bytes),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                env=kept | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        return self._process

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()


class Files:
    """A folder with a model and rows, gone afterwards."""

    def __init__(self, onnx: bytes, rows: pa.Table) -> None:
        self._onnx, self._rows = onnx, rows
        self._folder = tempfile.TemporaryDirectory(prefix="ctloop-judge-", ignore_cleanup_errors=True)

    def __enter__(self) -> dict[str, str]:
        folder = Path(self._folder.name)
        (folder / "model.onnx").write_bytes(self._onnx)
        with pa.ipc.new_file(str(folder / "rows.arrow"), self._rows.schema) as writer:
            writer.write_table(self._rows)
        names = {"onnx": "model.onnx", "rows": "rows.arrow", "outputs": "outputs.arrow"}
        return {key: str(folder / name) for key, name in names.items()}

    def __exit__(self, *exc: object) -> None:
        self._folder.cleanup()


def _answer(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise ModelMisbehaved("its answer is not JSON") from error
    if not isinstance(answer, dict) or not answer.get("ok"):
        raise ModelMisbehaved(str(answer.get("message") if isinstance(answer, dict) else answer)[:1500])
    return answer


def _outputs(path: str, rows: int, width: int) -> Matrix:
    try:
        with pa.memory_map(path) as source, pa.ipc.open_file(source) as reader:
            table = reader.read_all()
            matrix = np.column_stack([table.column(str(one)).to_numpy() for one in range(width)])
    except (pa.ArrowInvalid, KeyError, OSError, ValueError) as error:
        raise ModelMisbehaved(f"its outputs cannot be read: {error}") from error
    if matrix.shape != (rows, width) or not np.isfinite(matrix).all():
        raise ModelMisbehaved(f"its outputs are not {rows} x {width} finite numbers")
    return matrix
