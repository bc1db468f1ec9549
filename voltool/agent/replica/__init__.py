"""Replicas on their hosts: what the volume's home keeps for them, how one is filled, swapped and promoted. Ships to servers."""
