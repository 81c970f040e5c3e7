"""Arrow streams made to grow, and other bodies nobody honest sends."""

import struct
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from ctloop_ingestion.domain import growth


def stream(table: pa.Table, codec: str | None = None) -> bytes:
    """An Arrow stream, its buffers compressed."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def compressed(codec: str) -> bytes:
    """60 MiB of one letter."""
    return stream(pa.table({"id": ["a" * (20 << 20)] * 3}), codec)


def claims(size: int) -> bytes:
    """A compressed buffer that says of itself that it was so large."""
    body = bytearray(stream(pa.table({"x": np.zeros(4096)}), "zstd"))
    place = body.index(struct.pack("<q", 4096 * 8))
    body[place : place + 8] = struct.pack("<q", size)
    return bytes(body)


def dictionary() -> bytes:
    """A word of 200 kB that half a million rows name."""
    return stream(
        pa.table({"id": pa.DictionaryArray.from_arrays(np.zeros(500_000, np.int8), pa.array(["a" * 200_000]))})
    )


def runs() -> bytes:
    """One word of 100 kB, a million times."""
    return stream(pa.table({"id": pa.RunEndEncodedArray.from_arrays(pa.array([1 << 20], pa.int32()), ["a" * 100_000])}))


def views() -> bytes:
    """Fifty thousand views of one word of 100 kB: an IPC writer copies the buffer once, the views stay views."""
    one = pa.array(["a" * 100_000], pa.string_view()).buffers()
    view = one[1].to_pybytes()[:16]
    column = pa.Array.from_buffers(pa.string_view(), 50_000, [None, pa.py_buffer(view * 50_000), one[2]])
    return stream(pa.table({"id": column}))


def list_views() -> bytes:
    """Every row is the whole list."""
    values = pa.array(np.zeros(10_000))
    rows = pa.ListViewArray.from_arrays(np.zeros(50_000, np.int32), np.full(50_000, 10_000, np.int32), values)
    return stream(pa.table({"id": rows}))


BOMBS: dict[str, Callable[[], bytes]] = {
    "zstd": lambda: compressed("zstd"),
    "lz4": lambda: compressed("lz4"),
    "a claim of 2^62 bytes": lambda: claims(1 << 62),
    "dictionary": dictionary,
    "runs": runs,
    "views": views,
    "list views": list_views,
    "rows of nulls": lambda: stream(pa.table({"id": pa.nulls(growth.ROWS + 1)})),
    "lines of nothing": lambda: b"\n" * (growth.ROWS + 1),
}
