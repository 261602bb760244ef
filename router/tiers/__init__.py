"""`model: auto`: which model takes a turn, and what comes of it."""
