"""Watches: which changes a client sees, and how they reach it."""
