"""A snapshot where recovery has none to begin with: after a gap, or at the very first. Taken by a process of its own.

It is tried again until there is one; WAL goes on streaming meanwhile, so that the window opens with it.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.clock import Clock
from holdfast.errors import Damaged, HoldfastError
from holdfast.jobs.archive_events import Event, Listener, Weight
from holdfast.messages import _
from holdfast.postgres.facts import BackupFacts
from holdfast.postgres.lsn import Lsn
from holdfast.repository.repository import Repository

FIRST_PAUSE = 5.0
LONGEST_PAUSE = 300.0
_SLICE = 0.25

SnapshotCommand = Callable[[str], Sequence[str | Path]]
"""The command that takes a snapshot into the named repository."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """Where the WAL begins that a snapshot is wanted for."""

    system_identifier: int
    lsn: Lsn


class Closing:
    """One thread; :meth:`want` says what is wanted, :attr:`state` what is going on."""

    def __init__(
        self,
        source: str,
        command: SnapshotCommand | None,
        repositories: Callable[[], Mapping[str, Repository]],
        *,
        clock: Clock,
        listener: Listener,
        changed: Callable[[], None],
    ) -> None:
        """``repositories``: those of the source's WAL that are open, in their order."""
        self._source = source
        self._command = command
        self._repositories = repositories
        self._clock = clock
        self._listener = listener
        self._changed = changed
        self._condition = threading.Condition()
        self._wanted: Opening | None = None
        self._stopped = False
        self._thread: threading.Thread | None = None
        self.state = ""
        """``running``, ``failed: why``; empty: none is needed."""

    def want(self, opening: Opening) -> None:
        """A snapshot whose WAL begins there or later is to be: if there is none, one is taken."""
        if self._command is None:
            return
        with self._condition:
            self._wanted = opening
            self._condition.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="snapshot", daemon=True)
                self._thread.start()

    @property
    def is_at_work(self) -> bool:
        """Whether it is not known yet that there is one, nor that it cannot be taken now."""
        with self._condition:
            return self._wanted is not None and not self.state.startswith("failed")

    def stop(self) -> None:
        """Ends the process, if one is at work, and waits for it a few seconds."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join(5)

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._stopped or self._wanted is not None)
                wanted = self._wanted
            if self._stopped or wanted is None:
                return
            try:
                failure = self._close(wanted)
            except Exception as error:  # noqa: BLE001  it is tried again, and told
                failure = f"{type(error).__name__}: {error}"
            with self._condition:
                if failure is None:
                    if self._wanted == wanted:
                        self._wanted = None
                    self.state, pause = "", FIRST_PAUSE
                else:
                    self.state = f"failed: {failure}"
            self._changed()
            if failure is not None:
                self._tell(Weight.ALARM, "snapshot failed", _("the snapshot failed: {why}").format(why=failure))
                with self._condition:
                    self._condition.wait_for(lambda: self._stopped, pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    def _close(self, wanted: Opening) -> str | None:
        """None: each repository that is open has a snapshot now, so that it is enough alone; else why one has none."""
        opened = self._repositories()
        if not opened or self._command is None:
            return _("no repository is open")
        failures = [failure for name in opened if (failure := self._close_in(name, opened[name], wanted)) is not None]
        return failures[0] if failures else None

    def _close_in(self, name: str, repository: Repository, wanted: Opening) -> str | None:
        assert self._command is not None
        try:
            if self._is_there(repository, wanted):
                return None
        except HoldfastError as error:
            return str(error)
        self.state = "running"
        self._changed()
        self._tell(
            Weight.INFO,
            "snapshot",
            _("taking a snapshot into {repository}: recovery needs one to begin with").format(repository=name),
        )
        failure = self._take(self._command(name))
        if failure is None:
            self._tell(Weight.INFO, "snapshot taken", _("the snapshot is taken: a window is open"))
        return failure

    def _is_there(self, repository: Repository, wanted: Opening) -> bool:
        for snapshot in repository.records().snapshots:
            if snapshot.source != self._source or snapshot.source_type != "postgres":
                continue
            try:
                facts = BackupFacts.from_json(snapshot.facts)
            except Damaged:
                continue
            if facts.system_identifier == wanted.system_identifier and facts.stop_lsn >= wanted.lsn:
                return True
        return False

    def _take(self, command: Sequence[str | Path]) -> str | None:
        try:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            return str(error)
        said: list[str] = []
        assert process.stderr is not None
        with process, process.stderr as stderr:
            reader = threading.Thread(target=lambda: said.extend(stderr), daemon=True)
            reader.start()
            while process.poll() is None:
                with self._condition:
                    if self._condition.wait_for(lambda: self._stopped, _SLICE):
                        process.terminate()
                        break
            try:
                process.wait(4)
            except subprocess.TimeoutExpired:
                process.kill()
            reader.join(2)
        if process.returncode in (0, 3):
            return None
        words = [line.strip().removeprefix("holdfast: ") for line in said if line.strip()]
        errors = [line for line in words if not line.startswith("warning")]
        return (errors or words or [_("exit code {code}").format(code=process.returncode)])[0]

    def _tell(self, weight: Weight, kind: str, text: str) -> None:
        self._listener.heard(Event(when=self._clock.now(), weight=weight, kind=kind, text=text))
