"""A web page on this machine to try photographs, run by ``vesselseg app``.

A Starlette application and three static files. Photographs and results stay in the memory of the
process. The browser gets the probabilities and applies threshold and opacity itself. Nothing is
written to disk or asked of another host.
"""
