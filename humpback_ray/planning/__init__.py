"""Before paying: what a recipe will take, from data sheets or from a sample."""
