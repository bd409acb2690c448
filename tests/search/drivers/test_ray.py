"""A real cluster of one machine that times and two that build, one of which is killed in the middle of a candidate."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import laconic as lc
from laconic.search.drivers import driver
from laconic.search.drivers import ray as ray_driver
from laconic.search.drivers.ray import build_there, versions

ray = pytest.importorskip("ray", reason="needs the extra ray")
cluster_utils = pytest.importorskip("ray.cluster_utils", reason="needs the extra ray")
# Ray's own: its processes outlive a test by a moment, and it opens files that it leaves to the collector.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parents[3]
TARGET = lc.Target("torch", threads=1)  # whose file is written at once
RECIPES = [lc.Recipe((lc.Prune(macs=share, recovery={"epochs": 5, "lr": 1e-3, "batch_size": 8}),), TARGET) for share in (0.7, 0.5)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # else its processes wait for all others of the machine
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
        one = cluster_utils.Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"timing": 1}, "object_store_memory": 80_000_000}
        )
        try:
            yield one
        finally:
            ray.shutdown()
            one.shutdown()


def test_a_machine_that_is_lost_in_the_middle_costs_no_candidate(cluster: Any, tmp_path: Path) -> None:
    ray.init(address=cluster.address, log_to_driver=False)
    with pytest.raises(lc.BadInput, match="the cluster has no other machine with processors to build on"):
        driver("ray", 2)
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=80_000_000) for _ in range(2)]
    cluster.wait_for_nodes()
    crew = driver("ray", 2)
    crew.sees(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_driver, "_seen", lambda place: False)
        with pytest.raises(
            lc.BadInput, match="does not see .*, where the work for the URL is done here. Start the command in a folder on a mount"
        ):
            crew.sees(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    out = tmp_path / "run"
    lost: list[str] = []

    def lose() -> None:
        """Kill the machine that holds the first lease, as soon as it does."""
        until = time.monotonic() + 200
        while time.monotonic() < until and not lost:
            for lease in (out / "models").glob("*.lease"):
                with contextlib.suppress(OSError, ValueError):
                    line = _ancestors(json.loads(lease.read_text())["pid"])
                    node = next((one for one in nodes if _raylet(one) in line), None)
                    if node is not None:  # none holds the baseline's, which is built here
                        lost.append(lease.stem)
                        cluster.remove_node(node, allow_graceful=False)
                        return
            time.sleep(0.01)

    losing = threading.Thread(target=lose)
    losing.start()
    task = lc.load_task("tests.run.tiny:perceptron")
    chosen = lc.Options(rounds=3, turn_seconds=0.01, candidate_timeout_s=300)
    budget = lc.Budget(max_drop=100.0)
    result = lc.optimize(task, budget, out=out, recipes=RECIPES, options=chosen, workers=2, driver="ray")
    losing.join()
    assert lost
    assert [record["reasons"] for record in result.data["candidates"] if record["status"] not in ("passed", "rejected", "baseline")] == []
    assert [len(record["outcomes"]) for record in result.data["candidates"]] == [1, 1]
    assert lost[0] in {path.parent.parent.name for path in out.glob("models/*/pt2/built.json")}
    assert not list(out.rglob("*.lease"))


def test_machines_must_have_the_same_versions_and_see_the_folder(tmp_path: Path) -> None:
    known = {"run": str(tmp_path), "source": "program.pt2", "source_sha256": "0", "versions": versions()}
    assert "does not see the run's folder" in build_there({**known, "left_s": None})["error"]
    other = build_there({**known, "versions": {"laconic": "0", "torch": "0"}, "left_s": None})
    assert other["kind"] == "unsendable"
    assert "another machine has other versions" in other["error"]


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def _ancestors(pid: int) -> list[int]:
    found = [pid]
    while found[-1] > 1:
        found.append(int(Path(f"/proc/{found[-1]}/stat").read_text().rpartition(")")[2].split()[1]))
    return found
