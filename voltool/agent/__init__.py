"""The server side: the entry point and one handler a verb. Ships to servers; parses a fixed set of verbs, no shell."""
