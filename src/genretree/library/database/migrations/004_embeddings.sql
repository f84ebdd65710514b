-- Embeddings by network and content, so that copies share one.
CREATE TABLE embedding (
    id INTEGER PRIMARY KEY, model TEXT NOT NULL, content BLOB NOT NULL, vector BLOB, error TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '');
CREATE UNIQUE INDEX embedding_content ON embedding (content, model);
