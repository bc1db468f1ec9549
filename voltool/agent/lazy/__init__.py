"""Files that come when they are read: the store, the mount, who fetches and who serves. Ships to servers."""
