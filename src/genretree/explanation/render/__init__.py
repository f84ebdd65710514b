"""Rendering of explanations as figures, audio clips and pages."""
