"""A restored copy that takes its source's place is backed up and restored again: with its configuration every time."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
from pathlib import Path

from holdfast.errors import PermissionRefused
from holdfast.jobs.restore_plan import RestorePlan
from holdfast.jobs.start import account_of, as_account, concerns, start_command
from holdfast.postgres.connection import connect_replication
from holdfast.postgres.instance import Instance, stop_by_data_dir
from holdfast.repository.repository import Repository
from holdfast.repository.snapshots import Snapshot
from tests.jobs.going import back_up, bring_back, new_folder_repository, started
from tests.servers import Cluster, Servers, debian_cluster, wait_until


def _started_as_printed(plan: RestorePlan, cluster: Cluster) -> tuple[str, ...]:
    command = start_command(plan, cluster.bin)
    done = subprocess.run(
        as_account(account_of(plan), command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return command


def _backed_up_beside(instance: Instance, cluster: Cluster, repository: Repository) -> Snapshot:
    """A started copy lets no replication in until the operator does."""
    with (instance.data_dir / "holdfast-recovery" / "run" / "pg_hba.conf").open("a") as hba:
        hba.write("local replication all trust\n")
    os.kill(instance.pid, signal.SIGHUP)
    connection = instance.connection_string()

    def let_in() -> bool:
        try:
            connect_replication(connection).close()
        except PermissionRefused:
            return False
        return True

    wait_until(let_in, "the copy lets replication in")
    return back_up(cluster, repository, connection=connection)


def test_a_debian_cluster_through_three_generations(servers: Servers) -> None:
    repository = new_folder_repository(servers)
    with debian_cluster() as cluster:
        etc = Path(cluster.value("show config_file")).parent
        texts = {name: (etc / name).read_bytes() for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf")}
        snapshot = back_up(cluster, repository)
        cluster.stop()
        for generation in range(2):
            target = servers.new_folder(f"back{generation}") / "data"
            plan = bring_back(repository, snapshot, target)
            command = _started_as_printed(plan, cluster)
            try:
                assert f"config_file={target}/holdfast-etc/postgresql.conf" in " ".join(command)
                assert cluster.value("show hba_file") == f"{target}/holdfast-etc/pg_hba.conf"
                assert cluster.value("show data_directory") == str(target)
                snapshot = back_up(cluster, repository)
            finally:
                stop_by_data_dir(target, binaries=cluster.bin, account=account_of(plan))
        _from_a_copy_beside_its_source(servers, repository, cluster, snapshot, texts)


def _from_a_copy_beside_its_source(
    servers: Servers, repository: Repository, cluster: Cluster, snapshot: Snapshot, texts: dict[str, bytes]
) -> None:
    """Backed up while it runs with files made for that start, it keeps those of its source."""
    beside = servers.new_folder("beside") / "data"
    plan = bring_back(repository, snapshot, beside)
    instance, _recovered = started(cluster, beside)
    with instance:
        again = _backed_up_beside(instance, cluster, repository)
    last = servers.new_folder("last") / "data"
    plan = bring_back(repository, again, last)
    assert {name: (last / "holdfast-etc" / name).read_bytes() for name in texts} == texts
    assert not (last / "holdfast-recovery" / "run").exists()
    _started_as_printed(plan, cluster)
    stop_by_data_dir(last, binaries=cluster.bin, account=account_of(plan))


def test_a_copy_beside_a_stock_cluster_brings_no_file_that_lets_everybody_in(servers: Servers) -> None:
    repository = new_folder_repository(servers)
    cluster = servers.make_cluster(15)
    hba = (cluster.data_dir / "pg_hba.conf").read_bytes()
    first = servers.new_folder("back") / "data"
    bring_back(repository, back_up(cluster, repository), first)
    instance, _recovered = started(cluster, first)
    with instance:
        again = _backed_up_beside(instance, cluster, repository)
    assert again.facts["configuration"] == []
    second = servers.new_folder("back") / "data"
    bring_back(repository, again, second)
    assert (second / "pg_hba.conf").read_bytes() == hba
    assert not (second / "holdfast-etc").exists()

    # Without a file of its own there is none to bring, and that is said.
    third = servers.new_folder("back") / "data"
    plan = bring_back(repository, again, third)
    (third / "pg_hba.conf").unlink()
    instance, _recovered = started(cluster, third)
    with instance:
        lacking = _backed_up_beside(instance, cluster, repository)
    (file,) = lacking.facts["configuration"]
    assert (file["path"], file["how"]) == ("holdfast-etc/pg_hba.conf", "impossible")
    assert "started copy" in str(file["note"])

    _about_locales(plan)
    servers.remove(cluster)


def _about_locales(plan: RestorePlan) -> None:
    machine = plan.facts.platform.partition("-")[0]
    assert not concerns(plan, machine=machine, libc=None)
    first, *others = plan.facts.databases
    chinese = dataclasses.replace(first, name="tracker", collate="zz_ZZ.UTF-8", ctype="zz_ZZ.UTF-8")
    facts = dataclasses.replace(plan.facts, databases=(chinese, *others))
    (concern,) = concerns(dataclasses.replace(plan, facts=facts), machine=machine, libc=None)
    assert "lacks the locale zz_ZZ.UTF-8" in concern
    assert concern.endswith("connect to: tracker")
