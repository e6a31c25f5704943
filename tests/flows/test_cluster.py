"""The cluster example on hosts of their own, for which network namespaces stand in."""

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.catalog.database import open_catalog
from tests.conftest import ROOT, cli_environment, planted_overrides
from tests.flows.contents import contents

pytestmark = pytest.mark.whole

CONFIG = "configs/demo.yaml"
HEAD = "10.231.{}.1"
"""Of the host that starts the job, on its line to each worker's host."""

Cli = Callable[..., subprocess.CompletedProcess[str]]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Names of three namespaces: the first one has a line to each of the others, which see it and each other."""
    names = [f"ci-{uuid.uuid4().hex[:6]}-{i}" for i in range(3)]
    head, *others = names
    try:
        try:
            for name in names:
                ip("netns", "add", name)
                ip("-n", name, "link", "set", "lo", "up")
            for i, other in enumerate(others):
                ip("link", "add", f"veth{i}", "netns", head, "type", "veth", "peer", "name", "eth0", "netns", other)
                ip("-n", head, "addr", "add", f"{HEAD.format(i)}/24", "dev", f"veth{i}")
                ip("-n", head, "link", "set", f"veth{i}", "up")
                ip("-n", other, "addr", "add", f"10.231.{i}.2/24", "dev", "eth0")
                ip("-n", other, "link", "set", "eth0", "up")
                ip("-n", other, "route", "add", "default", "via", HEAD.format(i))
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces here: {error}")
        subprocess.run(
            ["ip", "netns", "exec", head, "sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True, capture_output=True
        )
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.mark.slow
def test_the_slurm_example_spreads_a_run_over_hosts(
    hosts: list[str], cli: Cli, tmp_path: Path, prefect_home: Path
) -> None:
    head, *others = hosts
    overrides = planted_overrides(tmp_path)
    expected = cli("run", CONFIG, *overrides)
    assert expected.returncode == 0, expected.stderr
    launch = tmp_path / "launch"  # what srun does: the same command on every host of the job
    lines = [f'ip netns exec {other} "$@" &' for other in others]
    launch.write_text("\n".join(["#!/usr/bin/env bash", *lines, "wait"]))
    launch.chmod(0o755)
    environment = {
        **cli_environment(prefect_home),
        "LAUNCH": str(launch), "BIN": str(Path(sys.executable).parent), "SLURMD_NODENAME": HEAD.format(0),
    }  # fmt: skip
    store = tmp_path / "spread"
    done = subprocess.run(
        ["ip", "netns", "exec", head, "bash", "deployments/slurm.sbatch", CONFIG, *overrides, f"store={store}"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(store / "catalog.duckdb") == contents(tmp_path / "store" / "catalog.duckdb")
    started = [line for line in done.stderr.splitlines() if "Start worker at" in line]
    assert all(any(f"//10.231.{i}.2:" in line for line in started) for i in range(len(others)))
    with open_catalog(store / "catalog.duckdb") as connection:
        assert connection.execute("SELECT DISTINCT status FROM runs").fetchall() == [("completed",)]


def test_a_cluster_that_does_not_answer_is_told(cli: Cli, planted: list[str]) -> None:
    address = "tcp://127.0.0.1:1"
    refused = cli("run", CONFIG, *planted, "engine.runner=dask", f"engine.dask_address={address}")
    assert refused.returncode == 2
    assert f"engine.dask_address: no Dask workers at {address}" in refused.stderr
