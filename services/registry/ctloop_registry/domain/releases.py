"""Whether a manifest may be released beside what is in force."""

from ctloop.derived import parse
from ctloop.events.manifest import FieldSpec, Manifest, RecordSpec
from ctloop.policy.conditions import Node, names
from ctloop.problems import Problem


def clash(mine: RecordSpec, other: RecordSpec) -> str | None:
    """Why two record classes cannot share a dataset, as one sentence; None when they can.

    Columns may be added, and rules may differ; what both have must be the same column, since one lake holds it.
    """
    if mine.id != other.id or mine.time != other.time:
        return f"id and time are {mine.id!r}, {mine.time!r}, in force are {other.id!r}, {other.time!r}"
    if (mine.label and mine.label.name) != (other.label and other.label.name):
        return f"the label is {_named(mine.label)}, in force is {_named(other.label)}"
    for field in (*mine.fields, *((mine.label,) if mine.label else ())):
        known = other.field(field.name)
        if known is not None and known.kind != field.kind:
            return f"column {field.name!r} is {field.kind}, in force is {known.kind}"
    return None


def _named(label: FieldSpec | None) -> str:
    return repr(label.name) if label else "none"


def first_clash(manifest: Manifest, in_force: tuple[Manifest, ...]) -> str | None:
    """The first reason why a manifest does not fit the others over its dataset, its own last version included."""
    for other in in_force:
        if other.record.dataset == manifest.record.dataset and (why := clash(manifest.record, other.record)):
            return f"dataset {manifest.record.dataset!r} is declared otherwise by model {other.model!r}: {why}"
    return None


def unusable(manifest: Manifest) -> str | None:
    """What no service could work with: a condition or a derived column the compiler would not have made."""
    conditions = (*manifest.gates, manifest.retrain.condition, manifest.rollback)
    for one in conditions:
        if one is not None and not _is_tree(one.tree):
            return f"the tree of condition {one.text[:100]!r} is none"
    kinds = {field.name: field.kind for field in manifest.record.fields}
    for derived in manifest.record.derived:
        try:
            parse(derived.expression, kinds)
        except Problem as problem:
            return f"derived column {derived.name!r}: {problem.cause}"
    return None


def _is_tree(text: str) -> bool:
    try:
        return bool(names(Node.from_json(text)))
    except (ValueError, TypeError, LookupError, AttributeError, AssertionError, RecursionError):
        return False
