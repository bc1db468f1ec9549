"""Volumes for any Linux server: dump, restore, move and replicate over SSH."""

__version__ = "0.1.0"
