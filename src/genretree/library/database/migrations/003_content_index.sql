-- Finds the changes of renamed files by content. Some databases of format 2 have it already.
CREATE INDEX IF NOT EXISTS change_after ON change (after) WHERE state = 'written';
