"""Sentences of a small GPT with a known gold reward and a learned proxy."""
