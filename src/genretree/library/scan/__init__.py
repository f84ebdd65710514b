"""Find the audio files of a library and classify them."""
