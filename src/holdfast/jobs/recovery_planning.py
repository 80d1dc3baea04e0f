"""A plan that can be carried out: what it counts on is there now, or the plan is another, or there is none.

Planning is pure, and works on what was held when it was listed; a summary may speak of segments that were deleted. So
the planned ones are looked for once more, and what is gone is planned around, if another repository has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from holdfast.errors import Refused
from holdfast.jobs.bring_wal import Place, missing
from holdfast.jobs.recovery_inputs import RecoveryInputs
from holdfast.messages import _
from holdfast.policy.recovery import RecoveryPlan, plan_recovery
from holdfast.policy.targets import WantedTarget
from holdfast.policy.windows import KnownSnapshot
from holdfast.postgres.lsn import Segment

_NAMED = 5
_ROUNDS = 8
"""So many repositories in turn may turn out to lack what is planned of them."""


def plan_present(
    wanted: WantedTarget, inputs: RecoveryInputs, snapshots: Sequence[KnownSnapshot] | None = None
) -> RecoveryPlan:
    """``snapshots``: those to choose from; else all. Raises as :func:`~holdfast.policy.recovery.plan_recovery` does,
    and ``Refused`` where segments that are needed are gone from their store and nobody else has them."""
    choice = inputs.snapshots if snapshots is None else snapshots
    first = plan = _plan(wanted, inputs, choice)
    told: list[str] = []
    for _round in range(_ROUNDS):
        gone = missing(plan, inputs)
        if not gone:
            return replace(plan, warnings=(*plan.warnings, *told))
        told += _texts(gone, plan, inputs)
        inputs = inputs.without(gone, plan.known.facts.system_identifier)
        try:
            plan = _plan(wanted, inputs, choice)
        except Refused as error:
            raise Refused("; ".join((*told, str(error))), hint=error.hint) from error
        if (plan.end, plan.end_at_most, plan.timeline) != (first.end, first.end_at_most, first.timeline):
            break
    raise Refused(
        _("{target} cannot be reached: {what}").format(target=wanted.text, what="; ".join(told)),
        hint=_("`holdfast verify` says what is whole, `holdfast status` from when to when any moment is reachable."),
    )


def _plan(wanted: WantedTarget, inputs: RecoveryInputs, snapshots: Sequence[KnownSnapshot]) -> RecoveryPlan:
    """What could not be asked or read is part of a refusal: it may hold what is missing."""
    try:
        return plan_recovery(wanted, snapshots, inputs.wal, transactions=inputs.transactions)
    except Refused as error:
        error.hint = "\n".join((error.hint, *inputs.warnings))
        raise


def _texts(gone: Mapping[str, frozenset[Place]], plan: RecoveryPlan, inputs: RecoveryInputs) -> list[str]:
    size = plan.known.facts.wal_segment_size
    texts = []
    for name, places in gone.items():
        names = [Segment(timeline=timeline, number=number, size=size).name for timeline, number in sorted(places)]
        shown = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
        texts.append(
            _("repository {name} ({url}) no longer has WAL that it had: {segments}").format(
                name=name, url=inputs.repositories[name].url, segments=shown
            )
        )
    return texts
