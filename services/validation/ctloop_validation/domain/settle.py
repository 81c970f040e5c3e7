"""The second pass: ids over the batch and all batches before it decide what is new, a repeat, a correction or a clash."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ctloop_validation.domain.reading import Mask
from ctloop_validation.domain.rules import Findings

Rows = npt.NDArray[np.int64]
ID_REUSED = "id-reused: this id came before with other content"


@dataclass(frozen=True)
class Settled:
    """Rows of the batch by what becomes of them."""

    records: Rows
    duplicates: int
    labels: Rows


def settle(
    ids: Sequence[str | None],
    record_digests: Sequence[bytes],
    label_digests: Sequence[bytes],
    masks: tuple[Mask, Mask],
    findings: Findings,
    known_records: Mapping[str, bytes],
    known_labels: Mapping[str, bytes],
) -> Settled:
    """Decide over ids, in order of arrival. ``masks``: rows that bring a record, rows that bring a label.

    A record whose id is known is dropped when its content is the same, else it is quarantined as id-reused, its label
    with it. A label is dropped when it repeats the newest label of its id; otherwise it is a first one or a correction.
    """
    brings_record, brings_label = masks
    known, seen_labels = dict(known_records), dict(known_labels)
    records: list[int] = []
    labels: list[int] = []
    duplicates = 0
    reused = np.zeros(len(ids), np.bool_)
    for row in np.flatnonzero(~findings.broken).tolist():
        id = ids[row]
        assert id is not None, "a row without id breaks a rule"
        if brings_record[row]:
            before = known.get(id)
            if before is None:
                known[id] = record_digests[row]
                records.append(row)
            elif before == record_digests[row]:
                duplicates += 1
            else:
                reused[row] = True
                continue
        if brings_label[row] and seen_labels.get(id) != label_digests[row]:
            seen_labels[id] = label_digests[row]
            labels.append(row)
    findings.add(ID_REUSED, reused)
    return Settled(np.array(records, np.int64), duplicates, np.array(labels, np.int64))


def newest(ids: Sequence[Any], digests: Sequence[bytes]) -> tuple[list[str], list[bytes]]:
    """The last digest of each id."""
    last = dict(zip(ids, digests, strict=True))
    return list(last), list(last.values())
