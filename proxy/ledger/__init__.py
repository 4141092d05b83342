"""The ledger: one row for each request that was let in, written off the request path, lost to no outage."""
