"""SHA-256 of external files named in a configuration: the user's own code, saved reward models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prefloop.core import user
from prefloop.core.files import digest, sha256
from prefloop.runs.config import Config

PARTS = ("objective", "weight", "pairs")


def sources(config: Config) -> dict[str, str]:
    """Hashes by the names in the configuration; imports of the user's files are not followed.

    Raises:
        UserError: a named module cannot be imported.
    """
    code = {name: user.digest(name) for name in _named(config) if ":" in name}
    paths = config.reward.options.get("path", [])
    return code | {path: _folder(Path(path)) for path in ([paths] if isinstance(paths, str) else paths)}


def _named(config: Config) -> Iterator[str]:
    yield from (config.method, config.reward.name, config.reward.gold or "")
    yield from (value for key, value in config.override.items() if key in PARTS and isinstance(value, str))


def _folder(folder: Path) -> str:
    """A hash of the weights and settings of a saved model."""
    files = sorted(file for pattern in ("*.safetensors", "*.json") for file in folder.glob(pattern))
    return digest([[file.name, sha256(file)] for file in files])
