"""Rewards: rules by name, and reward models."""
