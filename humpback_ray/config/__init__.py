"""A user's recipe: settings decide the result, placement decides where and how it runs."""
