"""Adapters to clusters; their dependencies are imported on use."""
