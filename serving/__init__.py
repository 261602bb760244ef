"""Engines, and how to find them. The lowest layer: knows nothing of routing or of agents."""
