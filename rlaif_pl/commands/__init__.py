"""What the command line runs besides fit: one module a command, each a typed function."""
