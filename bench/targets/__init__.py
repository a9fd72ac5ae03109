"""What is measured: ourselves, the peers, and the way without anything between."""

from bench.targets import direct, envoy, litellm, ours, portkey, tensorzero
from bench.targets.target import Target

TARGETS: tuple[Target, ...] = (
    direct.TARGET,
    ours.TARGET,
    envoy.TARGET,
    tensorzero.TARGET,
    portkey.TARGET,
    litellm.TARGET,
)
"""In the order of the tables."""
