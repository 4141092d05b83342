"""Which version this is. Not in the package's `__init__`, which PyPI's `watchdog` overwrites when both are installed:
the command must live long enough to say so."""

__version__ = "0.1.0"
