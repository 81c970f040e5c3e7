"""From a model file to manifests and a bundle; the user's code runs in a child process without secrets.

``python -P -m ctloop.compiler FILE RESULT`` is that child.
"""

import ast
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ctloop import bundle
from ctloop.events.manifest import ConditionSpec, Manifest, RecordSpec, RetrainSpec
from ctloop.events.values import ObjectRef
from ctloop.fit import REPORTED, Model, task_of
from ctloop.problems import CATALOGUE, Problem, did_you_mean

Level = Literal["error", "warning", "hint"]

_NOWHERE = ObjectRef(uri="", sha256="0" * 64, bytes=0, format="zip")
_KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")
"""What the child keeps of the environment."""


MEASURED = ("p99_ms", "rows", "labels", "drift", "skill")
"""Names of conditions besides the metrics: latency, new labelled rows, labels in the window, drift score, skill."""


CONVERTED_WRONGLY = (
    ("HistGradientBoosting", "categorical_features", ""),
    ("SimpleImputer", "add_indicator", "Leave it out: gradient boosting takes missing values as they are."),
    ("OneHotEncoder", "min_frequency", "Use max_categories, or leave rare words as they are."),
)
"""Beginning of an estimator's name, its option, and what helps (empty: the catalogue's hint)."""


@dataclass(frozen=True)
class Finding:
    """Something about a model file; an error stops it from being applied."""

    level: Level
    code: str
    title: str
    cause: str
    hint: str
    path: str
    line: int = 0

    @classmethod
    def of(cls, problem: Problem, path: Path, line: int = 0, level: Level = "error") -> "Finding":
        """The finding a problem is."""
        return cls(level, problem.code, problem.title, problem.cause, problem.hint, str(path), line)

    def problem(self) -> Problem:
        """The problem of a finding, with its place."""
        place = f"{self.path}:{self.line}" if self.line else self.path
        return Problem(self.code, f"{self.cause}  ({place})", self.hint, title=self.title)


