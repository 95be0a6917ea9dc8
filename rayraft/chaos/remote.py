"""The other end of `Machines.call`: a Ray driver that calls one function and leaves what came of it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import cloudpickle
import ray


def main(place: Path) -> None:
    function, arguments = cloudpickle.loads(place.read_bytes())
    outcome: tuple[object, BaseException | None]
    try:
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
        outcome = (function(*arguments), None)
    except Exception as error:
        outcome = (None, error)
    place.write_bytes(cloudpickle.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
