"""Where commits become durable. `base.py` states the contract; one backend per file."""
