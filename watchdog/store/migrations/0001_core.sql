-- Alerts as the rule engine last saw them, so that `for` survives a restart.
CREATE TABLE alerts (
    fingerprint  TEXT PRIMARY KEY,
    rule         TEXT NOT NULL,
    body         TEXT NOT NULL              -- JSON of core.model.Alert
) WITHOUT ROWID;

CREATE TABLE incidents (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    key          TEXT NOT NULL,             -- target or alert group; at most one unresolved incident per key
    state        TEXT NOT NULL,
    body         TEXT NOT NULL,             -- JSON of core.incidents.Incident
    opened_at    REAL NOT NULL,
    resolved_at  REAL
);
CREATE UNIQUE INDEX incidents_unresolved ON incidents (key) WHERE resolved_at IS NULL;
CREATE INDEX incidents_opened ON incidents (opened_at);

CREATE TABLE timeline (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    incident_id  INTEGER NOT NULL REFERENCES incidents (id) ON DELETE CASCADE,
    at           REAL NOT NULL,
    kind         TEXT NOT NULL,
    text         TEXT NOT NULL,
    data         TEXT NOT NULL              -- JSON
);
CREATE INDEX timeline_incident ON timeline (incident_id, id);

-- One run of a playbook. `position` says where it stands: enough to go on after kill -9 at any instant.
CREATE TABLE runs (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    incident_id  INTEGER REFERENCES incidents (id) ON DELETE CASCADE,
    playbook     TEXT NOT NULL,
    target       TEXT NOT NULL,
    trigger      TEXT NOT NULL,             -- alert | person
    state        TEXT NOT NULL,             -- running | verified | mitigated | exhausted | refused | cancelled
    position     TEXT NOT NULL,             -- JSON of playbooks.run.Position
    started_at   REAL NOT NULL,
    ended_at     REAL
);
CREATE INDEX runs_unended ON runs (ended_at) WHERE ended_at IS NULL;

-- An effect is written as intended before it is tried and gets its result after; the gap is what a crash leaves.
CREATE TABLE effects (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id       INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    key          TEXT NOT NULL UNIQUE,      -- idempotency key
    playbook     TEXT NOT NULL,
    target       TEXT NOT NULL,
    rung         TEXT NOT NULL,
    step         INTEGER NOT NULL,
    action       TEXT NOT NULL,
    arguments    TEXT NOT NULL,             -- JSON
    survey       TEXT NOT NULL,             -- JSON: what the world looked like before
    intended_at  REAL NOT NULL,
    outcome      TEXT,                      -- done | failed | not_done | unknown
    note         TEXT NOT NULL DEFAULT '',
    ended_at     REAL
);
CREATE INDEX effects_intended ON effects (intended_at);
CREATE INDEX effects_unended ON effects (outcome) WHERE outcome IS NULL;

-- Small facts by name: pauses, health streaks, the control generation.
CREATE TABLE facts (
    name         TEXT PRIMARY KEY,
    body         TEXT NOT NULL
) WITHOUT ROWID;
