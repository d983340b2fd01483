"""A person with matrix-js-sdk, as it comes from npm, in a process of its own (`js/person.mjs`).

May not: know the library; it passes on what is asked, and what came of it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from vestibule import REPOSITORY, environment

ENDS_WITHIN_SECONDS = 10.0


def installed() -> Path:
    """Where run.sh has put the script beside its packages."""
    return Path(os.environ.get("INTEROP_JS") or REPOSITORY / "target" / "interop-js")


class JsClient:
    """One line of JSON for each question, one for each answer."""

    def __init__(self, homeserver: str, user_id: str, password: str, log_file: Path) -> None:
        self._log = log_file.open("ab")
        self._process = subprocess.Popen(
            ["node", str(installed() / "person.mjs")], env=environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
        )
        self.user_id = user_id
        self.library = self._ask("login", homeserver, user_id, password)

    def knock(self, room: str, via: list[str], reason: str) -> str:
        return self._ask("knock", room, via, reason)

    def join(self, room_id: str) -> None:
        self._ask("join", room_id)

    def leave(self, room_id: str) -> None:
        self._ask("leave", room_id)

    def invite(self, room_id: str, user_id: str) -> None:
        self._ask("invite", room_id, user_id)

    def say(self, room_id: str, text: str) -> str:
        return self._ask("say", room_id, text)

    def is_knocking(self, room_id: str) -> bool | None:
        return self._ask("stands", room_id, "knock")

    def room_name(self, room_id: str) -> str | None:
        return self._ask("roomName", room_id)

    def is_invited(self, room_id: str) -> bool:
        return self._ask("stands", room_id, "invite")

    def knock_of(self, room_id: str, user_id: str) -> str | None:
        return self._ask("knockOf", room_id, user_id)

    def has_joined(self, room_id: str, user_id: str) -> bool:
        """Whether that user's join comes to show."""
        return self._ask("hasJoined", room_id, user_id)

    def read(self, room_id: str, event_id: str) -> str | None:
        return self._ask("read", room_id, event_id)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=ENDS_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _ask(self, what: str, *arguments: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps([what, *arguments]), file=self._process.stdin, flush=True)
        # Every wait in the script ends by itself, so an answer or an end comes.
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{what}: the script ended with {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{what}{arguments}: {answer['error']}")
        return answer["found"]
