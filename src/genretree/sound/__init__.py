"""Audio to images: decoding, spectra, slices and the features computed from them."""
