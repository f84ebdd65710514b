"""Read and write the tags of audio files, and verify that nothing else has changed."""
