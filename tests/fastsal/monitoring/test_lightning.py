"""A Lightning fit is watched in its training passes alone, and trains as it did."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytestmark = pytest.mark.training

pl = pytest.importorskip("lightning.pytorch")


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 5),
        )

    def training_step(self, batch):
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch):
        self.model(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore")
def test_a_fit_is_watched(tmp_path):
    from fastsal.monitoring.lightning import WatchMaps

    torch.manual_seed(0)
    alone = Classifier()
    watched = copy.deepcopy(alone)
    images, labels = torch.rand(24, 3, 16, 16), torch.arange(24) % 5
    samples = []
    callback = WatchMaps(2, samples.append, network="model")
    for module, callbacks in ((alone, []), (watched, [callback])):
        torch.manual_seed(1)
        data = torch.utils.data.DataLoader(list(zip(images, labels, strict=True)), 6, shuffle=False)
        pl.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        ).fit(module, data, data)
    assert [sample.step for sample in samples] == [1, 2, 4, 6]
    assert callback.watch.passes == 8
    states = zip(alone.state_dict().values(), watched.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in states)
    assert not watched.model._forward_pre_hooks
