"""The connection to a Ray cluster, or to a local Ray of two workers."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from prefloop.core.errors import UserError

LOCAL = "local"  # address of a Ray instance that starts and ends with the pool
REACH = 5.0  # timeout for a connection to an address, in seconds
ANSWER = 30.0  # timeout for an answer from a cluster, in seconds
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
TRIAL = """
import logging, sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.WARNING)
except Exception as error:
    print(error)
    sys.exit(1)
"""


def connect(address: str) -> Any:
    """The connected Ray module.

    Args:
        address: HOST:PORT of a cluster that this machine belongs to, `auto` to detect it, or LOCAL.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        ray = import_module("ray")
    except ImportError as error:
        raise UserError("Ray is not installed", where="--ray", fix="pip install 'prefloop[ray]'") from error
    if address == LOCAL:
        _start(ray)
        return ray
    _probe(address)
    try:
        ray.init(address=address, **QUIET)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _nothing(address, str(error)) from error
    return ray


def _start(ray: Any) -> None:
    """Start a local Ray with two workers on the loopback interface only, protected by Ray's token."""
    constants: Any = import_module("ray._private.ray_constants")
    announcer = logging.getLogger("ray._private.authentication.authentication_token_setup")
    announcer.setLevel(logging.ERROR)  # suppress Ray's warning that a token is required
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False  # Ray's default on macOS and Windows: no other machine can join
    try:
        ray.init(address=LOCAL, num_cpus=2, include_dashboard=False, **QUIET)
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def _probe(address: str) -> None:
    """Refuse an address without a cluster early: Ray itself retries for minutes and cannot be interrupted."""
    if address != "auto":
        try:
            parts = urlsplit(address if "://" in address else f"//{address}")
            socket.create_connection((parts.hostname or "", parts.port or 0), REACH).close()
        except (OSError, ValueError) as error:
            raise _nothing(address, str(error)) from error
    try:
        trial = subprocess.run(
            [sys.executable, "-c", TRIAL, address], capture_output=True, text=True, timeout=ANSWER, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _nothing(address, f"no answer from a cluster within {ANSWER:.0f} s") from error
    if "InvalidAuthToken" in trial.stderr:  # Ray sends no token to an explicit address by default
        raise UserError(
            f"the Ray cluster at `{address}` requires its token",
            fix="set RAY_AUTH_MODE=token, and put the cluster's token where Ray looks for it",
        )
    if trial.returncode:
        raise _nothing(address, trial.stdout or trial.stderr)


def _nothing(address: str, why: str) -> UserError:
    return UserError(
        f"no Ray cluster at `{address}`, or this process cannot use it",
        where=" ".join(why.split())[:300],
        fix="start one with `ray start --head` and give its HOST:PORT, or use --ray local",
    )


def versions() -> str:
    """Versions that must be the same everywhere for identical results."""
    from prefloop.runs import manifest

    own = manifest.versions()
    return ", ".join(f"{name} {str(own[name]).split('+')[0]}" for name in ("prefloop", "torch", "numpy"))
