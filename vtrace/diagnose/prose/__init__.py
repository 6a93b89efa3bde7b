"""A diagnosis in words: what ``vtrace diagnose`` prints and the views show.

Pure: a ``Diagnosis`` in, lines out, safe for a terminal. How they are set off is for a ``Style`` to
say.
"""
