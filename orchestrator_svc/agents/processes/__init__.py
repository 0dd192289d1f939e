"""Child processes of agents: killable, bounded, and gone when the orchestrator is gone.

`client.py` is what agents use. It talks to one helper process (`host.py`) that starts every
child, reads its output and ends it, so that neither a fork nor a full pipe can hold the event
loop, and so that somebody is left to end the children when the orchestrator is killed.
"""
