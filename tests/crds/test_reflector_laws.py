"""Whatever happens to the server and to the watches, in the end the reflector has what the server has.

On the way its listeners hear of every change in an order that makes sense (the harness checks each call).
"""

from __future__ import annotations

import asyncio
from typing import Literal, TypeAlias

from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crds.fake_api import FakeApi, status
from crds.harness import KIND, followed, session

Step: TypeAlias = tuple[str, str]

names = st.sampled_from(["a", "b", "c", "d"])
changes = st.tuples(st.sampled_from(["put", "put", "remove", "again"]), names)
faults = st.tuples(
    st.sampled_from(["cut", "end", "hang", "compact", "gone-as-event", "away", "bookmark", "refuse", "settle"]),
    st.just(""),
)
steps = st.lists(st.one_of(changes, changes, faults), max_size=25)


async def apply(fake: FakeApi, step: Step, number: int) -> None:
    what, name = step
    there = name in fake.names(KIND)
    if what == "put" or (what == "again" and not there):
        fake.put(KIND, session(name, tenant=f"t{number}", poolRef={"name": f"p{number % 3}"}))
    elif what in ("remove", "again") and there:
        fake.remove(KIND, name)
        if what == "again":
            fake.put(KIND, session(name))
    elif what == "away":
        await fake.stop()
    elif what == "refuse":
        fake.answers.append(lambda _: web.json_response(status(500, "InternalError"), status=500))
    elif what == "gone-as-event":
        kinds: tuple[Literal["http", "event"], ...] = ("http", "event")
        fake.gone_as = kinds[number % 2]
    elif what in ("cut", "end", "hang", "compact", "bookmark"):
        getattr(fake, what)()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps, st.sampled_from([1, 2, 500]))
def test_after_any_faults_the_copy_is_what_the_server_has(steps: list[Step], page: int) -> None:
    async def run() -> None:
        async with FakeApi() as fake, followed(fake, page=page, silence=0.15) as f:
            running = True
            for number, step in enumerate(steps):
                if step[0] == "away" and not running:
                    await fake.start()
                    running = True
                    continue
                await apply(fake, step, number)
                running = running and step[0] != "away"
                if step[0] == "settle" and running:
                    await f.same()
                else:
                    # Sometimes it sees a state in between, sometimes it does not.
                    for _ in range(number % 4):
                        await asyncio.sleep(0)
            if not running:
                await fake.start()
            await f.same()
            for key in ("p0", "p1", "p2", "default"):
                expected = {o.name for o in f.reflector.items() if o.pool == key}
                assert {o.name for o in f.reflector.by("pool", key)} == expected

    asyncio.run(run())
