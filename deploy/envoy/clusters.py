"""Where requests go: the gateways, and Envoy's own pages."""

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.health_check_pb2 import HealthCheck
from envoy.config.core.v3.protocol_pb2 import HttpProtocolOptions as CommonOptions
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from messages import BUFFER, MOST_CONNECTIONS, at, packed, seconds

GATEWAYS = ("gateway-replicas", 8080)


def gateways() -> Cluster:
    """Every gateway that the name resolves to; one that drains or hangs gets nothing new."""
    asked = HealthCheck(
        timeout=seconds(2),
        interval=seconds(2),
        no_traffic_interval=seconds(2),
        unhealthy_threshold={"value": 2},
        healthy_threshold={"value": 1},
        http_health_check={"path": "/readyz", "host": "gateway"},
    )
    upstream = HttpProtocolOptions(
        # The gateway keeps idle connections for 75 s: they end here first.
        common_http_protocol_options=CommonOptions(idle_timeout=seconds(60)),
        explicit_http_config={"http_protocol_options": {}},
    )
    bound = {"value": MOST_CONNECTIONS}
    cluster = _cluster("gateways", *GATEWAYS)
    cluster.MergeFrom(
        Cluster(
            type="STRICT_DNS",
            dns_refresh_rate=seconds(5),
            lb_policy="LEAST_REQUEST",
            health_checks=[asked],
            # Who is not ready is not asked, even if nobody is: a 503 at once, not a request lost.
            common_lb_config={"healthy_panic_threshold": {"value": 0}},
            circuit_breakers={
                "thresholds": [
                    {
                        "max_connections": bound,
                        "max_pending_requests": bound,
                        "max_requests": bound,
                        "max_retries": {"value": 100},
                    }
                ]
            },
            typed_extension_protocol_options={
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(upstream)
            },
        )
    )
    return cluster


def own_pages() -> Cluster:
    return _cluster("own", "127.0.0.1", 9901)


def _cluster(name: str, host: str, port: int) -> Cluster:
    ends = [{"lb_endpoints": [{"endpoint": {"address": at(host, port)}}]}]
    return Cluster(
        name=name,
        connect_timeout=seconds(2),
        per_connection_buffer_limit_bytes={"value": BUFFER},
        load_assignment=ClusterLoadAssignment(cluster_name=name, endpoints=ends),
    )
