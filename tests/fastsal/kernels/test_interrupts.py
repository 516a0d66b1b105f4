"""Who may write to memory, and until when: under signals, after forks, with several threads.

Each test runs in a process of its own, which a write to freed memory would end.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastsal.kernels import cpu

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(not cpu.available(), reason="Numba is not installed"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork, no timer signals here"),
]
ROOT = Path(__file__).parents[3]
PREPARE = """
import os, signal, threading, time
import torch
from torch import nn
from fastsal import SMOEScale, smoe_scale
from fastsal.kernels import cpu, threads
from fastsal.maps.combination import combine

threads.ELEMENTS_A_THREAD = 1
torch.manual_seed(0)
tensor = torch.randn(4, 64, 96, 96)
last = tensor.contiguous(memory_format=torch.channels_last)
maps = [torch.rand(4, 96, 96), torch.rand(4, 48, 48)]


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Identity(), nn.Identity()

    def forward(self, images):
        self.first(tensor)
        self.second(last)
        return images.sum((1, 2, 3))


net, images = Layers(), torch.zeros(4, 3, 96, 96)
attributor = SMOEScale(net, [net.first, net.second])
CALLS = {
    "statistic": lambda: smoe_scale(tensor),
    "channels last": lambda: smoe_scale(last),
    "normal CDF": lambda: cpu.gaussian(maps[0].clone(), in_place=True),
    "combination": lambda: combine(maps, [1, 2], (96, 96)),
    "plan": lambda: attributor.attribute(images),
}
expected = {name: call() for name, call in CALLS.items()}
assert torch.equal(attributor.attribute(images), expected["plan"])


class Stop(BaseException):
    pass


armed = False


def stop(*_):
    global armed
    if armed:
        armed = False
        raise Stop


def interrupted(name, seconds):
    '''Interrupt a call again and again, and look for writes that come after it.'''
    global armed
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
    stops, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            armed = True
            CALLS[name]()
            armed = False
        except Stop:
            stops += 1
            # Memory of the same size, which the allocator takes from what the call gave back.
            taken = [torch.full((4, 96, 96), 7.0) for _ in range(3)]
            time.sleep(0.001)
            assert all((one == 7).all() for one in taken), "written to after the call"
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert stops > 3, stops
    assert torch.equal(CALLS[name](), expected[name])


def exit_code(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_child(work):
    '''Fork, work in the child, and return its exit code.'''
    child = os.fork()
    if child:
        return exit_code(child)
    code = 1
    try:
        work()
        code = 7
    finally:
        os._exit(code)
"""


def run(code, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREPARE + code],
        cwd=ROOT,
        timeout=300,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_WAIT_POLICY": "passive", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_handler_that_raises():
    code = (
        "torch.set_num_threads(4)\n"
        "for name in CALLS: interrupted(name, 0.7)\n"
        "print(sorted(CALLS) == sorted(expected))"
    )
    assert run(code) == ["True"]


def test_a_handler_that_raises_in_a_forked_process():
    code = (
        "def work():\n"
        "    torch.set_num_threads(4)\n"
        "    for name in CALLS: interrupted(name, 0.5)\n"
        "print(in_child(work))"
    )
    assert run(code, OMP_NUM_THREADS="1") == ["7"]


def test_a_kernel_in_a_process_forked_after_pytorchs_threads_ran():
    """PyTorch's own operations on several threads would wait for ever there."""
    code = (
        "torch.set_num_threads(4)\n"
        "assert torch.equal(smoe_scale(tensor), expected['statistic'])\n"
        "def work():\n"
        "    signal.alarm(60)\n"
        "    kernels_alone = ('statistic', 'channels last', 'combination')\n"
        "    found = {name: CALLS[name]() for name in kernels_alone}\n"
        "    torch.set_num_threads(1)\n"
        "    for name in found: assert torch.equal(found[name], expected[name])\n"
        "print(in_child(work))"
    )
    assert run(code) == ["7"]


def test_threads_a_handler_that_raises_and_a_fork_in_the_middle():
    code = """
torch.set_num_threads(3)
wrong, done = [], threading.Event()
def call(name):
    while not done.is_set():
        if not torch.equal(CALLS[name](), expected[name]):
            wrong.append(name)
callers = [threading.Thread(target=call, args=(name,), daemon=True) for name in CALLS]
for caller in callers: caller.start()
def work():
    torch.set_num_threads(1)
    for name in CALLS: assert torch.equal(CALLS[name](), expected[name])
codes = []
for _ in range(3):
    interrupted('plan', 0.3)
    codes.append(in_child(work))
done.set()
for caller in callers: caller.join()
print(codes, wrong)
"""
    assert run(code) == ["[7,", "7,", "7]", "[]"]
