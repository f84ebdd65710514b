"""Trained models on disk: their manifest, loading and saving, exports, and the Hugging Face Hub."""
