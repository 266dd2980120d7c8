"""HTML reports: one file each, with script, style, data and audio in it, for any browser."""
