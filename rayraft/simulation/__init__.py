"""Deterministic simulation: the real `Replica` on a simulated network, disk and clock, decided by one seed."""

from rayraft.simulation.invariants import InvariantViolated
from rayraft.simulation.run import Report, Simulation, SimulationFailed, simulate, tell

__all__ = ["InvariantViolated", "Report", "Simulation", "SimulationFailed", "simulate", "tell"]
