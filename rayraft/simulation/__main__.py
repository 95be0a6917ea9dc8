"""``python -m rayraft.simulation 0 1000``: run a range of seeds, tell the stories of those that fail."""

from __future__ import annotations

import argparse
import sys
import time

from rayraft.simulation.run import SimulationFailed, simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rayraft.simulation")
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int, nargs="?")
    parser.add_argument("--nodes", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--keep-going", action="store_true")
    arguments = parser.parse_args()
    last = arguments.first if arguments.last is None else arguments.last
    begun, simulated, failed = time.process_time(), 0.0, []
    for seed in range(arguments.first, last + 1):
        try:
            report = simulate(seed, nodes=arguments.nodes, seconds=arguments.seconds)
        except SimulationFailed as failure:
            failed.append(seed)
            print(str(failure.violation if arguments.keep_going else failure), "seed", seed, flush=True)
            if not arguments.keep_going:
                break
            continue
        simulated += report.simulated_seconds
        if arguments.first == last:
            print(report)
    took = time.process_time() - begun
    print(f"{simulated:.0f} simulated seconds in {took:.1f} s: {simulated / took:.0f} per second; failed: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
