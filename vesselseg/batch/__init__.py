"""Many images from files to files: what is to be done, doing it, and the record of it."""
