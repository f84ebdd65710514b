"""Pretrained networks: architectures, weights and their sources."""
