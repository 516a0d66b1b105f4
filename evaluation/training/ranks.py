"""Data-parallel training: ranks that share each batch of one network.

PyTorch's DistributedDataParallel averages gradients over the ranks; weighted by how many images
each rank has, that average is the gradient of the whole batch's mean.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from evaluation.networks.build import state_hash

__all__ = ["Ranks", "Share"]

# Images of a rank that has none of its own; two, since BatchNorm refuses one value a channel.
_BORROWED = 2


@dataclass(frozen=True)
class Share:
    """A rank's share of a batch.

    Args:
        indices: ``(B,)``, its images; borrowed ones if it has none, so that it takes part.
        weight: factor of its mean loss, so that the mean over the ranks is that of the batch; 0
            if its images are borrowed.
    """

    indices: NDArray[np.int64]
    weight: float


@dataclass(frozen=True)
class Ranks:
    """The default group of `torch.distributed`, or this process alone.

    Args:
        count: number of processes that train together.
        rank: number of this process.
        device: device of this process.

    >>> Ranks.of(1, "cpu").share(np.arange(3)).weight
    1.0
    """

    count: int
    rank: int
    device: torch.device

    @classmethod
    def of(cls, count: int, device: str) -> Ranks:
        """The group that a recipe asks for.

        Raises:
            RuntimeError: no group, or one of another size.
        """
        if count == 1:
            return cls(1, 0, torch.device(device))
        present = distributed.is_available() and distributed.is_initialized()
        found = distributed.get_world_size() if present else 0
        if found != count:
            here = f"of {found} processes" if present else "missing"
            raise RuntimeError(
                f"ranks={count}: the default group of torch.distributed is {here}; call "
                f"torch.distributed.init_process_group in each of {count} processes first"
            )
        return cls(count, distributed.get_rank(), torch.device(device))

    def check_equal_start(self, init_hash: str) -> None:
        """Refuse ranks that start from different weights.

        Raises:
            RuntimeError: on every rank alike.
        """
        # 64 bits as one signed number, which any backend can reduce.
        if not self.agree(int.from_bytes(bytes.fromhex(init_hash), "big", signed=True)):
            raise RuntimeError(
                f"the ranks start from different weights (rank {self.rank} has {init_hash}): build "
                "the network from the same seed in every process"
            )

    def agree(self, number: int) -> bool:
        """True, on every rank alike, if all have the same number of 64 bits.

        >>> Ranks.of(1, "cpu").agree(7)
        True
        """
        if self.count == 1:
            return True
        least, most = (torch.tensor(number, device=self.device) for _ in range(2))
        distributed.all_reduce(least, distributed.ReduceOp.MIN)
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        return bool(least == most)

    def of_first(self, says: bool) -> bool:
        """What the first rank says, on every rank."""
        if self.count == 1:
            return says
        said = torch.tensor(int(says), device=self.device)
        distributed.broadcast(said, 0)
        return bool(said)

    def gathered(self, own: Tensor) -> list[Tensor]:
        """The tensors of all ranks, of one shape and type, on the CPU."""
        if self.count == 1:
            return [own.cpu()]
        own = own.to(self.device)
        every = [torch.empty_like(own) for _ in range(self.count)]
        distributed.all_gather(every, own)
        return [one.cpu() for one in every]

    def share(self, indices: NDArray[np.int64]) -> Share:
        """This rank's share of a batch; the first ranks take the remainder."""
        if self.count == 1:
            return Share(indices, 1.0)
        own = np.array_split(indices, self.count)[self.rank]
        weight = len(own) * self.count / len(indices)
        return Share(own if len(own) else indices[:_BORROWED], weight)

    def seed(self, seed: int) -> int:
        """Seed of this rank's dropout: the first rank's is the training's own."""
        if self.rank == 0:
            return seed
        return int(np.random.SeedSequence([seed, self.rank]).generate_state(1)[0])

    def wrapped(self, network: nn.Module, example: Callable[[], Tensor]) -> nn.Module:
        """The network, wrapped to share gradients if there are several ranks.

        Args:
            network: the network, on the device.
            example: gives some images, to find out if the network has heads without a loss.
        """
        if self.count == 1:
            return network
        return DistributedDataParallel(
            network,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            find_unused_parameters=_has_other_heads(network, example()),
        )

    def total(self, *sums: Tensor) -> tuple[float, ...]:
        """Sums over all ranks."""
        together = torch.stack([part.double() for part in sums])
        if self.count > 1:
            distributed.all_reduce(together)
        return tuple(together.tolist())

    def broadcast_buffers(self, network: nn.Module) -> None:
        """Copy the first rank's BatchNorm statistics to every rank."""
        if self.count > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, 0)

    def finish(self, network: nn.Module) -> str:
        """Copy the first rank's buffers to all and return the hash of the final weights."""
        self.broadcast_buffers(network)
        return state_hash(network)


def _has_other_heads(network: nn.Module, example: Tensor) -> bool:
    """True if the network returns auxiliary heads too in training, as GoogLeNet does."""
    with (
        torch.random.fork_rng(devices=[example.device] if example.is_cuda else []),
        torch.no_grad(),
    ):
        return not isinstance(copy.deepcopy(network)(example), Tensor)
