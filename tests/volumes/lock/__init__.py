"""Tests of locks: the search for writers, locking and unlocking for real."""
