"""`python -m vlinders_kit.dead_letters`: what groups gave up, shown, sent again, or let go.

    VLINDERS_BUS=postgresql://… python -m vlinders_kit.dead_letters list vlinders.inference
    VLINDERS_BUS=kafka://…      python -m vlinders_kit.dead_letters replay vlinders.inference

`list` shows a line of JSON for each and changes nothing. `replay` sends all of them again to the
topic that they came from, under their own ids: the group that gave one up tries it anew, and for
every other it has taken effect already. What fails again is a dead letter again. `discard` has
them not be shown any more. They are behind later events of their keys by then; handlers bear that.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TextIO
from uuid import UUID

from vlinders_kit.bus import Bus, Envelope, Subscription, dead_letters, open_bus

GROUP = "vlinders.dead_letters"
"""The operators', whose commit says which are done with."""

QUIET_SECONDS = 5.0
"""When nothing has come for so long, there are no more: to join a group takes Kafka seconds."""


async def show(bus: Bus, topic: str, out: TextIO, *, quiet: float = QUIET_SECONDS) -> int:
    """Writes a line for each dead letter of `topic`; how many there are, as far as a bus shows more
    than one fetch of what is not committed."""
    shown: set[UUID] = set()
    async with bus.subscribe(GROUP, [dead_letters(topic)]) as subscription:
        async for envelopes in _batches(subscription, quiet):
            new = [it for it in envelopes if it.id not in shown]
            if not new:
                break  # it begins again
            for it in new:
                row = {"id": str(it.id), "type": it.type, "key": it.key, "given_up": it.error}
                out.write(f"{json.dumps(row)}\n")
            shown |= {it.id for it in new}
    return len(shown)


async def settle(bus: Bus, topic: str, *, again: bool, quiet: float = QUIET_SECONDS) -> int:
    """Has the dead letters of `topic` be done with, sent `again` or not; how many there were.

    One that is interrupted between the two sends some a second time: the inbox knows them.
    """
    settled = 0
    async with bus.subscribe(GROUP, [dead_letters(topic)]) as subscription:
        async for envelopes in _batches(subscription, quiet):
            if again:
                await bus.send([replace(it, topic=topic, error="") for it in envelopes])
            await subscription.commit()
            settled += len(envelopes)
    return settled


async def _batches(subscription: Subscription, quiet: float) -> AsyncIterator[Sequence[Envelope]]:
    while True:
        try:
            async with asyncio.timeout(quiet):
                envelopes = await subscription.fetch()
        except TimeoutError:
            return
        yield envelopes


async def _run(url: str, verb: str, topic: str) -> int:
    bus = open_bus(url, "dead-letters")
    try:
        if verb == "list":
            count = await show(bus, topic, sys.stdout)
        else:
            count = await settle(bus, topic, again=verb == "replay")
    finally:
        await bus.close()
    return count


def main(arguments: Sequence[str]) -> int:
    """Does what it is told; answers 2 where the bus is not named."""
    parser = argparse.ArgumentParser(prog="python -m vlinders_kit.dead_letters")
    parser.add_argument("verb", choices=("list", "replay", "discard"))
    parser.add_argument("topic", help="the topic that they came from, as vlinders.inference")
    told = parser.parse_args(arguments)
    if not (url := os.environ.get("VLINDERS_BUS")):
        sys.stderr.write("VLINDERS_BUS is not set: the event bus, as the services are told it\n")
        return 2
    count = asyncio.run(_run(url, told.verb, told.topic))
    sys.stderr.write(f"{told.verb}: {count} of {told.topic}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
