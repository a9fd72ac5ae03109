"""The fleet of GPU workers: which of them live, and which of them serves a request."""
