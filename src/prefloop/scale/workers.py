"""The choice of workers for a sweep."""

from __future__ import annotations

from prefloop.core.errors import UserError
from prefloop.lab.pool import LocalPool, Pool


def pool_for(workers: int, ray: str = "", device: str = "cpu") -> Pool:
    """Processes on this machine, or tasks on a Ray cluster if its address is given.

    Raises:
        UserError: fewer than one worker, no Ray, no cluster at the address, or a GPU on a cluster.
    """
    if not ray:
        return LocalPool(workers, device)
    if device != "cpu":
        fix = "leave one of them out: tasks of a cluster compute on CPUs"
        raise UserError("--device applies to workers on this machine", where="--device with --ray", fix=fix)
    from prefloop.scale.ray_pool import RayPool

    return RayPool(ray)
