"""Streams that are cut, and go on elsewhere."""
