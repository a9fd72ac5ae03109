"""Which request goes where, and what of it is changed on the way."""

from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.config.route.v3.route_components_pb2 import RetryPolicy, Route, RouteAction, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from messages import packed, seconds


def to_gateways() -> RouteConfiguration:
    """Everything goes to the gateways, and never twice once one has seen it."""
    previous = RetryPolicy.RetryHostPredicate(
        name="envoy.retry_host_predicates.previous_hosts",
        typed_config=packed(PreviousHostsPredicate()),
    )
    route = Route(
        match={"prefix": "/"},
        route=RouteAction(
            cluster="gateways",
            timeout=seconds(0),  # a stream lives for as long as something comes
            retry_policy={
                "retry_on": "connect-failure,refused-stream",
                "num_retries": {"value": 2},
                "retry_host_predicate": [previous],
            },
        ),
    )
    client = HeaderValueOption(
        header={
            "key": "x-forwarded-for",
            "value": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        },
        # The gateway goes by the first address of the header: it must not be the client's word.
        append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    told = _all("gateways", route)
    told.request_headers_to_add.append(client)
    # Nor may a stranger choose what is traced.
    told.request_headers_to_remove.extend(["traceparent", "tracestate", "baggage"])
    return told


def with_tls() -> RouteConfiguration:
    """The same place, with TLS and the same method."""
    route = Route(match={"prefix": "/"}, redirect={"https_redirect": True})
    route.redirect.response_code = route.redirect.PERMANENT_REDIRECT
    return _all("with-tls", route)


def to_own_pages() -> RouteConfiguration:
    """Those of Envoy's own pages that change nothing, and tell only what is counted."""
    pages = ("/ready", "/stats/prometheus")
    return _all("own", *(Route(match={"path": page}, route={"cluster": "own"}) for page in pages))


def _all(name: str, *routes: Route) -> RouteConfiguration:
    host = VirtualHost(name=name, domains=["*"], routes=routes)
    return RouteConfiguration(name=name, virtual_hosts=[host])
