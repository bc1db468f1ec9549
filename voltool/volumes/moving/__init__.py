"""A move as its two hosts see it: durable records, and the steps that lead from one to the next. Ships to servers.

To change X, go to: `records` (what is written down), `source` (lock, commit, way back), `target` (prepare, publish, abort),
`ground` (what these stand on: the real ones are in `agent`, simulated ones in the tests that crash everywhere).
"""
