"""The two sessions of a move on its hosts: the old home's (`out`) and the new home's (`into`), and what their steps stand on
(`source_ground`, `target_ground`). The steps themselves are in `volumes.moving`. Ships to servers."""
