-- The GENRETREE_* fields of a file's tags, as JSON.
ALTER TABLE file ADD COLUMN own TEXT;
