"""The direct path: TLS connections between two agents, without the command line in between. Ships to servers."""
