"""Agents that carry out a given plan: commands, Python functions and HTTP requests.

`tree.py` checks a plan and resolves what its tasks inherit, `actions.py` runs one task,
`report.py` says what became of a group, `agents.py` plays the four roles.
"""

from orchestrator_svc.agents.plan.agents import PlanAgents

__all__ = ["PlanAgents"]
