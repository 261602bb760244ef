"""Whose turn it is, what they may have, and what keeps them apart."""
