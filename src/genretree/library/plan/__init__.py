"""What would be written: genre mapping, plans, previews and playlists."""
