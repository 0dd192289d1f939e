"""The way to state_svc: outbox, the one mutation stream, unary calls and watches."""
