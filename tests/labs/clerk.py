"""A client of the labs' key-value service: it asks until it has an answer, and writes down what it saw."""

from __future__ import annotations

from typing import Any

from rayraft.machine.calls import decode_results, encode_call, unwrap
from rayraft.machine.requests import NEW_SESSION, Status, decode_hint, encode_queries, encode_request, pack
from rayraft.raft.types import NodeId
from tests.labs.clock import Process, Promise, Wait
from tests.labs.cluster import Cluster
from tests.labs.history import Operation

PATIENCE = 1.0  # seconds until the next server is asked
PAUSE = 0.05  # after an answer that there is no leader


class Clerk:
    """One session. Its methods are processes: ``yield from clerk.put(...)``.

    ``reach`` are the servers it can talk to. A request keeps its number however often it is sent, a read has none.
    """

    def __init__(self, lab: Cluster, history: list[Operation]) -> None:
        self.lab = lab
        self.reach = set(lab.ids)
        self._history = history
        self._target: NodeId = lab.rng.choice(lab.ids)
        self._session = NEW_SESSION
        self._number = 0

    def put(self, key: str, value: str) -> Process:
        yield from self._recorded("put", key, value)

    def append(self, key: str, value: str) -> Process:
        yield from self._recorded("append", key, value)

    def get(self, key: str) -> Process:
        value = yield from self._recorded("get", key, "")
        return value

    def _recorded(self, method: str, key: str, argument: str) -> Process:
        called, place = self.lab.clock.now, len(self._history)
        self._history.append(Operation(method, key, argument, None, called))
        if method == "get":
            result = yield from self._read(encode_call("get", (key, ""), {}))
        else:
            result = yield from self._command(encode_call(method, (key, argument), {}))
        self._history[place] = Operation(method, key, argument, result, called, self.lab.clock.now)
        return result

    def _command(self, call: bytes) -> Process:
        if self._session == NEW_SESSION:
            nonce = self.lab.rng.getrandbits(62) + 1
            body = yield from self._ask(encode_request(NEW_SESSION, nonce, 0, []), reads=False)
            self._session = int.from_bytes(body, "little")
        self._number += 1
        body = yield from self._ask(encode_request(self._session, self._number, self._number - 1, [call]), reads=False)
        return unwrap(decode_results(body)[0])

    def _read(self, call: bytes) -> Process:
        body = yield from self._ask(encode_queries(pack([call])), reads=True)
        return unwrap(decode_results(body)[0])

    # --- one question, as often as it takes ---------------------------------------------------------------------------

    def _ask(self, data: bytes, *, reads: bool) -> Process:
        while True:
            answer = Promise()
            self._send(self._target, data, answer, reads=reads)
            reply: bytes | None = yield Wait(answer, PATIENCE)
            if reply is None:
                self._target = self._other()
                continue
            status, body = Status(reply[0]), reply[1:]
            if status is Status.OK:
                return body
            assert status in (Status.NOT_LEADER, Status.BUSY, Status.OUT_OF_ORDER), f"a request was lost: {status!r}"
            hint = decode_hint(body)[0] if status is Status.NOT_LEADER else self._target
            self._target = hint if hint in self.reach else self._other()
            yield PAUSE * self.lab.rng.uniform(0.1, 1.0)

    def _other(self) -> NodeId:
        return self.lab.rng.choice(sorted(self.reach))

    def _send(self, target: NodeId, data: bytes, answer: Promise, *, reads: bool) -> None:
        network, node = self.lab.network, self.lab[target]

        def respond(reply: bytes) -> None:
            network.carry(lambda: answer.give(reply), answer=True)

        def arrive() -> None:
            if node.replica is not None and target in self.reach:
                take: Any = node.replica.query if reads else node.replica.submit
                take(data, respond)
                node.turn()

        network.carry(arrive, answer=False)
