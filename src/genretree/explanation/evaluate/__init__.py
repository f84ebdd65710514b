"""Faithfulness of explanations."""
