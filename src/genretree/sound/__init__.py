"""Sound to images: decode a file, compute its spectra, cut and draw its slices."""
