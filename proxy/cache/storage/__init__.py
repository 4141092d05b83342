"""What a cache holds, in the shared store and on its way there."""
