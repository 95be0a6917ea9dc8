"""Faults on real machines: a multi-machine Ray cluster in namespaces of this one, and a nemesis that torments it."""
