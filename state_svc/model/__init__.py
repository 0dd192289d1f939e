"""The pure core: what a project is, and what a batch of mutations does to it. No I/O."""
