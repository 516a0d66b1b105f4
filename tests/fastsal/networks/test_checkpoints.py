"""Files of weights as people have them: wrapped, nested, safetensors, and those that are none."""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fastsal.cli.main import main
from fastsal.networks.checkpoints import load_weights


def network(classes=5, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(classes)
    )


def built(classes=5, seed=0):
    made = network(classes, seed)
    made(torch.zeros(2, 3, 5, 5))
    return made


def prefixed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


FORMS = {
    "state dict": lambda state: state,
    "DataParallel": lambda state: prefixed(state, "module."),
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}},
    "of DataParallel": lambda state: {"state_dict": prefixed(state, "module."), "epoch": 3},
    "torchvision's training": lambda state: {
        "model": state,
        "args": argparse.Namespace(lr=0.1),
    },
    "with numbers of NumPy": lambda state: {
        "state_dict": state,
        "best": np.float64(0.7),
        "epoch": np.int64(3),
    },
    "Lightning": lambda state: {"state_dict": prefixed(state, "model."), "global_step": 7},
    "compiled Lightning": lambda state: {"state_dict": prefixed(state, "net._orig_mod.")},
    "a key of its own": lambda state: {"ema_weights": state, "epoch": 3},
    "nested": lambda state: {"model": {"state_dict": state, "name": "net"}},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_checkpoints(form, tmp_path):
    saved, loaded = built(seed=1), built(seed=2)
    torch.save(FORMS[form](saved.state_dict()), tmp_path / "net.pth")
    load_weights(loaded, "net", tmp_path / "net.pth")
    for key, value in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


@pytest.mark.parametrize("name", ["net.safetensors", "net.bin"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors_by_name_or_content(name, prefix, tmp_path):
    saved, loaded = built(seed=1), built(seed=2)
    save_file(prefixed(saved.state_dict(), prefix), tmp_path / name)
    load_weights(loaded, "net", tmp_path / name)
    assert torch.equal(loaded[0].weight, saved[0].weight)


class Ruin:
    """Code that runs when it is unpickled."""

    def __reduce__(self):
        """Make a folder."""
        return os.mkdir, ("ruined",)


def write(name):
    """Write a file that holds no state dict that fits."""
    path = Path(name)
    state = built().state_dict()
    if name == "junk.pth":
        path.write_bytes(bytes(range(256)) * 4)
    elif name == "empty.pth":
        path.touch()
    elif name == "text.pth":
        path.write_text("<!DOCTYPE html>")
    elif name == "junk.safetensors":
        path.write_bytes(b"not safe")
    elif name == "folder":
        path.mkdir()
    elif name == "script.pt":
        torch.jit.trace(built().eval(), torch.zeros(1, 3, 5, 5)).save(name)
    elif name == "cut.pth":
        torch.save(state, name)
        path.write_bytes(path.read_bytes()[:-300])
    else:
        content = {
            "model.pth": built(),
            "old.pth": built(),
            "ruin.pth": {"model": state, "hook": Ruin()},
            "list.pth": [1, 2],
            "nothing.pth": {"epoch": 3, "loss": 0.5},
            "two.pth": {"generator": state, "critic": state},
            "classes.pth": built(classes=7).state_dict(),
            "classes-parallel.pth": prefixed(built(classes=7).state_dict(), "module."),
            "other.pth": nn.Linear(2, 1).state_dict(),
        }[name]
        torch.save(content, name, _use_new_zipfile_serialization=name != "old.pth")


MESSAGES = {
    "absent.pth": "there is no such file",
    "folder": "this is a folder; give the file of weights in it",
    "junk.pth": "neither a file of torch.save nor of safetensors, or it is damaged",
    "empty.pth": "neither a file of torch.save nor of safetensors, or it is damaged",
    "text.pth": "neither a file of torch.save nor of safetensors, or it is damaged",
    "cut.pth": "neither a file of torch.save nor of safetensors, or it is damaged",
    "junk.safetensors": "cannot be read as safetensors",
    "script.pt": "this is a TorchScript archive, which holds code; save the state dict alone",
    "model.pth": "holds pickled Python objects (torch.nn.modules.activation.ReLU, torch.nn.modules",
    "old.pth": "holds pickled Python objects (torch.nn.modules",
    "ruin.pth": "holds pickled Python objects (posix.mkdir), which may run code",
    "list.pth": "it holds a list; expected tensors by name",
    "nothing.pth": "it holds 'epoch', 'loss'; expected tensors by name, or those under",
    "two.pth": "it holds 'generator', 'critic'; expected",
    "classes.pth": "they are of 7 classes, and net.py:build has 5; give weights of 5, or",
    "classes-parallel.pth": "they are of 7 classes, and net.py:build has 5",
    "other.pth": "do not fit model 'net.py:build': 0.weight is missing",
}
MODULE = """
import torch
from torch import nn

def build():
    made = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)
    )
    made(torch.zeros(2, 3, 5, 5))
    return made
"""


@pytest.mark.parametrize("name", MESSAGES)
def test_files_that_hold_no_fitting_weights_get_one_sentence(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODULE)
    if name != "absent.pth":
        write(name)
    assert main(["layers", "net.py:build", "--weights", name, "--size", "5"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fastsal: weights {name}")
    assert MESSAGES[name] in line
    assert len(line) < 300
    assert "Error:" not in line
    assert not Path("ruined").exists()


def test_safetensors_that_are_not_installed(tmp_path, monkeypatch):
    save_file(built().state_dict(), tmp_path / "net.bin")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match="needs safetensors: pip install safetensors"):
        load_weights(built(), "net", tmp_path / "net.bin")
