"""The caller's side, without Ray: packs calls, numbers them, finds the leader and repeats until the deadline."""
