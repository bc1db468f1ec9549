"""Replicas: added, kept up to date, promoted; and the lazy move. The host's side is `agent.replica`, `agent.lazy`."""
