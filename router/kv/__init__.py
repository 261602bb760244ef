"""What the engines' caches hold, by their own events."""
