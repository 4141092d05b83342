"""The agent's memory: SQLite in WAL mode, numbered migrations, one repository per noun."""
