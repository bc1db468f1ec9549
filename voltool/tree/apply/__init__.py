"""Apply: one complete dump stream becomes a tree, in a staging directory that is published last.

To change X, go to: `applier` (the order of things), `staging` (where, resuming), `skeleton` (which names, which
directories), `batches` (what a worker does), `files` (content), `attributes`, `assemble` (directories into each other),
`publish`. Knows nothing of volumes, hosts or the wire. Part of what is shipped to servers.
"""
