"""What is done for the caches without being asked: relief of memory, and warming."""
