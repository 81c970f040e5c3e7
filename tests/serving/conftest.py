"""A small real ONNX model, its pointer and manifest, and a serving replica around it."""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import httpx
import numpy as np
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from ctloop.events.errors import TransientError
from ctloop.events.manifest import FieldSpec, Manifest, RecordSpec
from ctloop.events.pointer import ChampionPointer
from ctloop.events.values import Column, DatasetVersion, ObjectRef, Parity, Signature, TrafficShare, Window
from ctloop.onnx_export import Exported, golden
from ctloop_serving.batcher import Batcher
from ctloop_serving.capture import Capture
from ctloop_serving.deployments import Deployments
from ctloop_serving.kafka_facts import KafkaFacts
from ctloop_serving.model_cache import ModelCache
from ctloop_serving.protocol import InferenceProtocol
from ctloop_serving.registry_http import RegistryHttp
from ctloop_serving.rollout import Rollout

NAMESPACE = UUID("7b0d8f0e-7d0a-4d55-9d0f-0d4c1f2a3b4c")
NOWHERE = "127.0.0.1:1"
"""An address nobody listens on: Kafka, or the registry, is down."""
MODEL = "weather-delays"
SIGNATURE = Signature(
    inputs=(
        Column(name="temp", kind="number"),
        Column(name="windy", kind="boolean"),
        Column(name="carrier", kind="text"),
        Column(name="departs", kind="time"),
    ),
    outputs=(Column(name="label", kind="number"), Column(name="probabilities", kind="number")),
    classes=("false", "true"),
)
RECORD = RecordSpec(
    dataset="weather-delay",
    id="flight",
    time="departs",
    fields=(
        FieldSpec(name="flight", kind="string"),
        FieldSpec(name="departs", kind="time"),
        FieldSpec(name="temp", kind="number", nullable=True),
        FieldSpec(name="windy", kind="boolean", nullable=True),
        FieldSpec(name="carrier", kind="string"),
    ),
    label=FieldSpec(name="late", kind="boolean"),
)
MANIFEST = Manifest(
    model=MODEL,
    task="classification",
    record=RECORD,
    metric="log_loss",
    module="weather",
    function="weather_delays",
    bundle=ObjectRef(uri="s3://ctloop/bundle", sha256="0" * 64, bytes=1, format="zip"),
    python="3.11",
)
ROW = {"flight": "UA1", "departs": "2013-05-14T06:30:00Z", "temp": 12.5, "windy": True, "carrier": "UA"}


