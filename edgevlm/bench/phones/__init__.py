"""Phones as machines."""
