"""Natural language: prompts and responses of data files under a chat template."""
