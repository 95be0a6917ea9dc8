"""Histories of what clients asked and were answered, and whether one order of the operations explains them all."""

from rayraft.history.checker import Limits, Report, Verdict, Violation, check
from rayraft.history.operations import History, Kind, Operation
from rayraft.history.recording import Recording

__all__ = ["History", "Kind", "Limits", "Operation", "Recording", "Report", "Verdict", "Violation", "check"]
