"""The library's SQLite database: files, results, and the journal of changes."""
