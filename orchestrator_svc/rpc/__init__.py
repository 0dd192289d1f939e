"""The gRPC edge: OrchestratorService, errors, health and reflection."""
