"""Messages between the CLI and an agent. No I/O of its own: bytes in, messages out; messages in, bytes out."""
