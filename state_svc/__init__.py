"""The state service: batches, compresses, commits, acknowledges and publishes node changes."""

__version__ = "0.1.0"
