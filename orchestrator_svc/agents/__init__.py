"""Agents: the code that does a node's work. The runner calls them through `base`."""
