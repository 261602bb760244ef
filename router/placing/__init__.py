"""Which replica takes a turn, and when."""
