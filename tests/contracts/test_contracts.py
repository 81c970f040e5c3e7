"""The contract holds: golden examples parse, the topology is whole, v1 only widens, services hear what the table says."""

import importlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ctloop.events.topics import BY_TOPIC, FACTS, SERVICES, Fact

ROOT = Path(__file__).resolve().parents[2]
CONTROL = [fact for fact in FACTS if not fact.columns]
EXAMPLES = sorted((ROOT / "contracts" / "examples").glob("*/*.json"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_golden_examples_parse_and_round_trip(path: Path) -> None:
    """Every example ever published is still read, and written again as it was."""
    event = BY_TOPIC[path.parent.name].event
    body = path.read_bytes()
    parsed = event.model_validate_json(body, strict=False)
    assert event.model_validate_json(parsed.model_dump_json()) == parsed
    written = json.loads(parsed.model_dump_json(exclude_unset=True))
    assert written.keys() == json.loads(body).keys()


@pytest.mark.parametrize("fact", CONTROL, ids=lambda fact: fact.event.topic)
def test_every_control_fact_has_a_golden_example(fact: Fact) -> None:
    """A fact nobody has written down once is a fact nobody has read."""
    assert any(path.parent.name == fact.event.topic for path in EXAMPLES)


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.event.topic)
def test_every_topic_has_one_producer_and_a_listener(fact: Fact) -> None:
    """Each topic is said by one kind of service and heard by somebody."""
    assert fact.said_by in SERVICES
    assert fact.heard_by
    assert set(fact.heard_by) <= set(SERVICES)
    assert "_" not in fact.event.topic
    assert fact.event.topic.endswith(".v1")


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.event.topic)
def test_every_field_says_what_it_means(fact: Fact) -> None:
    """Events have a sentence, and numbers that could be read two ways have a description."""
    assert (fact.event.__doc__ or "").strip().endswith(".")


@pytest.mark.parametrize("service", [name for name in SERVICES if name != "serving"])
def test_services_hear_and_say_what_the_topology_says(service: str) -> None:
    """The HEARS table at the foot of handlers.py and the topology name the same facts."""
    module = importlib.import_module(f"ctloop_{service}.handlers")
    heard = {one.event for one in module.HEARS if one.event in {fact.event for fact in FACTS}}
    promised = {fact.event for fact in FACTS if service in fact.heard_by}
    from_platform = {fact.event for fact in FACTS if fact.event.__name__ == "PipelineReleased"}
    assert heard | from_platform == promised
    said = {event for one in module.HEARS for event in one.says}
    allowed = {fact.event for fact in FACTS if fact.said_by == service}
    assert said <= allowed


def committed(path: str) -> dict[str, Any] | None:
    shown = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True, check=False)
    return json.loads(shown.stdout) if shown.returncode == 0 else None


@pytest.mark.parametrize("fact", CONTROL, ids=lambda fact: fact.event.topic)
def test_v1_only_gains_optional_fields(fact: Fact) -> None:
    """Compared with the last commit, no field goes, changes its type or becomes required."""
    old = committed(f"contracts/events/{fact.event.topic}.schema.json")
    if old is None:
        pytest.skip("new topic: no committed schema to compare with")
    new = fact.event.model_json_schema()
    assert set(old["properties"]) <= set(new["properties"])
    assert set(new.get("required", [])) <= set(old.get("required", []))
    for name, before in old["properties"].items():
        after = new["properties"][name]
        assert before.get("type") == after.get("type"), name
        assert before.get("$ref") == after.get("$ref"), name
