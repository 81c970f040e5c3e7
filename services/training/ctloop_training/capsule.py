"""The capsule: everything needed to make the same model again, as JSON beside it."""

import hashlib
import json
import os
import platform
import sys
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from ctloop.events.values import ObjectRef, Window
from ctloop_training.run_spec import RunSpec, Trial


@cache
def environment_digest() -> str:
    """sha256 of the sorted names and versions of what is installed, Python included."""
    installed = {f"{one.metadata['Name']}=={one.version}" for one in distributions()}
    text = "\n".join([f"python=={platform.python_version()}", *sorted(installed)])
    return hashlib.sha256(text.encode()).hexdigest()


def hardware() -> dict[str, Any]:
    """What it ran on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"machine": platform.machine(), "cpus": os.cpu_count(), "memory_bytes": memory, "processor": processor()}


def processor() -> str:
    """The processor's name, where the system says it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def capsule(spec: RunSpec, best: Trial, training: Window, gate: Window, onnx: ObjectRef) -> bytes:
    """Canonical JSON."""
    body = {
        "run_id": str(spec.run_id),
        "model": spec.manifest.model,
        "cause": {"decision_id": str(spec.decision_id), "why": spec.cause, "facts": [str(one) for one in spec.causes]},
        "data": {
            "dataset": spec.manifest.record.dataset,
            "version": spec.dataset_version.model_dump(mode="json"),
            "as_of": spec.data_time.isoformat(),
            "query": {
                "since": spec.window.start.isoformat(),
                "until": spec.window.end.isoformat(),
                "max_rows": spec.max_rows,
            },
            "training_window": training.model_dump(mode="json"),
            "gate_window": gate.model_dump(mode="json"),
        },
        "code": {"bundle": spec.manifest.bundle.sha256, "manifest": spec.pipeline_digest},
        "params": dict(best.params),
        "seeds": {"manifest": spec.manifest.seed, "search": f"seed + trial number; best trial {best.number}"},
        "environment": {"digest": environment_digest(), "python": sys.version.split()[0]},
        "hardware": hardware(),
        "onnx_sha256": onnx.sha256,
    }
    return json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False).encode()
