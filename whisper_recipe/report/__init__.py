"""Pages to look at and listen to: one HTML file each, with script, style, data and sound in it, for any browser."""
