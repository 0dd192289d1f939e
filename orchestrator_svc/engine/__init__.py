"""The thin shell around the core: one runner per project, agent calls, leases, the scanner."""
