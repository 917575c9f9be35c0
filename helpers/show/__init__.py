"""For people's eyes: figures, the live plot, the explorer, the report."""
