"""Explanation of a genre: what a model associates with it."""
