"""Ships and starts the agent; the CLI's end of the conversation."""
