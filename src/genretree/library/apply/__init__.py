"""Write the planned tags into files."""
