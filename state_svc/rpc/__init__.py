"""The edge: gRPC in, gRPC out. The only place that knows status codes."""
