"""The edge: knows its callers, keeps their limits, speaks their dialect, asks the services."""
