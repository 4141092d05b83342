CREATE INDEX incidents_by_key ON incidents (key, opened_at);
