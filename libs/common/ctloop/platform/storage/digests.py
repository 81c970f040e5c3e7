"""Digests of rows and datasets: vectorised, independent of the order of rows, of files and of compaction.

Not cryptographic: two lanes of 64 bits that tell content apart, not a defence against a producer who forges collisions
with its own data. A column that is null adds nothing, so a column that is added later leaves old digests as they are.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Lanes = npt.NDArray[np.uint64]
"""Shape [N, 2]: one digest of 128 bits per row."""

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
SLICE_BYTES = 1 << 20
"""Of text that is hashed at once: bounds the memory, eight times as much per intermediate."""


@dataclass(frozen=True)
class DatasetDigest:
    """The running digest of a dataset: the sum of its rows' digests and their number."""

    first: int = 0
    second: int = 0
    rows: int = 0

    def add(self, lanes: Lanes) -> "DatasetDigest":
        """With more rows; the order in which they come makes no difference."""
        first, second = (int(lane) for lane in lanes.sum(axis=0, dtype=np.uint64))
        return self.plus(first, second, len(lanes))

    def plus(self, first: int, second: int, rows: int) -> "DatasetDigest":
        """With the sums of another part of the dataset."""
        return DatasetDigest((self.first + first) % 2**64, (self.second + second) % 2**64, self.rows + rows)

    def hex(self, schema: str) -> str:
        """What names the dataset version: sha256 of the sums, the count and the schema, in hex."""
        return hashlib.sha256(f"{self.first:016x}{self.second:016x}|{self.rows}|{schema}".encode()).hexdigest()


def row_digests(table: pa.Table, tag: str = "") -> Lanes:
    """One digest per row over all columns; ``tag`` tells records and labels apart."""
    total = np.zeros((table.num_rows, 2), np.uint64)
    for name in table.column_names:
        column: Any = table.column(name)
        words = _words(column.combine_chunks() if column.num_chunks != 1 else column.chunk(0))
        present = column.is_valid().to_numpy(zero_copy_only=False)
        for lane in (0, 1):
            seed = _seed(f"{tag}|{lane}|{name}")
            total[:, lane] += np.where(present, _mix(words[:, lane] ^ seed), np.uint64(0))
    return _mix(total)


def lanes_to_bytes(lanes: Lanes) -> list[bytes]:
    """16 bytes per row, for a database."""
    body = np.ascontiguousarray(lanes).tobytes()
    return [body[start : start + 16] for start in range(0, len(body), 16)]


def schema_text(table: pa.Table) -> str:
    """Names and types in their order."""
    return ",".join(f"{field.name}:{field.type}" for field in table.schema)


def _seed(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big"))


def _mix(words: Lanes) -> Lanes:
    """The finalizer of splitmix64 (Steele, Lea, Flood 2014): a bijection that spreads every bit."""
    words = words + GOLDEN
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _words(column: Any) -> Lanes:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        parts = [_text_words(part) for part in _slices(column.cast(pa.large_string()))]
        return np.concatenate(parts) if parts else np.zeros((0, 2), np.uint64)
    if pa.types.is_list(column.type):
        return _words(pa.array([None if one is None else repr(one) for one in column.to_pylist()], pa.string()))
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int64())
    if pa.types.is_floating(column.type):
        values = column.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False) + 0.0  # -0.0 is 0.0
        words = values.view(np.uint64)
    else:
        words = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False).view(np.uint64)
    return np.stack([words, words], axis=1)


def _slices(column: Any) -> Iterator[Any]:
    rows = len(column)
    step = max(1, int(rows * SLICE_BYTES / max(column.nbytes, 1)))
    for start in range(0, rows, step):
        yield column.slice(start, step)


def _text_words(column: Any) -> Lanes:
    """Multilinear hash of each string: the sum over its bytes of (mixed byte x mixed position)."""
    _, offsets_buffer, data_buffer = column.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64)[column.offset : column.offset + len(column) + 1]
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.zeros(0, np.uint8)
    data = data[offsets[0] : offsets[-1]]
    offsets = offsets - offsets[0]
    lengths = np.diff(offsets)
    position = (np.arange(len(data)) - np.repeat(offsets[:-1], lengths)).astype(np.uint64)
    byte_words = _mix(np.arange(1, 257, dtype=np.uint64))
    words = np.empty((len(column), 2), np.uint64)
    for lane in (0, 1):
        weights = _mix(position * np.uint64(2) + np.uint64(lane)) | np.uint64(1)
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(byte_words[data] * weights, dtype=np.uint64)])
        words[:, lane] = sums[offsets[1:]] - sums[offsets[:-1]] + lengths.astype(np.uint64)
    return words
