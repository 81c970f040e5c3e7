"""The suite a record class is: each rule a mask over all rows at once, named as the record class says it."""

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from ctloop.events.manifest import FieldSpec, RecordSpec
from ctloop_validation.domain.reading import WORDS, Column, Mask, compute, mask

ID_LENGTH = 500
"""Of an id, in characters: it is indexed."""
TEXT_LENGTH = 100_000
OPERATORS = (
    ("gt", "less_equal", "greater than"),
    ("ge", "less", "at least"),
    ("lt", "greater_equal", "less than"),
    ("le", "greater", "at most"),
)


def broken_rules(column: Column, field: FieldSpec, *, is_id: bool = False) -> Iterator[tuple[str, Mask]]:
    """The rules of one column and the rows that break them; a null breaks none but nullability."""
    yield f"{field.name}: not {WORDS[field.kind]}{' or not finite' if field.kind == 'number' else ''}", column.bad
    if not field.nullable or is_id:
        yield f"{field.name}: missing", column.missing
    if field.kind == "string":
        yield from _text_rules(column, field, ID_LENGTH if is_id else field.max_length or TEXT_LENGTH)
    if field.allowed is not None:
        allowed = pa.array(list(field.allowed), column.values.type)
        import pyarrow.compute as pc

        known = mask(compute("is_in", column.values, options=pc.SetLookupOptions(allowed)))
        yield (
            f"{field.name}: not one of {', '.join(map(str, field.allowed))[:200]}",
            ~known & mask(column.values.is_valid()),
        )
    if field.kind in ("integer", "number"):
        for name, opposite, words in OPERATORS:
            if (bound := getattr(field, name)) is not None:
                outside = mask(compute(opposite, column.values.cast(pa.float64(), safe=False), pa.scalar(float(bound))))
                yield f"{field.name}: {words} {bound:g}", outside


def _text_rules(column: Column, field: FieldSpec, longest: int) -> Iterator[tuple[str, Mask]]:
    import pyarrow.compute as pc

    nul = compute("match_substring", column.values, options=pc.MatchSubstringOptions("\0"))
    yield f"{field.name}: a NUL character", mask(nul)
    too_long = compute("greater", compute("utf8_length", column.values), pa.scalar(longest))
    yield f"{field.name}: longer than {longest} characters", mask(too_long)


def time_bounds(column: Column, record: RecordSpec) -> Iterator[tuple[str, Mask]]:
    """Event times the record class rules out."""
    for bound, opposite, words in ((record.earliest, "less", "before"), (record.latest, "greater", "after")):
        if bound is not None:
            outside = compute(opposite, column.values, pa.scalar(_utc(bound), pa.timestamp("us", "UTC")))
            yield f"{record.time}: {words} {bound}", mask(outside)


def _utc(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


class Findings:
    """Which rules each row breaks, in the order the rules were asked."""

    def __init__(self, rows: int) -> None:
        self.rules: list[tuple[str, Mask]] = []
        self.broken: Mask = np.zeros(rows, np.bool_)

    def add(self, rule: str, rows: Mask) -> None:
        if rows.any():
            self.rules.append((rule, rows))
            self.broken = self.broken | rows

    def counts(self) -> list[tuple[str, int]]:
        """Rows by the first rule they break: the counts add up to the rows in quarantine."""
        taken = np.zeros(len(self.broken), np.bool_)
        found: dict[str, int] = {}
        for rule, rows in self.rules:
            if first := int((rows & ~taken).sum()):
                found[rule] = found.get(rule, 0) + first
            taken |= rows
        return list(found.items())

    def reasons(self, row: int) -> tuple[str, ...]:
        """Every rule a row breaks."""
        return tuple(rule for rule, rows in self.rules if rows[row])
