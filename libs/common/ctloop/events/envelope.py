"""The envelope of every fact (CloudEvents 1.0, binary mode over Kafka headers) and the class payloads extend."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Self
from uuid import UUID, uuid5

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from ctloop.events.errors import UndecodableEvent

JSON = "application/json"
NDJSON = "application/x-ndjson"
ARROW_STREAM = "application/vnd.apache.arrow.stream"

DEFAULT_TENANT = "default"
STRANGERS = UUID("6d7f0b3e-3f0a-5c57-9d0b-0c1f6ce0f7aa")
"""Namespace of the ids we derive for records that bring no UUID of their own."""


def utc(time: datetime) -> datetime:
    """The same instant in UTC.

    Raises:
        ValueError: there it is of no year from 1 to 9999.
    """
    try:
        return time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("beyond the years 1 to 9999 in UTC") from error


Instant = Annotated[AwareDatetime, AfterValidator(utc)]
"""A time of the contract: its zone is UTC, whatever it came in."""


class Value(BaseModel):
    """A frozen value of the contract: unknown fields are ignored on reading, non-finite numbers are refused."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Event(Value):
    """A fact that happened. The class names its topic; the subject (dataset or model) is its key."""

    topic: ClassVar[str]
    """The topic's name without the deployment's prefix, e.g. ``data-landed.v1``."""
    starts_loop: ClassVar[bool] = False
    continues_loop: ClassVar[bool] = True
    """False: a fact about the world, whoever happens to find it; it belongs to no loop, and may cause the next one."""

    @classmethod
    def type(cls) -> str:
        """The CloudEvents type, e.g. ``io.ctloop.data-landed.v1``."""
        return f"io.ctloop.{cls.topic}"

    @property
    def subject(self) -> str:
        """The dataset or the model this fact is about; the part of the key after the tenant."""
        raise TypeError(f"{type(self).__name__} names no subject")

    @property
    def discriminator(self) -> str:
        """Tells apart facts of one type that have the same cause; part of the derived id."""
        return self.subject


class DatasetEvent(Event):
    """A fact about a dataset."""

    dataset: str = Field(description="Name of the dataset, in kebab case.", min_length=1, max_length=200)

    @property
    def subject(self) -> str:
        return self.dataset


class ModelEvent(Event):
    """A fact about a model."""

    model: str = Field(description="Name of the model.", min_length=1, max_length=200)

    @property
    def subject(self) -> str:
        return self.model


class Envelope(Value):
    """What travels in the headers beside the payload."""

    id: UUID = Field(description="Id of the event; with the source it is unique, and the same when it is said again.")
    source: str = Field(description="Who says it, e.g. /ctloop/validation.", max_length=300)
    type: str = Field(description="CloudEvents type, e.g. io.ctloop.data-landed.v1.", max_length=300)
    subject: str = Field(description="Dataset or model.", max_length=300)
    time: Instant = Field(description="When it was said (wall clock, UTC).")
    content_type: str = Field(default=JSON, max_length=200)
    dataschema: str | None = Field(default=None, max_length=500)
    loop_id: UUID | None = Field(default=None, description="The decision this fact belongs to.")
    causation_id: UUID | None = Field(default=None, description="The fact that caused it; the completing one of many.")
    tenant: str = Field(default=DEFAULT_TENANT, max_length=100)
    traceparent: str | None = Field(default=None, max_length=200)

    @property
    def key(self) -> bytes:
        """The Kafka key: tenant, bar, dataset or model."""
        return f"{self.tenant}|{self.subject}".encode()

    def headers(self) -> list[tuple[str, bytes]]:
        """The Kafka headers of CloudEvents' binary mode."""
        named = {
            "ce_specversion": "1.0",
            "ce_id": str(self.id),
            "ce_source": self.source,
            "ce_type": self.type,
            "ce_subject": self.subject,
            "ce_time": self.time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "ce_dataschema": self.dataschema,
            "ce_loopid": self.loop_id and str(self.loop_id),
            "ce_causationid": self.causation_id and str(self.causation_id),
            "ce_tenant": self.tenant,
            "content-type": self.content_type,
            "traceparent": self.traceparent,
        }
        return [(name, value.encode()) for name, value in named.items() if value]

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> Self:
        """Read the headers of one record (names in lower case).

        Raises:
            UndecodableEvent: the headers are not a CloudEvents envelope of ours.
        """
        fields: dict[str, Any] = {
            name: headers.get(header)
            for name, header in {
                "id": "ce_id",
                "source": "ce_source",
                "type": "ce_type",
                "subject": "ce_subject",
                "time": "ce_time",
                "dataschema": "ce_dataschema",
                "loop_id": "ce_loopid",
                "causation_id": "ce_causationid",
                "tenant": "ce_tenant",
                "content_type": "content-type",
                "traceparent": "traceparent",
            }.items()
        }
        try:
            return cls.model_validate({name: value for name, value in fields.items() if value is not None})
        except ValidationError as error:
            raise UndecodableEvent(f"envelope: {first_problem(error)}") from error


def first_problem(error: ValidationError) -> str:
    """The first finding of a validation, as one line without the value itself."""
    found = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(str(part) for part in found['loc']) or 'body'}: {found['msg']}"


def decode_headers(raw: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """Kafka headers as text; never raises: null is empty, wrong UTF-8 is replaced, the last of a name wins."""
    return {name.lower(): (value or b"").decode("utf-8", "replace") for name, value in raw}


def derived_id(cause: UUID, type: str, discriminator: str) -> UUID:
    """The id of a fact that has one cause: a redelivery of the cause says the same fact again."""
    return uuid5(cause, f"{type}|{discriminator}")


def stranger_id(source: str, id: str | None, *, topic: str, partition: int, offset: int, timestamp_ms: int) -> UUID:
    """The id of a record from outside: its own when it is a UUID, else derived from what names it for good.

    Kafka keeps a record's timestamp, so it tells records of a topic that was made anew from those under the same offsets before.
    """
    if not id:
        return uuid5(STRANGERS, f"{topic}|{partition}|{offset}|{timestamp_ms}")
    try:
        return UUID(id)
    except ValueError:
        return uuid5(STRANGERS, f"{source}|{id}")
