"""Dual encoders, written for export."""
