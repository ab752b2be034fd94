"""Sentences written by a small GPT, with a known gold reward and a learned proxy."""
