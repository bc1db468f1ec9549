"""The new home of a lazy move: an overlay over a lazy mount, which takes all writes until everything has come, and the end, when
what was written is folded into the plain tree. The move's steps are those of any move (`agent.moving`). Ships to servers."""
