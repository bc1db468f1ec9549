"""Replicas: hosts, driver, command line."""
