"""The one record class a dataset is audited by when several model files declare it."""

from collections.abc import Sequence

from ctloop.events.manifest import FieldSpec, RecordSpec


def suite(records: Sequence[RecordSpec]) -> RecordSpec:
    """The first record class with the columns only others have, those nullable: no model loses a column.

    Where two declare one column differently the first (by the model's name) holds.
    """
    first = records[0]
    fields = {one.name: one for one in first.fields}
    label = next((one.label for one in records if one.label), None)
    for record in records[1:]:
        for field in record.fields:
            if field.name not in fields and (label is None or field.name != label.name):
                fields[field.name] = field.model_copy(update={"nullable": True})
    return first.model_copy(update={"fields": tuple(fields.values()), "label": label})


def id_field(record: RecordSpec) -> FieldSpec:
    """The field that is the id; text where the id is made from the content."""
    return record.field(record.id) or FieldSpec(name=record.id, kind="string")
