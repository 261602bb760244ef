"""Tool calls on their way: planned, read, checked, asked for once more."""
