"""Which engine gets this turn: identity, tier, placement, admission, forwarding."""
