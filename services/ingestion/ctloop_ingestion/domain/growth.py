"""How large a body becomes when it is read, told before it is: a few bytes may stand for many gigabytes.

Arrow grows in two ways. Its buffers may be compressed; each says in front how large it was, and the message's metadata
(a flatbuffer, verified when the message is read) says where the buffers are. And encodings (dictionary, run-end, views)
name one long value many times; written out each row has it.
"""

import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ctloop.events.errors import SchemaMismatch, TooLarge, Truncated

pc: Any = pyarrow.compute  # its functions are made at import and have no types

GROWN_BYTES = 256 << 20
"""Largest arrival once it is written out, in bytes."""
ROWS = 2_000_000
"""Most rows of an arrival: rows of nothing but nulls take no bytes at all."""
COLUMNS = 1000
HEADER, BATCH_OF_DICTIONARY, BUFFERS, COMPRESSION = 2, 1, 2, 3
"""Slots of the tables Message, DictionaryBatch and RecordBatch (arrow/format/Message.fbs)."""
AS_IT_IS = -1


def grown(body: bytes) -> int:
    """Bytes of an Arrow stream once its buffers are decompressed.

    Raises:
        Truncated: it ends early or is no Arrow stream.
    """
    try:
        return sum(_grown(message) for message in pa.ipc.MessageReader.open_stream(pa.py_buffer(body)))
    except (pa.ArrowException, OSError, EOFError, ValueError, struct.error) as error:
        raise Truncated(f"not a whole Arrow stream: {sentence(error)}") from error


def _grown(message: Any) -> int:
    if message.type == "schema":
        return 0
    metadata = message.metadata.to_pybytes()
    batch = _follow(metadata, _field(metadata, _root(metadata), HEADER))
    if message.type == "dictionary":
        batch = _follow(metadata, _field(metadata, batch, BATCH_OF_DICTIONARY))
    buffers = _field(metadata, batch, BUFFERS)
    if _field(metadata, batch, COMPRESSION) is None or buffers is None:
        return message.body.size
    vector = _follow(metadata, buffers)
    (count,) = struct.unpack_from("<I", metadata, vector)
    total = 0
    for number in range(count):
        offset, length = struct.unpack_from("<qq", metadata, vector + 4 + 16 * number)
        if length:
            (before,) = struct.unpack_from("<q", message.body, offset)
            if before < AS_IT_IS:
                raise Truncated(f"not a whole Arrow stream: a buffer of {before} bytes")
            total += length if before == AS_IT_IS else before
    return total


def _root(metadata: bytes) -> int:
    return _follow(metadata, 0)


def _follow(metadata: bytes, place: int | None) -> int:
    """Where an offset leads; it counts from itself."""
    if place is None:
        raise Truncated("not a whole Arrow stream: a message without its header")
    return place + struct.unpack_from("<I", metadata, place)[0]


def _field(metadata: bytes, table: int, slot: int) -> int | None:
    """Where a table's field is; None: it is left out."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    (size,) = struct.unpack_from("<H", metadata, vtable)
    entry = 4 + 2 * slot
    offset = struct.unpack_from("<H", metadata, vtable + entry)[0] if entry < size else 0
    return table + offset if offset else None


def bounded(table: pa.Table) -> pa.Table:
    """The table written out, dictionaries and runs decoded, if it is of a size we take.

    Raises:
        TooLarge, SchemaMismatch: columns no record class has.
    """
    if table.num_columns > COLUMNS or len(set(table.column_names)) != table.num_columns:
        raise SchemaMismatch(f"{table.num_columns} columns; at most {COLUMNS}, each name once")
    check_rows(table.num_rows)
    check_bytes(sum(_written_out(chunk) for column in table.columns for chunk in column.chunks))
    return pa.table({name: _decoded(table.column(name)) for name in table.column_names})


def check_rows(rows: int) -> None:
    """Raises TooLarge."""
    if rows > ROWS:
        raise TooLarge(f"{rows} rows; at most {ROWS} in one arrival: split it")


def check_bytes(size: int) -> None:
    """Raises TooLarge."""
    if size > GROWN_BYTES:
        raise TooLarge(f"{size} bytes once it is written out; at most {GROWN_BYTES}: split it")


def _written_out(chunk: Any) -> int:
    """Bytes of an array with every row's own value."""
    kind = pa.types
    if kind.is_dictionary(chunk.type):
        values = chunk.dictionary
        if kind.is_string(values.type) or kind.is_large_string(values.type):
            return pc.sum(pc.take(pc.binary_length(values), chunk.indices).cast(pa.int64())).as_py() or 0
        return len(chunk) * _widest(values)
    if kind.is_run_end_encoded(chunk.type):
        return len(chunk) * _widest(chunk.values)
    if kind.is_string_view(chunk.type) or kind.is_binary_view(chunk.type):
        return _views(chunk)
    if kind.is_nested(chunk.type) and not kind.is_list(chunk.type):
        return len(chunk) * _widest(chunk)
    return chunk.nbytes


def _widest(values: Any) -> int:
    """No value is larger than all together; plain numbers have one size."""
    return max(1, values.type.bit_width // 8) if pa.types.is_primitive(values.type) else values.nbytes


def _views(chunk: Any) -> int:
    """Each view of 16 bytes begins with its length."""
    lengths = np.frombuffer(chunk.buffers()[1], np.int32)[::4][chunk.offset : chunk.offset + len(chunk)]
    return int(lengths[chunk.is_valid().to_numpy(zero_copy_only=False)].astype(np.int64).sum()) + chunk.nbytes


def _decoded(column: Any) -> Any:
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    if pa.types.is_run_end_encoded(column.type):
        return pc.run_end_decode(column)
    return column


def sentence(error: Exception) -> str:
    """The first line of a library's error."""
    return str(error).partition("\n")[0][:300]
