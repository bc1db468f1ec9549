"""In place: a tree that stands is brought to the state of a dump, writing only what differs.

To change X, go to: `ground` (how the tree is reached, whatever its users do meanwhile), `scope` (what may be touched),
`compare` (whether one object is as it should be), `survey` (the walk), `planner` and `plan` (what is to be done, on disk),
`staged` (what arrives, before anything is touched), `patch` (a large file of which little differs), `act` and `touch` (the
doing). Knows nothing of volumes, hosts or the wire. Ships to servers.
"""
