"""What the `warmloop` command shows and asks, one module a command."""
