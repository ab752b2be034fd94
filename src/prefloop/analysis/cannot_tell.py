"""What stands in the place of a number that cannot be trusted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CannotTell:
    """Why a number is not given."""

    reason: str

    def __str__(self) -> str:
        return f"cannot tell: {self.reason}"
