-- What is looked up at every step of a run, and what forgetting an incident cascades over.
CREATE INDEX runs_incident ON runs (incident_id, id);
CREATE INDEX effects_run ON effects (run_id, id);
CREATE INDEX incidents_resolved ON incidents (resolved_at);
