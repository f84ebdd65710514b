"""Recovery of tracks: which slices of a data set were cut from one recording."""
