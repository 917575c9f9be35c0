"""What is measured, one file an idea; `helpers.evaluate` puts it together."""
