"""What operators ask of the caches."""
