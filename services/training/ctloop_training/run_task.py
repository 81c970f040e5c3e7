"""What the Ray task does: read the lake, split, search and fit in the user's process, check, write."""

import contextlib
import json
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ctloop import columns, onnx_rows
from ctloop.bundle import unpack
from ctloop.events.errors import CtloopError
from ctloop.events.manifest import Manifest
from ctloop.events.values import DatasetVersion, Measured, Parity, Signature
from ctloop.platform.storage import ARRIVED, Lake, S3Access
from ctloop.platform.storage.object_store import ObjectStore
from ctloop_training.capsule import capsule, environment_digest
from ctloop_training.domain.parts import MICROSECOND, Parts, parts_of
from ctloop_training.domain.scores import Matrix, parity_of, parity_problem, scores
from ctloop_training.run_spec import Failed, Lost, Params, Progress, RunOrder, Trained, Trial, WarmOrder
from ctloop_training.run_trace import RunTrace
from ctloop_training.search import Search
from ctloop_training.user_process import Launch, UserFailed, UserProcess

WARM_CHILDREN = 2
"""Kept between runs, newest last; one per bundle."""
PARITY_ROWS = 2_000
MODEL_BYTES = 256 << 20

FIRST_VERSION = DatasetVersion(n=1, digest="", records_version=0, labels_version=0)

_warm: dict[str, UserProcess] = {}


def child_of(manifest: Manifest, objects: ObjectStore) -> UserProcess:
    """The warm process of this bundle, or a new one with the user's module loaded.

    Raises:
        UserFailed: the module raises or hangs on import.
    """
    key = json.dumps([manifest.bundle.sha256, manifest.module, manifest.function, manifest.resources.model_dump()])
    found = _warm.pop(key, None)
    if found is None or not found.alive:
        folder = Path(tempfile.mkdtemp(prefix="ctloop-bundle-"))
        unpack(objects.get(manifest.bundle), folder)
        found = UserProcess(Launch(manifest, folder))
        found.start()
    while len(_warm) >= WARM_CHILDREN:
        _warm.pop(next(iter(_warm))).close()
    _warm[key] = found
    return found


def warm(order: WarmOrder) -> Iterator[str]:
    """Have libraries imported and the user's module loaded before the first run."""
    environment_digest()
    access = S3Access.of(order.store)
    with contextlib.suppress(UserFailed, CtloopError):  # the run itself will say it
        child_of(order.manifest, ObjectStore(access))
    with contextlib.suppress(CtloopError):  # no table yet: the reader is warm all the same
        Lake(access).read(order.manifest.record.dataset, FIRST_VERSION)
    yield Progress(stage="waiting").model_dump_json()


def train(order: RunOrder) -> Iterator[str]:
    """A run, as the JSON of its messages; the last one is Trained, Failed or Lost."""
    temporary = tempfile.TemporaryDirectory(prefix="ctloop-run-", ignore_cleanup_errors=True)
    with RunTrace(order) as trace, temporary as folder:
        try:
            for message in Run(order, Path(folder), trace).messages():
                yield message.model_dump_json()
            trace.succeeded()
        except UserFailed as failed:
            trace.failed(failed, failed.reason)
            yield Failed(reason=failed.reason, message=failed.message, log_tail=failed.log_tail).model_dump_json()
        except CtloopError as error:
            trace.failed(error)
            yield Lost(message=f"{type(error).__name__}: {error}"[:2000]).model_dump_json()


def deciding(metrics: tuple[Measured, ...], name: str) -> float:
    """The deciding metric's value.

    Raises:
        UserFailed: the predictions give none, e.g. their squares are beyond all numbers.
    """
    for one in metrics:
        if one.name == name:
            return one.value
    raise UserFailed("wrong-type", f"its predictions give no finite {name}")


@dataclass(frozen=True)
class Files:
    """The Arrow files the user's process reads."""

    fit: Path
    search: Path
    final: Path
    check: Path


