"""Run folders: configuration, manifest, append-only records, checkpoints, interruption, progress."""
