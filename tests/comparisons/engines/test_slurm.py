"""The sbatch file of docs/benchmark/cluster.md, on one machine that plays two nodes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from evaluation.storage.store import Store

pytestmark = pytest.mark.training

pytest.importorskip("ray")
ROOT = Path(__file__).parents[3]


def _sbatch() -> str:
    (found,) = re.findall(
        r"```sh\n(#!/bin/bash\n#SBATCH.*?)```",
        (ROOT / "docs" / "benchmark" / "cluster.md").read_text(),
        re.DOTALL,
    )
    return found


def _stand_in(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_the_sbatch_file_is_a_shell_script_with_its_options_first():
    text = _sbatch()
    checked = subprocess.run(
        ["bash", "-n"], input=text, text=True, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    lines = text.splitlines()
    last_option = max(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    # SLURM reads no option after the first command.
    assert all(line.startswith("#") for line in lines[: last_option + 1])


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".venv" / "bin" / "ray").exists(), reason="no .venv with Ray")
def test_the_sbatch_file_runs_a_plan_on_its_nodes(tmp_path, make_tiny_plan):
    from comparisons.estimates.files import write_plan_file

    tools = tmp_path / "bin"
    tools.mkdir()
    _stand_in(tools, "scontrol", 'printf "one\\ntwo\\n"')
    # The options of srun go before the command.
    _stand_in(tools, "srun", 'while [[ "$1" == --* ]]; do shift; done; exec "$@"')
    _stand_in(tools, "hostname", "echo 127.0.0.1")
    plan = make_tiny_plan("centre")
    write_plan_file(tmp_path / "plan.json", {"plan": asdict(plan)})
    out = tmp_path / "run"
    script = tmp_path / "run.sbatch"
    script.write_text(_sbatch())
    environment = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "PLAN": str(tmp_path / "plan.json"),
        "OUT": str(out),
        "PORT": "6411",
        "MORE": "--device cpu",
        "SCRATCH": str(tmp_path / "scratch"),
    }
    environment.pop("SLURM_GPUS_ON_NODE", None)
    said = tmp_path / "said"
    with said.open("w") as file:
        batch = subprocess.Popen(
            ["bash", str(script)],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        assert batch.wait(500) == 0, said.read_text()
    finally:
        # As SLURM does at the end of an allocation: Ray's own processes may still be there.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(batch.pid, signal.SIGKILL)
    assert (out / "report.html").exists()
    assert {"base", "retrain"} <= {result.kind for result in Store(out).results()}
    assert re.search(r"Ray [\d.]+: [12] nodes?, [12] CPUs", said.read_text())
