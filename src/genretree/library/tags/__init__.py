"""Tags of audio files: reading, writing, and proof that nothing else changed."""
