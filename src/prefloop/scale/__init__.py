"""Adapters to clusters; what they adapt is imported when it is used."""
