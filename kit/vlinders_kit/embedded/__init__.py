"""The real servers that the embedded shape and the tests run on, as child processes."""
