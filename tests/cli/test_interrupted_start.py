"""What is told of a server when its start is interrupted is true."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdfast.cli.output import Output
from holdfast.cli.restore import _start
from holdfast.cli.session import Session
from holdfast.errors import Interrupted
from holdfast.jobs.start import StartPlan, account_of
from holdfast.postgres.instance import Instance, is_running_on, stop_by_data_dir
from tests.jobs.going import back_up, bring_back, new_folder_repository
from tests.servers import Cluster, Servers


def test_a_server_that_runs_is_not_denied(
    servers: Servers, make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make_cluster(15)
    repository = new_folder_repository(servers)
    snapshot = back_up(cluster, repository)
    target = servers.new_folder("back") / "data"
    plan = bring_back(repository, snapshot, target)
    start_plan = StartPlan(binaries=cluster.bin, account=account_of(plan))
    session = Session(config_file=None, json=True, verbose=False, output=Output(json=True, verbose=False))
    leave, wait = Instance.leave_running, Instance.wait_until_ready

    def interrupted_after(done: Callable[..., None]) -> Callable[..., None]:
        def call(instance: Instance, **options: object) -> None:
            done(instance, **options)
            raise KeyboardInterrupt

        return call

    monkeypatch.setattr(Instance, "wait_until_ready", interrupted_after(wait))
    with pytest.raises(Interrupted, match="no server runs on it"):
        _start(session, plan, start_plan)
    assert not is_running_on(target)

    monkeypatch.setattr(Instance, "wait_until_ready", wait)
    monkeypatch.setattr(Instance, "leave_running", interrupted_after(leave))
    target = servers.new_folder("back") / "data"
    plan = bring_back(repository, snapshot, target)
    with pytest.raises(Interrupted, match="a server runs on it") as caught:
        _start(session, plan, start_plan)
    try:
        assert is_running_on(target)
        assert f"pg_ctl stop -m fast -D {target}" in caught.value.hint
    finally:
        stop_by_data_dir(target, binaries=cluster.bin, account=start_plan.account)
