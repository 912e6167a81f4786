"""A load for a running server, and what came of it."""
