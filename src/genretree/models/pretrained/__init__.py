"""Pretrained networks: architectures, weights and where they come from."""
