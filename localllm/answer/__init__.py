"""Answers: a prompt becomes tokens, and tokens become text."""
