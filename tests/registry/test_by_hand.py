"""People and machines on one pointer: rollbacks, freezes, proposals, and facts that come late or in another order."""

from datetime import timedelta
from typing import Any
from uuid import uuid5

import pytest
from httpx import AsyncClient

from ctloop.events.manifest import ConditionSpec
from ctloop.events.model import ModelPromoted, ModelRolledBack
from ctloop.events.values import Verdict
from ctloop.platform.delivery import Refused
from ctloop.policy.conditions import compile_condition
from ctloop_registry.commands import ApplyPipeline, PromoteVersion, RollBack
from ctloop_registry.domain.pointer import Outcome


def changed(registry: Any, **fields: Any) -> Any:
    return registry.manifest.model_copy(update=fields)


async def test_what_was_rolled_back_is_not_promoted_again_by_a_late_verdict(registry: Any) -> None:
    """Validation hears of the rollback before the promotion, challenges the version again, and it passes: a person's no
    holds. A person may bring it back."""
    await registry.judged(1, 0)
    await registry.judged(2, 1)
    await registry.ask(RollBack(model=registry.model, reason="odd"))
    assert await registry.judged(2, 3) == ()
    assert await registry.epochs() == [(1, 1), (2, 2), (3, 1)]
    (kept, *_) = await registry.read(registry.store.versions.evidence_of, registry.model, 2)
    assert kept.outcome is Outcome.RETIRED
    (said,) = await registry.ask(PromoteVersion(model=registry.model, version=2))
    assert said.epoch == 4


async def test_a_retrain_after_a_rollback_is_promoted(registry: Any) -> None:
    """The rollback stops a version, not the model; and the way back from there leads to the one before."""
    await registry.judged(1, 0)
    await registry.judged(2, 1)
    await registry.ask(RollBack(model=registry.model, reason="odd"))
    (said,) = await registry.judged(3, 3)
    assert (said.version, said.epoch, said.previous_version) == (3, 4, 1)
    (back,) = await registry.ask(RollBack(model=registry.model, reason="odd too"))
    assert isinstance(back, ModelRolledBack) and back.version == 1


@pytest.mark.parametrize("frozen", ["propose", "watch"])
async def test_a_freeze_holds_from_the_moment_it_is_applied(registry: Any, frozen: str) -> None:
    """A run of the file before is on its way: it is not promoted by itself any more."""
    await registry.ask(ApplyPipeline(manifest=changed(registry, autonomy=frozen)))
    assert await registry.judged(1, 0) == ()
    (kept,) = await registry.read(registry.store.versions.evidence_of, registry.model, 1)
    assert kept.outcome is Outcome.PROPOSED


async def test_a_run_made_under_propose_waits_also_when_the_file_acts_now(registry: Any) -> None:
    """Both the file that trained it and the one in force must say act."""
    proposing = changed(registry, autonomy="propose")
    await registry.ask(ApplyPipeline(manifest=proposing))
    await registry.ask(ApplyPipeline(manifest=registry.manifest))
    assert await registry.judged(1, 0, pipeline_digest=proposing.digest) == ()


async def test_the_rollback_condition_in_force_protects_the_champion_of_now(registry: Any, measured: Any) -> None:
    """Applied after the champion was trained; the condition of its own file no longer counts."""
    await registry.judged(1, 0)
    await registry.judged(2, 1)
    text = "log_loss > 0.6"
    stricter = ConditionSpec(text=text, tree=compile_condition(text, ("log_loss",)).to_json())
    await registry.ask(ApplyPipeline(manifest=changed(registry, rollback=None)))
    assert await registry.tell(measured(log_loss=2.0, version=2, epoch=2)) == ()
    await registry.ask(ApplyPipeline(manifest=changed(registry, rollback=stricter)))
    (said,) = await registry.tell(measured(log_loss=0.7, version=2, epoch=2))
    assert isinstance(said, ModelRolledBack) and said.reason == text


