"""Which workers run a sweep."""

from __future__ import annotations

from prefloop.lab.pool import LocalPool, Pool


def pool_for(workers: int, ray: str = "") -> Pool:
    """Processes on this machine, or the tasks of a Ray cluster where its address is given.

    Raises:
        UserError: no worker, no Ray, or no cluster at the address.
    """
    if not ray:
        return LocalPool(workers)
    from prefloop.scale.ray_pool import RayPool

    return RayPool(ray)
