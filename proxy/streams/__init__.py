"""Streams: an answer opened at a provider, relayed to the caller, continued elsewhere when it is cut, ended honestly."""
