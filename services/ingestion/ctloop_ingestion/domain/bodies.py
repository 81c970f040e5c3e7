"""Bodies of arrivals: Arrow streams, NDJSON, references. Read, counted, split; never a Python object per Arrow row."""

import io
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from ctloop.events.envelope import ARROW_STREAM, JSON, NDJSON, first_problem
from ctloop.events.errors import TooLarge, Truncated, UndecodableEvent, UnsupportedFormat
from ctloop.events.values import ObjectRef
from ctloop_ingestion.domain.growth import bounded, check_bytes, check_rows, grown, sentence

REFERENCE_BYTES = 256 << 20
FORMATS = {ARROW_STREAM: "arrow", NDJSON: "ndjson", JSON: "reference"}
REFERENCED = ("parquet", "arrow", "ndjson")
BROKEN = (pa.ArrowException, OSError, EOFError, ValueError, TypeError, OverflowError)
"""What reading hostile bytes raises; a name that is not UTF-8 is a ValueError."""


def format_of(content_type: str) -> str:
    """arrow, ndjson or reference.

    Raises:
        UnsupportedFormat
    """
    found = FORMATS.get(content_type.partition(";")[0].strip().lower())
    if found is None:
        raise UnsupportedFormat(f"content-type {content_type[:100]!r}: send one of {', '.join(FORMATS)}")
    return found


def count_rows(format: str, body: bytes) -> tuple[int, int]:
    """Rows of an arrival, and its bytes once it is written out, after a look that finds what can never be read.

    Raises:
        Truncated, SchemaMismatch, TooLarge, UndecodableEvent, UnsupportedFormat
    """
    if format == "reference":
        return 0, reference(body).bytes
    if format == "ndjson":
        rows, size = body.count(b"\n") + 1, len(body)
    else:
        table = read_arrow(body)
        rows, size = table.num_rows, max(len(body), table.nbytes)
    check_rows(rows)
    return rows, size


def reference(body: bytes) -> ObjectRef:
    """The reference to an object.

    Raises:
        UndecodableEvent, UnsupportedFormat, TooLarge
    """
    try:
        ref = ObjectRef.model_validate_json(body)
    except ValidationError as error:
        raise UndecodableEvent(f"reference {{uri, sha256, bytes, format}}: {first_problem(error)}") from error
    if ref.format not in REFERENCED:
        raise UnsupportedFormat(f"format {ref.format!r} of the reference: one of {', '.join(REFERENCED)}")
    if ref.bytes > REFERENCE_BYTES:
        raise TooLarge(f"the object has {ref.bytes} bytes; at most {REFERENCE_BYTES}: split it")
    return ref


def read_arrow(body: bytes) -> pa.Table:
    """The table of an Arrow stream, written out, and checked in full: a hostile buffer must not be followed.

    Raises:
        Truncated: it ends early or is no Arrow stream. SchemaMismatch: columns no record class has. TooLarge
    """
    check_bytes(grown(body))
    try:
        table = pa.ipc.open_stream(body).read_all()
        table.validate(full=True)
        if body[-8:] != b"\xff\xff\xff\xff\0\0\0\0":
            raise Truncated("the Arrow stream has no end mark: it was cut between two batches")
        return bounded(table)
    except BROKEN as error:
        raise Truncated(f"not a whole Arrow stream: {sentence(error)}") from error


def read_parquet(body: bytes) -> pa.Table:
    """The table of a Parquet file, written out.

    Raises:
        Truncated, SchemaMismatch, TooLarge
    """
    try:
        file = pq.ParquetFile(io.BytesIO(body))
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        check_rows(file.metadata.num_rows)
        check_bytes(sum(group.total_byte_size for group in groups))
        texts = [field.name for field in file.schema_arrow if pa.types.is_string(field.type)]
        table = pq.read_table(io.BytesIO(body), read_dictionary=texts)  # a word that is named often stays one word
        table.validate(full=True)
        return bounded(table)
    except BROKEN as error:
        raise Truncated(f"not a whole Parquet file: {sentence(error)}") from error


def size_read(format: str, body: bytes) -> int:
    """Bytes a body takes once it is read, told before it is.

    Raises:
        Truncated, TooLarge
    """
    size = max(len(body), grown(body)) if format == "arrow" else len(body)
    check_bytes(size)
    return size


def split_ndjson(body: bytes, limit: int) -> Iterator[bytes]:
    """Parts of at most ``limit`` bytes, cut between lines.

    Raises:
        TooLarge: a single line is longer.
    """
    start = 0
    while start < len(body):
        if len(body) - start <= limit:
            end = len(body)
        else:
            end = body.rfind(b"\n", start, start + limit) + 1
            if end == 0:
                raise TooLarge(f"one line has more than {limit} bytes")
        yield body[start:end]
        start = end


def split_arrow(table: pa.Table, limit: int) -> Iterator[bytes]:
    """Arrow streams of at most ``limit`` bytes, split by rows.

    Raises:
        TooLarge: a single row is larger.
    """
    body = write_arrow(table)
    if len(body) <= limit or table.num_rows <= 1:
        if len(body) > limit:
            raise TooLarge(f"one row has {len(body)} bytes; at most {limit}")
        yield body
        return
    step = max(1, min(table.num_rows // 2, int(table.num_rows * limit * 0.9 / len(body))))
    for first in range(0, table.num_rows, step):
        yield from split_arrow(table.slice(first, step).combine_chunks(), limit)


def rows_in(format: str, body: bytes) -> int:
    """How many rows a body of the door's own splitting has; a reference says nothing of that.

    >>> rows_in("ndjson", b"{}\\n{}\\n"), rows_in("reference", b"{}")
    (2, 0)
    """
    if format == "arrow":
        return sum(batch.num_rows for batch in pa.ipc.open_stream(body))
    return body.count(b"\n") if format == "ndjson" else 0


def write_arrow(table: pa.Table) -> bytes:
    """The table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    value: Any = sink.getvalue()
    return value.to_pybytes()
