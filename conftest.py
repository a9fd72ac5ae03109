"""Loads the kit's pytest plugin."""

pytest_plugins = ["vlinders_kit.testing.plugin"]
