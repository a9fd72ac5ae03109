"""What Envoy does as memory or connections run out."""

from envoy.config.overload.v3.overload_pb2 import OverloadAction, OverloadManager, ResourceMonitor
from envoy.extensions.resource_monitors.downstream_connections.v3 import downstream_connections_pb2
from envoy.extensions.resource_monitors.fixed_heap.v3.fixed_heap_pb2 import FixedHeapConfig
from messages import KIB, MOST_CONNECTIONS, packed, seconds

HEAP = 1024 * KIB * KIB
"""Of the 1.5 GiB that the pod may take."""


def overload() -> OverloadManager:
    """As memory or connections run out: first give back, then refuse what is new, 503 at once."""
    heap = "envoy.resource_monitors.fixed_heap"
    connections = "envoy.resource_monitors.global_downstream_max_connections"

    def above(action: str, share: float) -> OverloadAction:
        return OverloadAction(
            name=f"envoy.overload_actions.{action}",
            triggers=[{"name": heap, "threshold": {"value": share}}],
        )

    most = downstream_connections_pb2.DownstreamConnectionsConfig(
        max_active_downstream_connections=MOST_CONNECTIONS
    )
    return OverloadManager(
        refresh_interval=seconds(0.25),
        resource_monitors=[
            ResourceMonitor(
                name=heap, typed_config=packed(FixedHeapConfig(max_heap_size_bytes=HEAP))
            ),
            ResourceMonitor(name=connections, typed_config=packed(most)),
        ],
        actions=[
            above("shrink_heap", 0.85),
            above("disable_http_keepalive", 0.9),
            above("stop_accepting_requests", 0.95),
            above("stop_accepting_connections", 0.98),
        ],
    )
