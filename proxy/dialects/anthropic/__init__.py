"""Anthropic's Messages API: its callers at any provider, and OpenAI's callers at providers that speak it."""
