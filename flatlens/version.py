"""The version, which results bear."""

__version__ = "0.1.0"
