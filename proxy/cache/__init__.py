"""The response cache: what may be answered from memory, and the memory itself, shared by all workers."""
