"""Published and built-in data sets: ccmusic-database/music_genre, and a synthetic corpus."""
