"""From metrics to one table, tests, pictures, the report and its page."""
