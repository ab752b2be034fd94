"""The study `real`: two rewards, three methods and several seeds on SmolLM2-135M-Instruct, at matched KL."""

from prefloop.studies.real.question import STUDY

__all__ = ["STUDY"]
