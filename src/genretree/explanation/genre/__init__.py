"""Explanation of a genre over its tracks."""
