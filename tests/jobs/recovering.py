"""Plans carried out, and copies started from them, for the tests of this package."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path

from holdfast.jobs.progress import Silent
from holdfast.jobs.recovery_inputs import RecoveryInputs
from holdfast.jobs.recovery_planning import plan_present
from holdfast.jobs.restore import Restored, restore
from holdfast.jobs.restore_plan import RestorePlan, plan_restore
from holdfast.jobs.start import Started, StartPlan, account_of, as_account, start, start_command
from holdfast.policy.recovery import RecoveryPlan
from holdfast.policy.targets import parse_target
from holdfast.repository.reader import SnapshotReader
from tests.jobs.going import CLOCK
from tests.servers import Cluster, Servers, free_port, run, wait_until


def plan(inputs: RecoveryInputs, text: str, **options: object) -> RecoveryPlan:
    return plan_present(
        parse_target(text, now=CLOCK.now(), zone=UTC, **options),  # type: ignore[arg-type]
        inputs,
    )


def bring(
    inputs: RecoveryInputs, recovery: RecoveryPlan, target: Path, tablespaces: dict[str, Path] | None = None
) -> tuple[RestorePlan, Restored]:
    known = recovery.known
    reader = SnapshotReader(inputs.repositories[known.repository])
    planned = plan_restore(
        known.snapshot, reader, target, tablespaces=tablespaces or {}, recovery=recovery,
        timelines=inputs.timelines(known.facts.system_identifier),
    )  # fmt: skip
    return planned, restore(planned, reader, inputs=inputs, progress=Silent())


@contextmanager
def recovered(
    servers: Servers, source: Cluster, inputs: RecoveryInputs, text: str, **options: object
) -> Iterator[tuple[Cluster, Started, RecoveryPlan]]:
    """A copy at that moment, started beside its source; what it reached has been compared with the plan."""
    recovery = plan(inputs, text, **options)
    folder = servers.new_folder("back")
    planned, _restored = bring(inputs, recovery, folder / "data")
    started = start(
        planned, StartPlan(binaries=source.bin, account=account_of(planned)), clock=CLOCK, stopped=lambda: False
    )
    with started.instance as instance:
        yield seen(source, planned.target, instance.socket_dir, instance.port), started, recovery
        instance.stop()


def seen(source: Cluster, data: Path, sockets: Path, port: int) -> Cluster:
    log = data.parent / "log"
    return Cluster(bin=source.bin, major=source.major, data_dir=data, socket_dir=sockets, port=port, log=log)


@contextmanager
def started_by_hand(servers: Servers, source: Cluster, plan: RestorePlan) -> Iterator[Cluster]:
    """As the operator starts it: pg_ctl, an empty environment, nothing of ours; and its recovery has ended."""
    port, sockets = free_port(), servers.new_folder("s")
    command = [*as_account(account_of(plan), start_command(plan, source.bin)), "-o", f"-p {port} -k {sockets}"]
    done = subprocess.run(command, env={}, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    log = plan.target / "holdfast-recovery" / "server.log"
    assert done.returncode == 0, done.stdout + log.read_text(errors="replace")
    copy = seen(source, plan.target, sockets, port)
    try:
        wait_until(lambda: not copy.value("select pg_is_in_recovery()"), "recovery ends", 60)
        yield copy
    finally:
        run([source.bin / "pg_ctl", "stop", "-m", "fast", "-w", "-D", plan.target])
