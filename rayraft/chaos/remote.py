"""The other end of `Machines.call`: a Ray driver that calls one function and leaves what came of it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import cloudpickle
import ray

from rayraft.chaos.machines import calling


def main(place: Path) -> None:
    function, arguments, workers = cloudpickle.loads(place.read_bytes())
    runtime_env = {"env_vars": workers} if workers else None  # also of what these workers start
    outcome: tuple[object, BaseException | None]
    try:
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR, runtime_env=runtime_env)
        calling(place).touch()
        outcome = (function(*arguments), None)
    except Exception as error:
        outcome = (None, error)
    place.write_bytes(cloudpickle.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
