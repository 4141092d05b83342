"""Streams: an answer is opened at a provider, relayed, continued elsewhere when it is cut, and ended honestly."""
