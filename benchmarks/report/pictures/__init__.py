"""The pictures of the report: inline SVG whose colours are variables of the page."""
