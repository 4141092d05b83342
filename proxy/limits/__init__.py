"""How much anybody may have: sliding windows shared by all workers, open streams, and sources of failed keys."""
