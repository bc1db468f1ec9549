"""The stand-alone reader: `python3 voltool.pyz` restores dumps on a machine that has nothing but python3. It lies in every store.

Knows files, and neither stores nor a catalog nor hosts.
"""
