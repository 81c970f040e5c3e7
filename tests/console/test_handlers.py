"""What the console keeps and answers: facts once, loops with their times, why, and a stream one can resume."""

import asyncio
import random
from typing import Any
from uuid import uuid4

import httpx
from fastapi import FastAPI

from ctloop.events.model import ModelPromoted, ModelValidated
from ctloop.events.values import Verdict
from ctloop.platform.http import install_problems
from ctloop_console.api import create_api
from ctloop_console.domain.loops import LoopState
from ctloop_console.reads import Reads
from ctloop_console.store import NUMBERS, Filter


async def test_a_loop_is_closed_with_its_times(console: Any, facts: Any) -> None:
    """Decision to answer is 10 s: 5 of the user's function and replay, 5 the platform's; its cause came 0.5 s before."""
    await console.hear(facts())
    ((loop,), _) = await console.read(Reads(console.store).loops, "flights", None, 10)
    assert loop.state is LoopState.CLOSED and (loop.version, loop.epoch, loop.number) == (1, 1, 1)
    assert (loop.decision_to_answer_seconds, loop.user_seconds, loop.platform_seconds) == (10.0, 5.0, 5.0)
    assert loop.cause_to_decision_seconds == 0.5
    assert [hop.fact for hop in loop.hops][:2] == ["RetrainDecided", "TrainingStarted"] and len(loop.hops) == 6


async def test_the_order_of_facts_does_not_matter(console: Any, facts: Any) -> None:
    """Facts heard shuffled, and all heard twice, fold to the same loop and are counted once."""
    told = facts()
    shuffled = told * 2
    random.Random(7).shuffle(shuffled)
    for fact in shuffled:
        await console.hear([fact])
    ((loop,), _) = await console.read(Reads(console.store).loops, "flights", None, 10)
    assert loop.state is LoopState.CLOSED and loop.platform_seconds == 5.0
    counts = await console.read(console.store.counts)
    assert sum(one.facts for one in counts) == len(told) and all(one.facts == 1 for one in counts)


async def test_a_refused_loop_ends_with_the_refusal(console: Any, facts: Any) -> None:
    """A failed verdict and no promotion: refused, ended, no version."""
    told = [fact for fact in facts()[:5] if not isinstance(fact.event, ModelPromoted)]
    refusal = told[-1].event.model_copy(update={"verdict": Verdict.FAILED})
    assert isinstance(refusal, ModelValidated)
    await console.hear([*told[:-1], type(told[-1])(refusal, told[-1].envelope)])
    ((loop,), _) = await console.read(Reads(console.store).loops, None, None, 10)
    assert loop.state is LoopState.REFUSED and loop.ended_at is not None and loop.version is None


async def test_why_tells_decision_causes_gates_and_promotion(console: Any, facts: Any) -> None:
    """Why of a promoted version has the decision's tree, the cause that was heard, the gates and the loop."""
    await console.hear([*facts(1), *facts(2)])
    run_id = await console.read(console.store.run_of, "flights", 2)
    why = await console.read(Reads(console.store).why_run, run_id)
    assert (why.model, why.version, why.run_id) == ("flights", 2, run_id)
    assert why.decision.tree.text and why.causes and why.validated[0].gates
    assert why.loop.state is LoopState.CLOSED and why.decision.reason in why.sentence


async def test_a_promotion_by_hand_closes_the_loop_of_its_run(console: Any, facts: Any) -> None:
    """A person's command is no part of a loop; the run it promotes is. The first answer carries the loop again."""
    told = facts()
    by_hand = [
        type(one)(one.event, one.envelope.model_copy(update={"loop_id": None}))
        if isinstance(one.event, ModelPromoted)
        else one
        for one in told
    ]
    await console.hear(by_hand)
    ((loop,), _) = await console.read(Reads(console.store).loops, "flights", None, 10)
    assert loop.state is LoopState.CLOSED and (loop.version, loop.epoch) == (1, 1)
    assert "ModelPromoted" in [hop.fact for hop in loop.hops]


async def test_numbering_loops_reads_the_decisions_only(console: Any, facts: Any) -> None:
    """Not all facts about their model: the plan uses the index of what it counts."""
    await console.hear(facts())
    async with console.edge.transaction() as connection:
        await connection.execute("SET LOCAL enable_seqscan = off")
        plan = await connection.fetch("EXPLAIN " + NUMBERS, "t", [uuid4()])
    text = "\n".join(row[0] for row in plan)
    assert "fact_decision" in text and "Index Only Scan" in text, text


async def test_loops_are_paged_newest_first(console: Any, facts: Any) -> None:
    """Pages of two over five loops give each once, with their numbers, then no cursor to more."""
    for number in range(1, 6):
        await console.hear(facts(number))
    reads, cursor, numbers = Reads(console.store), None, list[int]()
    while True:
        loops, cursor = await console.read(reads.loops, "flights", cursor, 2)
        numbers += [loop.number for loop in loops]
        if cursor is None:
            break
    assert numbers == [5, 4, 3, 2, 1]


async def test_a_reader_at_a_cursor_misses_nothing(console: Any, facts: Any) -> None:
    """While many transactions write at once, a reader that goes on from the last seq sees every fact once."""
    told = [fact for number in range(1, 9) for fact in facts(number)]
    writers = asyncio.gather(*(console.hear([fact]) for fact in told))
    seen: list[Any] = []
    cursor = 0
    while len(seen) < len(told):
        found = await console.read(console.store.after, cursor, Filter(), 5)
        seen += [fact.id for fact in found]
        cursor = found[-1].seq if found else cursor
        if writers.done() and not found:
            break
        await asyncio.sleep(0)
    await writers
    assert len(seen) == len(set(seen)) == len({fact.envelope.id for fact in told})


async def test_the_api_answers_and_says_no_with_a_code(console: Any, facts: Any) -> None:
    """Loops, why, timeline, counts and latencies by HTTP; what is unknown is 404 with a stable code."""
    await console.hear(facts())
    app = FastAPI()
    app.include_router(create_api(console.store, console.feed)(console.edge))
    install_problems(app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://console") as http:
        assert (await http.get("/v1/loops", params={"model": "flights"})).json()["items"][0]["state"] == "closed"
        assert (await http.get("/v1/models/flights/loops/1")).json()["platform_seconds"] == 5.0
        assert (await http.get("/v1/why/flights/1")).json()["version"] == 1
        lines = (await http.get("/v1/timeline", params={"topic": "model-promoted.v1"})).json()["items"]
        assert [one["fact"] for one in lines] == ["ModelPromoted"] and "champion" in lines[0]["sentence"]
        assert len((await http.get("/v1/facts")).json()["items"]) == 7
        assert {one["name"] for one in (await http.get("/v1/latencies")).json()["items"]} >= {"said to heard"}
        for path, code in ((f"/v1/loops/{uuid4()}", "CT3301"), ("/v1/why/flights/9", "CT3302")):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()["code"]) == (404, code)
