"""Where clients come in, and what holds of their connections."""

import routes
from envoy.config.core.v3.protocol_pb2 import HttpProtocolOptions as CommonOptions
from envoy.config.core.v3.socket_option_pb2 import SocketOption
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as http,
)
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from logs import access_log
from messages import BUFFER, at, packed, seconds
from replies import local_replies

STREAM = 660
"""Seconds: an answer may be silent for as long as the gateway lets it take, and a little more."""

PROBES = ((1, 9, 1), (6, 4, 30), (6, 5, 10), (6, 6, 3))
"""SO_KEEPALIVE, TCP_KEEPIDLE, TCP_KEEPINTVL and TCP_KEEPCNT, as Linux numbers them."""


def encrypted() -> Listener:
    """Clients, over TLS: HTTP/2 where they speak it, else HTTP/1.1."""
    context = tls_pb2.CommonTlsContext(
        alpn_protocols=["h2", "http/1.1"],
        tls_params={"tls_minimum_protocol_version": "TLSv1_2"},
        tls_certificate_sds_secret_configs=[
            {
                "name": "edge",
                "sds_config": {
                    "resource_api_version": "V3",
                    "path_config_source": {"path": "/etc/vlinders/envoy/certificate.json"},
                },
            }
        ],
    )
    chain = FilterChain(
        filters=[connection("edge", routes.to_gateways())],
        transport_socket={
            "name": "envoy.transport_sockets.tls",
            "typed_config": packed(tls_pb2.DownstreamTlsContext(common_tls_context=context)),
        },
        transport_socket_connect_timeout=seconds(10),
    )
    return _listener("https", 8443, chain)


def plain() -> Listener:
    """Clients without TLS are told to come again with it: no credential is asked for in clear."""
    return _listener("http", 8080, FilterChain(filters=[connection("redirect", routes.with_tls())]))


def own() -> Listener:
    """For probes and Prometheus."""
    manager = http.HttpConnectionManager(
        stat_prefix="own",
        route_config=routes.to_own_pages(),
        http_filters=[_router()],
    )
    listener = _listener("metrics", 9464, FilterChain(filters=[_manager(manager)]))
    listener.bypass_overload_manager = True
    return listener


def _listener(name: str, port: int, chain: FilterChain) -> Listener:
    """TCP's own probes find out within a minute that a client is gone without a word."""
    return Listener(
        name=name,
        address=at("0.0.0.0", port),
        filter_chains=[chain],
        per_connection_buffer_limit_bytes={"value": BUFFER},
        socket_options=[
            SocketOption(level=level, name=option, int_value=value, state="STATE_LISTENING")
            for level, option, value in PROBES
        ],
    )


def connection(name: str, told: RouteConfiguration) -> Filter:
    """What holds of every connection of clients."""
    manager = http.HttpConnectionManager(
        stat_prefix=name,
        route_config=told,
        http_filters=[_router()],
        access_log=[access_log()],
        local_reply_config=local_replies(),
        server_header_transformation="PASS_THROUGH",
        # The peer's own address. Behind a load balancer that adds X-Forwarded-For, say how many.
        use_remote_address={"value": True},
        xff_num_trusted_hops=0,
        generate_request_id={"value": False},  # the gateway's is the one that everybody knows
        # What a path means is the gateway's to say, so it gets the path as it came.
        normalize_path={"value": False},
        merge_slashes=False,
        path_with_escaped_slashes_action="KEEP_UNCHANGED",
        max_request_headers_kb={"value": 32},
        request_headers_timeout=seconds(10),
        request_timeout=seconds(70),  # the gateway's 60 for a body, and its answer to a late one
        stream_idle_timeout=seconds(STREAM),
        drain_timeout=seconds(30),
        delayed_close_timeout=seconds(2),
        common_http_protocol_options=CommonOptions(
            idle_timeout=seconds(300),
            max_headers_count={"value": 90},  # of the gateway's 100; some are added here
            headers_with_underscores_action=CommonOptions.REJECT_REQUEST,
        ),
        http2_protocol_options={
            "max_concurrent_streams": {"value": 128},
            "initial_stream_window_size": {"value": BUFFER},
            "initial_connection_window_size": {"value": 4 * BUFFER},
            # A client that left without a word holds its streams no longer than this.
            "connection_keepalive": {"interval": seconds(20), "timeout": seconds(10)},
        },
    )
    return _manager(manager)


def _manager(manager: http.HttpConnectionManager) -> Filter:
    return Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=packed(manager)
    )


def _router() -> http.HttpFilter:
    return http.HttpFilter(name="envoy.filters.http.router", typed_config=packed(Router()))
