"""proxywatch, the host agent. PyPI's `watchdog` (file-system events) is another project with the same import name."""
