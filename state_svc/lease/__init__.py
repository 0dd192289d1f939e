"""Leases: who may write to a project, and until when."""
