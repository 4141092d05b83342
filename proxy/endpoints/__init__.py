"""What callers may ask for, one file per kind of thing; each has a function `routes` that returns its table."""
