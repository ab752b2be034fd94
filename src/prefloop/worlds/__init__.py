"""Worlds provide prompts, offline responses and scores: arms, lengths, text."""
