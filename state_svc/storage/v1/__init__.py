"""Generated stubs of what state_svc writes to disk."""