@dataclass(frozen=True)
class Checked:
    """What a model file declares and what was found about it."""

    manifests: tuple[Manifest, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Nothing that stops it from being applied."""
        return all(one.level != "error" for one in self.findings)


@dataclass(frozen=True)
class Compiled:
    """One pipeline version: its manifest and the zip of its source."""

    manifest: Manifest
    bundle: bytes


def check(path: Path, *, time_limit: float = 60) -> Checked:
    """Compile a model file and say all that is wrong with it; nothing is raised for what a user did."""
    try:
        body = _packed(path)
    except _Unreadable as error:
        return Checked((), (error.finding,))
    manifests, findings = _in_child(path, time_limit)
    reference = bundle.reference(body)
    return Checked(
        tuple(one.model_copy(update={"bundle": reference}) for one in manifests), (*findings, *_static(path))
    )


def compile_file(path: Path, *, time_limit: float = 60) -> tuple[Compiled, ...]:
    """The pipelines of a model file.

    Raises:
        Problem: the first error ``check`` finds.
    """
    checked = check(path, time_limit=time_limit)
    if error := next((one for one in checked.findings if one.level == "error"), None):
        raise error.problem()
    body = bundle.pack(path)
    return tuple(Compiled(one, body) for one in checked.manifests)


class _Unreadable(Exception):
    """The file cannot even be parsed."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.cause)
        self.finding = finding


def _packed(path: Path) -> bytes:
    if not path.is_file() or path.suffix != ".py":
        cause = f"{path} is no Python file" if path.exists() else f"{path} does not exist"
        raise _Unreadable(Finding.of(Problem("CT1001", cause), path))
    try:
        return bundle.pack(path)
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        line = (error.lineno or 0) if isinstance(error, SyntaxError) else 0
        where = Path(error.filename) if isinstance(error, SyntaxError) and error.filename else path
        raise _Unreadable(Finding.of(Problem("CT1002", str(error)), where, line)) from error


# -- the parent's side ------------------------------------------------------------------------------------------------


def _in_child(path: Path, time_limit: float) -> tuple[tuple[Manifest, ...], tuple[Finding, ...]]:
    with tempfile.TemporaryDirectory(prefix="ctloop-check-") as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-P", "-m", "ctloop.compiler", str(path.resolve()), str(result)]
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            said, _ = child.communicate(timeout=time_limit)
        except subprocess.TimeoutExpired:
            problem = Problem("CT1005", f"it had not ended after {time_limit:g} s")
            return (), (Finding.of(problem, path),)
        finally:
            _end(child)
        if not result.exists():
            last = said.decode("utf-8", "replace").strip().splitlines()[-1:] or ["it said nothing"]
            return (), (Finding.of(Problem("CT1006", f"exit code {child.returncode}: {last[0][:300]}"), path),)
        return _read_result(json.loads(result.read_text()))


def _environment(home: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return {**kept, **threads, "HOME": home, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def _read_result(body: dict[str, Any]) -> tuple[tuple[Manifest, ...], tuple[Finding, ...]]:
    manifests = tuple(Manifest.model_validate(one) for one in body["manifests"])
    return manifests, tuple(Finding(**one) for one in body["findings"])


# -- what can be seen without running it ------------------------------------------------------------------------------


def _static(path: Path) -> Iterator[Finding]:
    yield from _hidden_modules(path)
    calls = (one for one in ast.walk(ast.parse(path.read_bytes())) if isinstance(one, ast.Call))
    for node in calls:
        for keyword in node.keywords:
            hint = next((one[2] for one in CONVERTED_WRONGLY if _calls(node, one[0]) and keyword.arg == one[1]), None)
            if hint is not None and ast.unparse(keyword.value) not in ("None", "False"):
                cause = f"{ast.unparse(node.func)}({keyword.arg}=...)"
                yield Finding.of(Problem("CT1211", cause, hint), path, node.lineno, "warning")


def _calls(node: ast.Call, name: str) -> bool:
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return called.startswith(name)


def _hidden_modules(path: Path) -> Iterator[Finding]:
    """Modules beside the file whose names belong to something installed; that one would be imported."""
    names = {name.split("/")[0].removesuffix(".py") for name in bundle.sources(path)}
    for name in sorted(names):
        found = importlib.util.find_spec(name)
        beside = found and found.origin and Path(found.origin).is_relative_to(path.resolve().parent)
        if name in sys.stdlib_module_names or (found and not beside):
            code = "CT1003" if name == bundle.module_name(path) else "CT1008"
            yield Finding.of(Problem(code, f"{name!r} is also the name of an installed module"), path)


# -- the child's side -------------------------------------------------------------------------------------------------


def _child(path: Path, result: Path) -> None:
    manifests: list[Manifest] = []
    findings: list[Finding] = []
    name = bundle.module_name(path)
    try:
        module = bundle.load_module(path, name)
    except Problem as problem:
        findings.append(Finding.of(problem, *_place(problem, path)))
    except BaseException as error:  # noqa: BLE001 - whatever the user's file raises, SystemExit too, is a finding
        findings.append(_raised(error, path))
    else:
        for model in _models(vars(module), name):
            _compile_one(model, name, path, manifests, findings)
        if not manifests and not findings:
            findings.append(Finding.of(Problem("CT1007", f"{path.name} has no function under @ct.model"), path))
    body = {
        "manifests": [one.model_dump(mode="json") for one in manifests],
        "findings": [asdict(one) for one in findings],
    }
    result.write_text(json.dumps(body))


def _models(names: dict[str, Any], module: str) -> list[Model]:
    """The models the file itself declares, each once, in the order of the file."""
    found = {id(one): one for one in names.values() if isinstance(one, Model) and one.function.__module__ == module}
    return list(found.values())


def _place(error: BaseException, path: Path) -> tuple[Path, int]:
    """File and line of the last frame that is the user's."""
    folder = str(path.resolve().parent)
    frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename.startswith(folder)]
    return (Path(frames[-1].filename), frames[-1].lineno or 0) if frames else (path, 0)


def _raised(error: BaseException, path: Path) -> Finding:
    if isinstance(error, SystemExit):
        return Finding.of(Problem("CT1006", f"it called exit({error.code!r})"), *_place(error, path))
    if isinstance(error, SyntaxError) and error.filename:
        return Finding.of(Problem("CT1002", str(error)), Path(error.filename), error.lineno or 0)
    cause = f"{type(error).__name__}: {error}"[:500]
    return Finding.of(Problem("CT1004", cause, _nearest(error)), *_place(error, path))


def _nearest(error: BaseException) -> str:
    """What a name that does not exist may have been meant to be."""
    if isinstance(error, AttributeError) and error.name:
        return did_you_mean(error.name, dir(error.obj))
    if isinstance(error, NameError) and error.name and error.__traceback__:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        return did_you_mean(error.name, {**frame.f_builtins, **frame.f_globals, **frame.f_locals})
    return ""


def _compile_one(model: Model, module: str, path: Path, manifests: list[Manifest], findings: list[Finding]) -> None:
    line = model.function.__code__.co_firstlineno
    if any(one.model == model.name for one in manifests):
        findings.append(Finding.of(Problem("CT1207", f"{model.name!r} is declared twice"), path, line))
        return
    wrong = list(_wrong_conditions(model, path))
    if wrong:
        findings.extend(wrong)
        return
    manifests.append(manifest_of(model, module))
    findings.extend(Finding.of(one, path, line, level) for one, level in _advice(model.spec))


def _wrong_conditions(model: Model, path: Path) -> Iterator[Finding]:
    """Every one, at its own line."""
    condition = _conditions(model)
    for text in filter(None, (*model.gates, model.retrain_text, model.rollback_text)):
        try:
            condition(text)
        except Problem as problem:
            yield Finding.of(problem, path, model.lines[text])


def _advice(spec: RecordSpec) -> Iterator[tuple[Problem, Level]]:
    if spec.label is None:
        yield Problem("CT1210", f"class of dataset {spec.dataset!r} has no ct.label()"), "warning"
    if spec.time is None:
        yield Problem("CT1212", f"class of dataset {spec.dataset!r} names no time column"), "hint"
    if spec.id_from_content:
        if spec.field("id"):
            yield Problem("CT1213", "column 'id' is learnt from"), "warning"
        elif spec.label:
            yield Problem("CT1213", "rows have no id: a label must come in its row", title="no id column"), "hint"


def manifest_of(model: Model, module: str) -> Manifest:
    """The manifest of a model, without its bundle.

    Raises:
        Problem: CT1206, a condition that cannot be understood.
    """
    settings = model.settings
    condition = _conditions(model)
    return Manifest(
        model=model.name,
        doc=(model.function.__doc__ or "").strip(),
        owner=settings.owner,
        task=task_of(model.spec),
        record=model.spec,
        metric=settings.metric,
        report=settings.report,
        parameters=model.parameters,
        trials=settings.trials if settings.trials and model.ranges else (6 if model.ranges else 1),
        seed=settings.seed,
        time_limit_seconds=settings.time_limit_seconds,
        resources=settings.resources,
        autonomy=settings.autonomy,
        gates=tuple(condition(text) for text in model.gates),
        retrain=RetrainSpec(
            condition=condition(model.retrain_text) if model.retrain_text else None,
            cooldown_seconds=model.cooldown_seconds,
            runs_per_day=settings.runs_per_day,
        ),
        rollback=condition(model.rollback_text) if model.rollback_text else None,
        module=module,
        function=model.name,
        bundle=_NOWHERE,
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
    )


def _conditions(model: Model) -> Callable[[str], ConditionSpec]:
    """How the conditions of a model are compiled: with the names that mean something for it."""
    from ctloop.policy.conditions import ConditionError, compile_condition

    known = frozenset((*REPORTED[task_of(model.spec)], *MEASURED))
    columns = frozenset(one.name for one in model.spec.inputs)

    def compiled(text: str) -> ConditionSpec:
        try:
            return ConditionSpec(text=text, tree=compile_condition(text, known, columns).to_json())
        except ConditionError as error:
            raise Problem("CT1206", str(error), error.hint) from error

    return compiled


if __name__ == "__main__":
    assert CATALOGUE
    _child(Path(sys.argv[1]), Path(sys.argv[2]))
