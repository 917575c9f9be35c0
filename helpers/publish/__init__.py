"""Notebooks in order, and what becomes of them: the report and its pages."""