def onnx_model(bias: float) -> bytes:
    """p(late) = sigmoid(temp / 100 + windy + carrier + bias), missing numbers are 0, UA is 1 and AA is 2."""
    number, text, time = TensorProto.FLOAT, TensorProto.STRING, TensorProto.INT64
    nodes = [
        helper.make_node("IsNaN", ["temp"], ["temp_missing"]),
        helper.make_node("Where", ["temp_missing", "zero", "temp"], ["temp_filled"]),
        helper.make_node("Mul", ["temp_filled", "hundredth"], ["temp_part"]),
        helper.make_node("IsNaN", ["windy"], ["windy_missing"]),
        helper.make_node("Where", ["windy_missing", "zero", "windy"], ["windy_part"]),
        helper.make_node(
            "LabelEncoder", ["carrier"], ["carrier_part"], domain="ai.onnx.ml",
            keys_strings=["UA", "AA"], values_floats=[1.0, 2.0], default_float=0.0,
        ),
        helper.make_node("Cast", ["departs"], ["departs_number"], to=number),
        helper.make_node("Mul", ["departs_number", "zero"], ["departs_part"]),
        helper.make_node("Sum", ["temp_part", "windy_part", "carrier_part", "departs_part", "bias"], ["z"]),
        helper.make_node("Sigmoid", ["z"], ["yes"]),
        helper.make_node("Sub", ["one", "yes"], ["no"]),
        helper.make_node("Concat", ["no", "yes"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]  # fmt: skip
    constants = {"zero": 0.0, "one": 1.0, "hundredth": 0.01, "bias": bias}
    graph = helper.make_graph(
        nodes,
        "weather",
        [
            helper.make_tensor_value_info(name, kind, [None, 1])
            for name, kind in {"temp": number, "windy": number, "carrier": text, "departs": time}.items()
        ],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("probabilities", number, [None, 2]),
        ],
        [helper.make_tensor(name, number, [1], [value]) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def golden_of(body: bytes, departs: datetime = datetime(2013, 5, 14, tzinfo=UTC)) -> bytes:
    """Golden inputs and outputs of a model, in the form the exporter writes."""
    table = pa.table(
        {
            "temp": pa.array([1.0, None, 30.0], pa.float64()),
            "windy": pa.array([True, False, None]),
            "carrier": pa.array(["UA", "AA", "XX"]),
            "departs": pa.array([departs] * 3, pa.timestamp("us", "UTC")),
        }
    )
    parity = Parity(rows=3, largest_difference=0.0, flipped=0)
    return golden(Exported(body, SIGNATURE, parity), table)


def ref(body: bytes, format: str) -> ObjectRef:
    """A reference to bytes in the store of these tests."""
    sha256 = hashlib.sha256(body).hexdigest()
    return ObjectRef(uri=f"s3://ctloop/{sha256}", sha256=sha256, bytes=len(body), format=format)


def probability(bias: float, temp: float = 0.0, windy: float = 0.0, carrier: float = 0.0) -> float:
    """What the model must say."""
    return float(1 / (1 + np.exp(-(temp / 100 + windy + carrier + bias))))


@dataclass
class ObjectFolder:
    """Objects by reference; when it is down nothing can be read."""

    held: dict[str, bytes] = field(default_factory=dict[str, bytes])
    down: bool = False

    def put(self, body: bytes, format: str) -> ObjectRef:
        found = ref(body, format)
        self.held[found.sha256] = body
        return found

    async def get(self, ref: ObjectRef) -> bytes:
        if self.down:
            raise TransientError("the object store is down")
        return self.held[ref.sha256]


def promote(objects: ObjectFolder, version: int, epoch: int) -> ChampionPointer:
    """The pointer after a promotion; version n has bias n / 10."""
    body = onnx_model(version / 10)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return ChampionPointer(
        model=MODEL,
        version=version,
        run_id=uuid5(NAMESPACE, f"run {version}"),
        digest=hashlib.sha256(body).hexdigest(),
        onnx=objects.put(body, "onnx"),
        golden=objects.put(golden_of(body), "arrow"),
        signature=SIGNATURE,
        pipeline_digest=MANIFEST.digest,
        epoch=epoch,
        dataset=RECORD.dataset,
        dataset_version=DatasetVersion(n=1, digest="d", records_version=0, labels_version=0),
        training_window=Window(start=now, end=now, rows=100),
        metrics=(),
        traffic=(TrafficShare(version=version, percent=100),),
        data_time=now,
        event_id=uuid5(NAMESPACE, f"promotion {epoch}"),
        loop_id=uuid5(NAMESPACE, f"loop {epoch}"),
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        since=now,
    )


@dataclass
class Replica:
    """One serving replica with nothing else running beside it but the test's objects."""

    objects: ObjectFolder
    deployments: Deployments
    rollout: Rollout
    capture: Capture
    protocol: InferenceProtocol
    cache: ModelCache
    registry: RegistryHttp
    facts: KafkaFacts
    client: httpx.AsyncClient

    async def deploy(self, version: int, epoch: int) -> ChampionPointer:
        pointer = promote(self.objects, version, epoch)
        await self.rollout.deploy(pointer)
        return pointer


def replica_on(
    folder: Path,
    objects: ObjectFolder,
    *,
    kafka: str = NOWHERE,
    prefix: str = "",
    registry: str = f"http://{NOWHERE}",
    cached: bool = True,
) -> Replica:
    """A replica whose disk cache is this folder."""
    facts, deployments = KafkaFacts(kafka, prefix, "serving-0"), Deployments()
    http = RegistryHttp(registry)
    cache = ModelCache(folder)
    if cached:
        cache.keep_manifest(MANIFEST.digest, MANIFEST)
    rollout = Rollout(
        registry=http,
        objects=objects,
        cache=cache,
        deployments=deployments,
        facts=facts,
        replica="serving-0",
        clock=lambda: datetime.now(UTC),
    )
    capture = Capture(facts, lambda: datetime.now(UTC))
    protocol = InferenceProtocol(
        deployments=deployments, batcher=Batcher(), capture=capture, registry=http, clock=lambda: datetime.now(UTC)
    )
    client = httpx.AsyncClient(transport=httpx.ASGITransport(protocol), base_url="http://serving")  # type: ignore[arg-type]
    return Replica(objects, deployments, rollout, capture, protocol, cache, http, facts, client)


@pytest.fixture
def row() -> dict[str, Any]:
    """A row every model of these tests can answer."""
    return dict(ROW)


@pytest.fixture
def says() -> Callable[..., float]:
    """What the model of a bias must say: probability(bias, temp, windy, carrier)."""
    return probability


@pytest.fixture
def replica_at() -> Callable[..., Replica]:
    """Makes a replica on a folder: replica_at(folder, objects, kafka=..., registry=...)."""
    return replica_on


@pytest.fixture
def promoted() -> Callable[..., ChampionPointer]:
    """Makes a version and the pointer after its promotion: promoted(objects, version, epoch)."""
    return promote


@pytest.fixture
def manifest() -> Manifest:
    """The manifest of every model of these tests."""
    return MANIFEST


@pytest.fixture
def objects() -> Iterator[ObjectFolder]:
    yield ObjectFolder()


@pytest.fixture
async def replica(tmp_path: Path, objects: ObjectFolder) -> AsyncIterator[Replica]:
    """A replica that answers with version 1 under epoch 1."""
    made = replica_on(tmp_path / "models", objects)
    await made.deploy(1, 1)
    yield made
    await made.client.aclose()
    await made.rollout.close()
