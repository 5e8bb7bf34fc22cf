"""From files to documents to rows."""
