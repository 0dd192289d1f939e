"""Generated stubs of the public contract, `ramify.v1`."""
