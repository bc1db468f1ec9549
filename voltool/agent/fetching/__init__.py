"""Who serves the files of a tree to a lazy replica (`served`, `serving`, `answering`), and who fetches them from several hosts
(`pool`, `reaching`, `asking`). Ships to servers."""
