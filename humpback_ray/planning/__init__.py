"""Before paying: the stages and hours of a run, from data sheets or from a sample."""
