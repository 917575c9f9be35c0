"""For people: the look, the figures of each notebook, the live plot, the explorer."""
