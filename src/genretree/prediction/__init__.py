"""Prediction: from audio files, arrays or spectrogram images to genre paths."""
