"""Recovery of tracks: grouping of slices that were cut from one recording."""
