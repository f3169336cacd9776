"""HTML pages and SVG plots."""
