"""A network of which each process has a part of every weight: FSDP2 (`torch.distributed.fsdp.fully_shard`).

Weights are gathered layer by layer where they are needed, and gradients are added up where their parts are.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers.modeling_layers import GradientCheckpointingLayer

from prefloop.core.processes import Processes
from prefloop.policies.network import Network


def shard(network: Network, processes: Processes) -> None:
    """Leave this process its part of every weight of a network; every process must call it."""
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")  # nothing is changed in place
    mesh = init_device_mesh(network.device.type, (processes.count,))
    for module in reversed(list(network.backbone.modules())):
        if isinstance(module, GradientCheckpointingLayer):
            fully_shard(module, mesh=mesh)
    fully_shard(network, mesh=mesh, reshard_after_forward=True)
    for part in _parts(network):
        part.set_gradient_divide_factor(1.0)  # a sum: losses are divided by what all processes compute together
        part.set_force_sum_reduction_for_comms(True)
    network.parted = True
    none = torch.zeros(0, dtype=torch.long)
    with torch.no_grad():
        network(none, none, none)  # the order in which parts are gathered is set up by a call of the whole


@contextmanager
def whole_network(network: Network) -> Iterator[None]:
    """A context in which this process has all weights, so that processes may call the model as often as they like."""
    for part in _parts(network):
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    yield
    for part in _parts(network):
        part.set_reshard_after_forward(True, recurse=False)
        part.reshard()


def _parts(network: Network) -> list[FSDPModule]:
    return [module for module in network.modules() if isinstance(module, FSDPModule)]
