"""The study `advice`: a rule that says which method to use on which data, tested on problems with known outcomes."""

from prefloop.studies.advice.question import STUDY

__all__ = ["STUDY"]
