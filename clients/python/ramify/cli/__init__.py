"""The `ramify` command: start runs, follow them, read them. A shell around the SDK."""
