"""Drafts: cheap guesses of the next ids, which the model reads in one pass and keeps as far as they are its own."""
