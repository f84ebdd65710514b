"""Write planned tags into files, undo runs, and recover from interrupted ones."""
