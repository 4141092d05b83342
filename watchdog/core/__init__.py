"""Pure decisions: `now` is an argument; no I/O, no clock, no randomness, no asyncio."""
