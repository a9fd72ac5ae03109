"""Runs on a GPU or CPU host: drives model engines, serves inference, reports to gpu-scheduler."""
