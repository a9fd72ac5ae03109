"""An engine that runs elsewhere: watched, never started or stopped."""

import asyncio
import os
from collections.abc import Callable

import aiohttp

from vlinders.gpu_scheduler.v1.workers_pb2 import Slot
from vlinders_worker.engines.configuration import External
from vlinders_worker.engines.engine import SlotState
from vlinders_worker.engines.pulse import Pulse
from vlinders_worker.engines.upstream import Upstream

PROBE_SECONDS = 5.0
PROBE_TIMEOUT = aiohttp.ClientTimeout(total=5)


class ExternalEngine:
    def __init__(
        self, kept: External, http: aiohttp.ClientSession, changed: Callable[[], None]
    ) -> None:
        self.slot = SlotState(kept, changed)
        self._kept = kept
        self._http = http
        self._url = kept.url.rstrip("/")
        self._pulse = Pulse(first=kept.first_seconds, next=kept.hang_seconds)

    async def run(self) -> None:
        while True:
            await self._probe()
            await asyncio.sleep(PROBE_SECONDS)

    def upstream(self, *, silence_seconds: float) -> Upstream:
        return Upstream(
            self._http,
            slot_id=self.slot.id,
            url=self._url,
            model=self._kept.served_name,
            headers=self._headers(),
            silence_seconds=silence_seconds,
            pulse=self._pulse,
        )

    async def _probe(self) -> None:
        if (why := self._pulse.hangs) is not None:
            self.slot.turn(Slot.STATE_FAILED, f"hangs: {why}")
            return
        try:
            async with self._http.get(
                self._url + self._kept.probe_path, headers=self._headers(), timeout=PROBE_TIMEOUT
            ) as response:
                if response.status == 200:
                    self.slot.turn(Slot.STATE_READY)
                else:
                    self.slot.turn(Slot.STATE_FAILED, f"answers with status {response.status}")
        except (aiohttp.ClientError, OSError) as error:
            self.slot.turn(Slot.STATE_FAILED, f"cannot be reached ({type(error).__name__})")

    def _headers(self) -> dict[str, str]:
        name = self._kept.api_key_env
        key = os.environ.get(name) if name else None
        return {"authorization": f"Bearer {key}"} if key else {}
