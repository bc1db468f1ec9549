"""SSH as a byte stream to a command on a host. Knows nothing of agents, messages or volumes; paramiko is imported late."""
