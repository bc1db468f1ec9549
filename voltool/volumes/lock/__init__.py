"""Locks on volumes: the read-only mount, the search for who could still write, the lease. Ships to servers."""
