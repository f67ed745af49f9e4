"""Models measured on data sets: what is read, what is scored, how it is shown."""
