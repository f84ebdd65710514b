"""Features of spectrogram images: summary statistics and principal components, with a cache."""
