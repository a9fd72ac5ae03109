"""Loads the kit's pytest plugins."""

pytest_plugins = [
    "vlinders_kit.testing.plugin",
    "vlinders_kit.testing.timeouts",
    "vlinders_kit.testing.kafka",
    "vlinders_kit.testing.figures",
]
