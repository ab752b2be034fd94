"""Faults planted into runs of the lab, and how often a diagnosis finds them."""
