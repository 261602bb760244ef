"""The journal: one contract, and the stores that keep it."""
