"""Many photographs from files to files: jobs, the pipeline that runs them, and the manifest."""
