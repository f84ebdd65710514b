-- The schema of the current format. A change here also needs a numbered script in migrations/.
-- Triggers maintain tally and file_tally, so that counting a million rows takes no time. result.here mirrors file.gone:
-- results of files that are missing stay, and are not counted.
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE model (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, family TEXT NOT NULL, heads TEXT NOT NULL, tree TEXT NOT NULL,
    bundle TEXT NOT NULL, note TEXT NOT NULL, used REAL NOT NULL);
CREATE TABLE file (
    id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, content BLOB,
    genres TEXT, error TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT '', seen INTEGER NOT NULL,
    gone INTEGER NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0, own TEXT);
CREATE INDEX file_content ON file (content);
CREATE INDEX file_error ON file (error, id) WHERE error <> '';
CREATE TABLE result (
    file INTEGER NOT NULL, model INTEGER NOT NULL, content BLOB NOT NULL, here INTEGER NOT NULL DEFAULT 1,
    leaf INTEGER NOT NULL DEFAULT -1, confidence REAL, probabilities BLOB, slices INTEGER NOT NULL DEFAULT 0,
    padded INTEGER NOT NULL DEFAULT 0, runtime TEXT NOT NULL DEFAULT '', error TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '', PRIMARY KEY (file, model)) WITHOUT ROWID;
CREATE INDEX result_content ON result (model, content);
CREATE INDEX result_genre ON result (model, here, leaf, confidence DESC);
CREATE INDEX result_sure ON result (model, here, confidence DESC) WHERE error = '';
CREATE INDEX result_error ON result (model, here, error) WHERE error <> '';
CREATE TABLE tally (
    model INTEGER, here INTEGER, leaf INTEGER, error TEXT, n INTEGER NOT NULL,
    PRIMARY KEY (model, here, leaf, error)) WITHOUT ROWID;
CREATE TABLE file_tally (gone INTEGER, error TEXT, n INTEGER NOT NULL, PRIMARY KEY (gone, error)) WITHOUT ROWID;
CREATE TRIGGER result_in AFTER INSERT ON result BEGIN
    INSERT INTO tally VALUES (new.model, new.here, new.leaf, new.error, 1) ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER result_out AFTER DELETE ON result BEGIN
    UPDATE tally SET n = n - 1 WHERE model = old.model AND here = old.here AND leaf = old.leaf AND error = old.error;
END;
CREATE TRIGGER result_moved AFTER UPDATE OF here, leaf, error ON result BEGIN
    UPDATE tally SET n = n - 1 WHERE model = old.model AND here = old.here AND leaf = old.leaf AND error = old.error;
    INSERT INTO tally VALUES (new.model, new.here, new.leaf, new.error, 1) ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER file_in AFTER INSERT ON file BEGIN
    INSERT INTO file_tally VALUES (new.gone, new.error, 1) ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER file_moved AFTER UPDATE OF gone, error ON file WHEN old.gone <> new.gone OR old.error <> new.error BEGIN
    UPDATE file_tally SET n = n - 1 WHERE gone = old.gone AND error = old.error;
    INSERT INTO file_tally VALUES (new.gone, new.error, 1) ON CONFLICT DO UPDATE SET n = n + 1;
    UPDATE result SET here = 1 - new.gone WHERE file = new.id AND here <> 1 - new.gone;
END;
CREATE TABLE run (
    id INTEGER PRIMARY KEY, started REAL NOT NULL, model TEXT NOT NULL, command TEXT NOT NULL);
CREATE TABLE change (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL, path BLOB NOT NULL, state TEXT NOT NULL, temporary BLOB NOT NULL,
    before BLOB NOT NULL, after BLOB NOT NULL DEFAULT x'', before_mtime_ns INTEGER NOT NULL, old TEXT NOT NULL,
    new TEXT NOT NULL, delta BLOB);
CREATE INDEX change_path ON change (path, id);
CREATE INDEX change_run ON change (run, id);
CREATE INDEX change_open ON change (id) WHERE state IN ('begun', 'undoing');
CREATE INDEX change_after ON change (after) WHERE state = 'written';
-- Embeddings by network and content, so that copies share one. The last table: `rescue` relies on the pages of the others.
CREATE TABLE embedding (
    id INTEGER PRIMARY KEY, model TEXT NOT NULL, content BLOB NOT NULL, vector BLOB, error TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '');
CREATE UNIQUE INDEX embedding_content ON embedding (content, model);
