-- What happened to the whole agent rather than to one incident: pauses, silences, maintenance, storms.
CREATE TABLE happenings (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    at           REAL NOT NULL,
    kind         TEXT NOT NULL,
    text         TEXT NOT NULL
);
CREATE INDEX happenings_at ON happenings (at);
-- What `history` reads over all incidents.
CREATE INDEX timeline_at ON timeline (at);
CREATE INDEX runs_alone ON runs (started_at) WHERE incident_id IS NULL;
