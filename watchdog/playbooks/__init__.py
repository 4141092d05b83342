"""Playbooks: what may be done about which alert, in which order, and the runner that does it safely."""
