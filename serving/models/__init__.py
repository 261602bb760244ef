"""Weights and adapters: from where they are published to a checked folder."""
