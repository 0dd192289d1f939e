"""From accepted batches to durable ones: admission, batching, the commit loop."""
