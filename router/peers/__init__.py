"""What front doors tell each other."""
