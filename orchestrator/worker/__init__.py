"""Who runs the loop: claims, leases, runs, and the effects of their steps."""
