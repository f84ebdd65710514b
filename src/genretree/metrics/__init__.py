"""Metrics of hierarchical predictions, and calibration of their probabilities."""
