"""Many things in order: the notebooks through papermill."""
