"""Plan what to write: genre mapping, plans, previews and playlists."""
