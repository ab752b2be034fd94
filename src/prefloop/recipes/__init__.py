"""Recipes: stages of training and judging in one file, checked as a whole before anything is trained, and resumable."""
