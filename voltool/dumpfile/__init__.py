"""The bytes of a dump: format, codec, frames, writer, reader, index, chain and merge.

`format` is the one module that knows them. Nothing here knows of volumes, hosts or stores: it is given bytes or a
random-access file and gives records back.
"""
