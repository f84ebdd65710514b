"""A whole music library: analyse it, preview what would be written, apply it, take it back."""
