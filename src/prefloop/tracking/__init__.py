"""Trackers: what a run writes to its records, sent to trackio, TensorBoard, W&B or MLflow while it trains, or after."""
