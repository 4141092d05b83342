"""HTTP/1.1 to providers: connections, what is said on them, and how they are made."""
