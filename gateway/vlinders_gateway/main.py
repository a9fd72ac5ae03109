"""`python -m vlinders_gateway.main`: the gateway, put together."""

import asyncio
import signal
from contextlib import AsyncExitStack

from vlinders.inference.v1 import generations_pb2
from vlinders_gateway import account_pages, documents, routes, streams, voiding
from vlinders_gateway.admission import Admission
from vlinders_gateway.bodies import Limits as BodyLimits
from vlinders_gateway.dialects import DIALECTS
from vlinders_gateway.edge import Edge, Rules
from vlinders_gateway.identity import Identities
from vlinders_gateway.limits import Limits
from vlinders_gateway.open_connections import OpenConnections, most_of
from vlinders_gateway.server import PublicServer, listen
from vlinders_gateway.settings import GatewaySettings
from vlinders_gateway.shared_log import SharedLog
from vlinders_gateway.tokens import Keys, Tokens
from vlinders_kit import internal, logs, metrics, tracing
from vlinders_kit.bus import Bus, open_bus
from vlinders_kit.callers import Identity
from vlinders_kit.ids import new_id
from vlinders_kit.pipe import Dial, PipePool
from vlinders_kit.process import run, spare_collections
from vlinders_kit.rpc import connect

NAME = "vlinders.gateway"

_PIPE = f"/{generations_pb2.DESCRIPTOR.services_by_name['GenerationService'].full_name}/Pipe"

log = logs.get(__name__)

OFFERED_BY_ONE = {"vlinders.gpu_scheduler": "vlinders.gpu_scheduler.v1.WorkerService"}
"""Domain → what one of its replicas offers at a time, as its health says."""


class Gateway:
    """All that one process needs to serve clients."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        me, tls = Identity("gateway", settings.key), settings.tls
        self._channels = {
            domain: connect(target, domain, me, tls, offering=OFFERED_BY_ONE.get(domain))
            for domain, target in (
                ("vlinders.auth", settings.auth),
                ("vlinders.billing", settings.billing),
                ("vlinders.gpu_scheduler", settings.gpu_scheduler),
                ("vlinders.inference", settings.inference),
            )
        }
        auth = self._channels["vlinders.auth"]
        tokens = Tokens(Keys(auth), issuer=settings.token_issuer, audience=settings.token_audience)
        self._identities = Identities(auth, tokens)
        self._shared = SharedLog(settings.redis.get_secret_value())
        self._limits = Limits(self._shared, gateways=settings.gateways)
        self._pool = PipePool(settings.pipes, Dial(_PIPE, "vlinders.inference", me, tls))
        self._bus = open_bus(settings.bus.get_secret_value(), new_id("gateway"))
        self.edge = self._edge(me)
        self._served = False
        self._measured()

    def ready(self) -> bool:
        """Whether inference was reached once; that it is gone is told request by request."""
        self._served = self._served or self._pool.ready
        return self._served

    async def run(self) -> None:
        """Everything that goes on beside the requests."""
        async with asyncio.TaskGroup() as group:
            group.create_task(metrics.watch_loop())
            group.create_task(self._limits.run())
            group.create_task(self.edge.pressure.run())
            group.create_task(self._pool.run())
            group.create_task(self._identities.run())
            group.create_task(self._listen(self._bus))

    async def close(self) -> None:
        """After the last request: what is still to be told is told, then all is closed."""
        await self._identities.report()
        await self._shared.close()
        await self._bus.close()
        for channel in self._channels.values():
            await channel.close()

    def _measured(self) -> None:
        """What a scrape asks of this gateway."""
        metrics.told_of(NAME)
        metrics.gauge("vlinders_gateway_running", "Requests that run.", lambda: self.edge.running)
        metrics.gauge(
            "vlinders_gateway_pipes",
            "Replicas of inference that take requests.",
            lambda: self._pool.ready_count,
        )
        metrics.gauge(
            "vlinders_gateway_limits_by_share",
            "1 while Redis is away, and limits are kept by each gateway for itself.",
            lambda: float(self._limits.away),
        )

    def _edge(self, me: Identity) -> Edge:
        settings = self._settings
        rates = {dialect.name: settings.rates_of(dialect.name) for dialect in DIALECTS}
        admission = Admission(self._identities, self._limits, rates)
        deadline = settings.call_deadline.total_seconds()
        app = routes.assemble(admission, self._channels, me, deadline=deadline)
        documents.add_to(app, ready=self.ready)
        account_pages.add_to(app)
        rules = Rules(
            origins=settings.cors_origins,
            trusted=settings.trusted_proxies,
            hosts=settings.hosts,
            https=settings.https,
            most_running=settings.max_running,
            logged=settings.logged,
            traced=settings.traces is not None,
        )
        bodies = BodyLimits(
            most_bytes=settings.max_body_bytes,
            deepest=settings.max_json_depth,
            most_parts=settings.max_json_parts,
            seconds=settings.body_deadline.total_seconds(),
        )
        edge = Edge(routes.behind(app), rules, bodies)
        streams.serve_on(
            edge, admission, self._pool, deadline=settings.stream_deadline.total_seconds()
        )
        return edge

    async def _listen(self, bus: Bus) -> None:
        """Hears auth's events. What was learnt before anything was heard is asked again."""
        started = asyncio.Event()

        async def forget() -> None:
            await started.wait()
            self._identities.forget()

        async with asyncio.TaskGroup() as group:
            group.create_task(forget())
            group.create_task(bus.broadcast(voiding.TOPICS, self._identities.hear, started=started))


async def main(settings: GatewaySettings) -> None:
    logs.configure(NAME, level=settings.log_level)
    tracing.export(
        NAME, settings.traces, sampled=settings.traces_sampled, slow=settings.traces_slow
    )
    told = _signalled()
    gateway = Gateway(settings)
    public = PublicServer(
        gateway.edge,
        listen(settings.host, settings.port, shared=True, silence=settings.silence),
        settings.drain,
        OpenConnections(
            most_of(settings.max_connections),
            settings.max_connections_per_address,
            exempt=settings.trusted_proxies,
        ),
    )

    def ready() -> bool:
        return public.up.is_set() and not told.is_set() and gateway.ready()

    try:
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            if settings.metrics_port:
                host, port = settings.metrics_host, settings.metrics_port
                await stack.enter_async_context(internal.serving(host, port, ready))
            beside = group.create_task(gateway.run())
            serving = group.create_task(public.run())
            spare_collections()
            log.info("serving", address=f"{settings.host}:{settings.port}")
            await told.wait()
            log.info("draining", running=gateway.edge.running)
            public.end()
            await serving
            beside.cancel()
    finally:
        await gateway.close()
        await tracing.close()
        log.info("stopped")


def _signalled() -> asyncio.Event:
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    return told


if __name__ == "__main__":
    run(main(GatewaySettings.load()))
