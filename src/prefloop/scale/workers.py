"""The choice of workers for a sweep."""

from __future__ import annotations

from prefloop.lab.pool import LocalPool, Pool


def pool_for(workers: int, ray: str = "") -> Pool:
    """Processes on this machine, or tasks on a Ray cluster if its address is given.

    Raises:
        UserError: fewer than one worker, no Ray, or no cluster at the address.
    """
    if not ray:
        return LocalPool(workers)
    from prefloop.scale.ray_pool import RayPool

    return RayPool(ray)
