"""Decides and executes: runs goals as task trees and streams every change to state_svc."""

__version__ = "0.1.0"
