"""Explanations as figures, clips and pages."""