class Run:
    """One attempt of one run."""

    def __init__(self, order: RunOrder, folder: Path, trace: RunTrace) -> None:
        self.order, self.trace = order, trace
        self.manifest = order.spec.manifest
        self.folder = folder
        self.access = S3Access.of(order.store)
        self.objects = ObjectStore(self.access)
        self.classes: tuple[str, ...] = ()

    def messages(self) -> Iterator[Progress | Trained]:
        """Everything it says, in order.

        Raises:
            UserFailed: no model for a reason that trying again does not change.
        """
        yield Progress(stage="reading")
        with self.trace.step("read rows"):
            parts = self.read()
            files = self.write_files(parts)
        with self.trace.step("load model file"):
            child = child_of(self.manifest, self.objects)
        child.begin_run()
        search = yield from self.search(child, files, parts)
        best = search.best
        assert best is not None, "search() raises when no trial succeeded"
        yield Progress(stage="final", trial=len(search.finished), trials=self.trials)
        with self.trace.step("final fit"):
            answer = self.fit(child, files.final, files.check, best.params, export=True)
        yield Progress(stage="checking", trial=self.trials, trials=self.trials)
        with self.trace.step("check ONNX form"):
            body, golden, signature, parity = self.checked(answer, files.check)
        yield Progress(stage="writing", trial=self.trials, trials=self.trials)
        seconds = sum(trial.seconds for trial in search.finished) + float(answer["seconds"])
        with self.trace.step("write model"):
            trained = self.written(body, golden, signature, parity, best, parts, seconds)
        yield trained

    @property
    def trials(self) -> int:
        """How many parameters are tried; nothing to search is one trial."""
        return self.manifest.trials if self.manifest.parameters else 1

    def read(self) -> Parts:
        """The labelled rows of the decision's window as of its data time, split by time."""
        spec, record = self.order.spec, self.manifest.record
        if record.label is None:
            raise UserFailed("no-data", f"record {record.dataset!r} declares no label: there is nothing to learn")
        table = Lake(self.access).read(
            record.dataset,
            spec.dataset_version,
            as_of=spec.data_time - MICROSECOND,
            columns=[one.name for one in (*record.fields, record.label)] + ([] if record.time else [ARRIVED]),
            since=spec.window.start,
            until=spec.window.end + MICROSECOND,
        )
        parts = parts_of(table, record.time or ARRIVED, spec.max_rows)
        if parts is None:
            raise UserFailed("no-data", f"{table.num_rows} labelled rows are too few to learn from")
        self.classes = columns.classes(parts.final, record)
        return parts

    def write_files(self, parts: Parts) -> Files:
        """Fit, search and final rows as files."""
        tables = {
            "fit": parts.fit,
            "search": parts.search,
            "final": parts.final,
            "check": parts.final.slice(max(0, parts.final.num_rows - PARITY_ROWS)),
        }
        for name, table in tables.items():
            with pa.ipc.new_file(str(self.folder / f"{name}.arrow"), table.schema) as writer:
                writer.write_table(table)
        return Files(**{name: self.folder / f"{name}.arrow" for name in tables})

    def search(self, child: UserProcess, files: Files, parts: Parts) -> Generator[Progress, None, Search]:
        """Try parameters; trials finished under an earlier fence are taken over."""
        search = Search(self.manifest.parameters, trials=self.trials, seed=self.manifest.seed)
        for trial in self.order.trials[: self.trials]:
            search.tell(trial)
        for number in range(len(search.finished), self.trials):
            yield Progress(stage="search", trial=number, trials=self.trials)
            with self.trace.trial(number):
                trial = self.trial(child, files, parts, number, search)
            search.tell(trial)
            yield Progress(stage="search", trial=number + 1, trials=self.trials, finished=trial)
        if search.best is None:
            raise UserFailed("raised", "every trial of the search failed", child.tail())
        return search

    def trial(self, child: UserProcess, files: Files, parts: Parts, number: int, search: Search) -> Trial:
        """One set of parameters, judged on the search rows. Once one has succeeded, a failing one is a bad trial."""
        params = search.suggest(number)
        try:
            answer = self.fit(child, files.fit, files.search, params)
            outputs = self.outputs(parts.search.num_rows)
            truth = columns.target(parts.search, self.manifest.record, self.classes)
            metrics = scores(self.manifest, outputs, truth, self.classes)
            value = deciding(metrics, self.manifest.metric)
        except UserFailed:
            if search.best is None:
                raise
            child.restart()
            return Trial(number=number, params=params, value=None, seconds=0.0)
        return Trial(number=number, params=params, value=value, metrics=metrics, seconds=float(answer["seconds"]))

    def fit(
        self, child: UserProcess, rows: Path, predict: Path, params: Params, *, export: bool = False
    ) -> dict[str, Any]:
        """One call of the user's function, within its time limit."""
        request = {
            "op": "fit",
            "rows": str(rows),
            "predict": str(predict),
            "outputs": str(self.folder / "outputs.arrow"),
            "params": dict(params),
            "seed": self.manifest.seed,
            "classes": self.classes,
            "export": str(self.folder) if export else "",
        }
        return child.ask(request, self.manifest.time_limit_seconds)

    def outputs(self, rows: int) -> Matrix:
        """What the estimator predicted: [rows, classes] or [rows, 1].

        Raises:
            UserFailed: wrong-type; another shape, or values that are not finite.
        """
        width = len(self.classes) or 1
        try:
            with pa.memory_map(str(self.folder / "outputs.arrow")) as source, pa.ipc.open_file(source) as reader:
                table = reader.read_all()
                matrix = np.column_stack([table.column(str(one)).to_numpy() for one in range(width)]).astype(np.float64)
        except (pa.ArrowInvalid, KeyError, OSError, ValueError) as error:
            raise UserFailed("wrong-type", f"its predictions cannot be read: {error}"[:2000]) from error
        if matrix.shape != (rows, width) or not np.isfinite(matrix).all():
            raise UserFailed("wrong-type", f"its predictions are not {rows} x {width} finite numbers")
        return matrix

    def checked(self, answer: dict[str, Any], check: Path) -> tuple[bytes, bytes, Signature, Parity]:
        """The inference form, run here on the same rows: what the child says of it is not believed.

        Raises:
            UserFailed: export-failed, or parity when its answers are not the estimator's.
        """
        model, golden = self.folder / "model.onnx", self.folder / "golden.arrow"
        if not model.exists() or not golden.exists() or model.stat().st_size > MODEL_BYTES:
            raise UserFailed("export-failed", f"no inference form of at most {MODEL_BYTES >> 20} MiB was written")
        with pa.memory_map(str(check)) as source, pa.ipc.open_file(source) as reader:
            rows = reader.read_all()
        body = model.read_bytes()
        try:
            signature = Signature.model_validate(answer["signature"])
            given = onnx_rows.run(onnx_rows.open_session(body), signature, rows)
            onnx_rows.read_golden(golden.read_bytes())
        except Exception as error:  # onnxruntime has classes of its own
            raise UserFailed("export-failed", f"the ONNX form does not run: {error}"[:2000]) from error
        estimator = self.outputs(rows.num_rows)
        answered = np.asarray(given.probabilities if self.classes else given.value, dtype=np.float64)
        answered = answered.reshape(estimator.shape)
        parity = parity_of(estimator, answered)
        if (wrong := parity_problem(parity, estimator, answered, self.classes)) is not None:
            raise UserFailed("parity", wrong)
        return body, golden.read_bytes(), signature, parity

    def written(
        self,
        body: bytes,
        golden: bytes,
        signature: Signature,
        parity: Parity,
        best: Trial,
        parts: Parts,
        seconds: float,
    ) -> Trained:
        """Write the outputs under this attempt's prefix."""
        prefix = self.order.prefix
        onnx = self.objects.put(f"{prefix}/model.onnx", body, format="onnx")
        examples = self.objects.put(f"{prefix}/golden.arrow", golden, format="arrow")
        text = capsule(self.order.spec, best, parts.final_window, parts.gate_window, onnx)
        return Trained(
            onnx=onnx,
            golden=examples,
            capsule=self.objects.put(f"{prefix}/capsule.json", text, format="json"),
            signature=signature,
            parity=parity,
            metrics=best.metrics,
            params=best.params,
            trials=self.trials,
            training_window=parts.final_window,
            gate_window=parts.gate_window,
            user_seconds=seconds,
        )
