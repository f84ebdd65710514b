"""Evaluation of bundles: metrics on a store, reports, plots, and comparisons of model families."""
