"""Training: from a store to a bundle, pretraining without labels, and published recipes."""
