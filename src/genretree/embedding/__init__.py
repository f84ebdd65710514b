"""Embeddings of audio files, and similar tracks by them."""
