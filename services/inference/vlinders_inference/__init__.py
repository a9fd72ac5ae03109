"""Runs models: admits requests against credit, sends them to workers and providers, meters them."""
