"""llm-proxy, a small OpenAI-compatible proxy. PyPI's `proxy.py` is another project with the same import name."""

__version__ = "0.1.0"
