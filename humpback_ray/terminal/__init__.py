"""Lines and tables that the command line prints."""
