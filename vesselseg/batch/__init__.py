"""Collections: jobs, the one engine that runs them, tables, and resumption."""
