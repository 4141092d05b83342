-- What must be told. A row is written with the decision to tell, and removed long after it was told.
CREATE TABLE outbox (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    key          TEXT NOT NULL UNIQUE,      -- idempotency key
    address      TEXT NOT NULL,             -- receiver/integration
    topic        TEXT NOT NULL,             -- rows of one topic at one address leave in order
    state        TEXT NOT NULL,             -- pending | claimed | sent | dead
    body         TEXT NOT NULL,             -- JSON of core.routing.Delivery
    attempts     INTEGER NOT NULL DEFAULT 0,
    error        TEXT NOT NULL DEFAULT '',  -- of the last attempt
    created_at   REAL NOT NULL,
    due_at       REAL NOT NULL,             -- pending: next attempt; claimed: end of the lease
    ended_at     REAL
);
CREATE INDEX outbox_open ON outbox (address, topic, id) WHERE ended_at IS NULL;
CREATE INDEX outbox_ended ON outbox (ended_at) WHERE ended_at IS NOT NULL;
