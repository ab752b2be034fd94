"""Rewards: named rules, and reward models."""
