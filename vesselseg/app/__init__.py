"""A web page on this machine: drop a photograph, see its vessels. Run by ``vesselseg app``.

A Starlette application and three static files. The photograph goes to this process and its
result stays in the process's memory; threshold and opacity move in the browser, which holds the
probabilities. Nothing is written to disk and nothing is asked of another host.
"""
