"""Blind comparisons by people: what raters see, how their votes are kept, and what they say.

`study` draws who sees what, `server` and `page` show it, `votes` keeps the answers, and `results`
counts them.
"""
