"""From metrics and curves to comparison: statistics, figures and the report; nothing here trains or reads text."""