async def test_a_promotion_by_hand_belongs_to_the_loop_that_made_the_version(registry: Any) -> None:
    """Its first answer closes that loop."""
    proposing = changed(registry, autonomy="propose")
    await registry.ask(ApplyPipeline(manifest=proposing))
    await registry.judged(1, 0, pipeline_digest=proposing.digest)
    (said,) = await registry.ask(PromoteVersion(model=registry.model, version=1))
    assert isinstance(said, ModelPromoted)
    pointer = await registry.read(registry.store.pointer.read, registry.model)
    assert pointer.loop_id == uuid5(registry.runs, "loop")


async def test_live_at_is_exact_to_the_microsecond(registry: Any) -> None:
    """A move counts from its own instant on; one microsecond before, what was live before it."""
    await registry.judged(1, 0)
    await registry.judged(2, 1)
    await registry.ask(RollBack(model=registry.model, reason="odd"))
    moves = await registry.read(registry.store.pointer.history, registry.model)
    at, tick = registry.store.pointer.at, timedelta(microseconds=1)
    before = [await registry.read(at, registry.model, one.since - tick) for one in moves]
    assert [one and one.epoch for one in before] == [None, 1, 2]
    assert [(await registry.read(at, registry.model, one.since)).epoch for one in moves] == [1, 2, 3]


async def test_pages_of_versions_and_history_are_bounded_and_go_on(registry: Any, client: AsyncClient) -> None:
    """Each page says where the next one begins; the last one says there is none."""
    for number in range(5):
        await registry.judged(number, number)
    for path, key in (("versions", "version"), ("history", "epoch")):
        url, found, cursor = f"/v1/models/{registry.model}/{path}", list[int](), ""
        while True:
            page = (await client.get(url, params={"limit": 2, **({"cursor": cursor} if cursor else {})})).json()
            assert len(page["items"]) <= 2
            found += [one[key] for one in page["items"]]
            if (cursor := page["next_cursor"]) is None:
                break
        assert sorted(found) == [1, 2, 3, 4, 5]


async def test_writes_keep_to_if_match_and_the_key(registry: Any, client: AsyncClient) -> None:
    """The ETag of the pointer is what If-Match takes; a repeated key says the same, with another body it is refused."""
    await registry.judged(1, 0)
    await registry.judged(2, 1)
    url = f"/v1/models/{registry.model}"
    tag = (await client.get(f"{url}/champion")).headers["etag"]
    body, headers = {"reason": "odd"}, {"If-Match": tag, "Idempotency-Key": "k"}
    first = await client.post(f"{url}/rollback", json=body, headers=headers)
    again = await client.post(f"{url}/rollback", json=body, headers=headers)
    assert first.status_code == 200 and again.json() == first.json()
    with pytest.raises(Refused, match="moved"):
        await client.post(f"{url}/promote", json={"version": 2}, headers={"If-Match": tag})
    wild = await client.post(f"{url}/promote", json={"version": 2}, headers={"If-Match": "*"})
    assert wild.status_code == 200 and len(await registry.epochs()) == 4


async def test_a_failed_verdict_of_the_champion_itself_moves_nothing(registry: Any) -> None:
    """It is evidence, kept."""
    await registry.judged(1, 0)
    assert await registry.judged(1, 1, Verdict.FAILED) == ()
    assert await registry.epochs() == [(1, 1)]


async def test_applying_under_a_star_needs_a_pipeline_in_force(registry: Any) -> None:
    """RFC 9110: a star matches whatever is there, and nothing when nothing is."""
    (said,) = await registry.ask(ApplyPipeline(manifest=changed(registry, trials=9), if_match="*"))
    assert said.pipeline_version == 2
    with pytest.raises(Refused, match="another pipeline is in force"):
        await registry.ask(ApplyPipeline(manifest=changed(registry, model="fresh"), if_match="*"))
