"""The rules that every log store keeps alike, so that what the simulator proves holds for the disk too."""

from __future__ import annotations

from rayraft.raft.types import SnapshotMeta
from rayraft.storage.protocol import LogStore


def check_compact(store: LogStore, snapshot: SnapshotMeta, first_index: int) -> None:
    """Raise ValueError unless ``compact(snapshot, first_index)`` leaves no gap and steps nowhere back."""
    known, last = store.snapshot().index, store.last_index()
    if not known <= snapshot.index <= last:
        raise ValueError(f"snapshot {snapshot.index} is outside {known}..{last}: what is recorded and what is logged")
    if first_index > snapshot.index + 1:
        raise ValueError(f"a log from {first_index} leaves a gap after snapshot {snapshot.index}")


def check_install(store: LogStore, snapshot: SnapshotMeta) -> None:
    """Raise ValueError when ``snapshot`` is older than the one recorded."""
    if snapshot.index < store.snapshot().index:
        raise ValueError(f"snapshot {snapshot.index} is older than {store.snapshot().index}, which is recorded")


def check_bounds(store: LogStore, last_term: int) -> None:
    """Raise AssertionError unless snapshot, log and hard state, each sound in itself, fit together."""
    first, last, snapshot, hard_state = store.first_index(), store.last_index(), store.snapshot(), store.hard_state()
    assert first - 1 <= snapshot.index <= last, f"snapshot {snapshot.index} does not meet the log {first}..{last}"
    assert hard_state.commit <= last, f"commit index {hard_state.commit} is above the last index {last}"
    assert last_term <= hard_state.term, f"last entry has term {last_term}, the node has only {hard_state.term}"
