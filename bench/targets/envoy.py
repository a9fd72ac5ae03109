"""Envoy as a plain proxy with one thread: no identity, no limits, no look into what passes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.peers import environment, version
from bench.programs import Door, Provider
from bench.targets.target import Running, Target, free_port, served

_TYPES = "type.googleapis.com/envoy.extensions"


@contextmanager
def _start(provider: Provider, folder: Path) -> Iterator[Running]:
    program = next(environment("envoy").glob("lib/python*/site-packages/envoy/_bin/envoy"))
    port = free_port()
    config = folder / "envoy.json"
    config.write_text(json.dumps(_config(port, provider.port)))
    command = [str(program), "-c", str(config), "--concurrency", "1", "--log-level", "warn"]
    with served("envoy", command, Door(port), folder=folder) as running:
        yield running


def _config(port: int, upstream: int) -> dict[str, Any]:
    route = {"cluster": "provider", "timeout": "0s", "idle_timeout": "0s"}
    hosts = [
        {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}
    ]
    connections = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "clients",
        "route_config": {"name": "all", "virtual_hosts": hosts},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"},
            }
        ],
    }
    chain = {"filters": [{"name": "http", "typed_config": connections}]}
    endpoint = {"endpoint": {"address": _address(upstream)}}
    cluster = {
        "name": "provider",
        "connect_timeout": "3s",
        "load_assignment": {
            "cluster_name": "provider",
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    }
    listener = {"name": "clients", "address": _address(port), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


TARGET = Target("envoy", f"Envoy {version('envoy')}, plain proxy", _start)
