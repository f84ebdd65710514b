"""Explanation by example: nearest training tracks."""
