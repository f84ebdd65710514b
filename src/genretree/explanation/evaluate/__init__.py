"""Measures of the faithfulness of explanations."""
