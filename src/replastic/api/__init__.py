"""The public calls, for live models and for files: thin, they only connect selection, method, writer and outcome."""
