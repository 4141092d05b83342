"""Providers: one file per kind says how its servers are addressed; `record` is what all workers know of them."""
