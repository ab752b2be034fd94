"""Where prompts, offline responses and scores come from: arms, lengths, text."""
