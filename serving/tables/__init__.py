"""Which engines there are, and where that is known from."""
