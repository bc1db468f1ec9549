"""A tree whose files come when they are read: the store, the mount, the filling, the process. Where the files come from:
`agent.fetching`. Ships to servers."""
