"""The built-in model families."""
