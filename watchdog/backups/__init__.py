"""Archives of configurations and SQLite files: made, judged, listed, pruned and put back. Whole or not at all."""
