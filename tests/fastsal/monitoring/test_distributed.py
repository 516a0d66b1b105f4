"""Two processes that train one model by gloo, watched and not."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.training

SCRIPT = """
import copy, sys
import torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from fastsal import watch

rank, meeting = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=2)
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.3),
    nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
)

def trained(watched):
    net = copy.deepcopy(network)
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    torch.manual_seed(rank)
    seen, samples = [], []
    def steps():
        for _ in range(4):
            optimizer.zero_grad()
            loss = model(torch.rand(4, 3, 12, 12)).square().sum()
            loss.backward()
            optimizer.step()
            seen.append(loss.detach())
            seen.extend(p.grad.clone() for p in net.parameters())
    if watched:
        with watch(model, 2, samples.append) as w:
            steps()
        assert w.passes == 4 and w.latest.step == 2, w.latest
        # Every process has its own maps; those of rank 0 go to the sink.
        assert [sample.step for sample in samples] == ([1, 2] if rank == 0 else [])
    else:
        steps()
    return [*seen, *net.state_dict().values(), torch.get_rng_state()]

alone, watched = trained(False), trained(True)
assert all(torch.equal(a, b) for a, b in zip(alone, watched, strict=True))
print(len(alone), "the same")
dist.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_train_as_they_did(tmp_path):
    root = Path(__file__).parents[3]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(tmp_path / "meeting")],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for output in outputs:
        assert "the same" in output, output
