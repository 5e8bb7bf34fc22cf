"""`python -m tests.support.joined_cluster`: start the tiny recipe's cluster, and end."""

from humpback_ray.cluster.connect import join_cluster
from humpback_ray.config.recipe import load_recipe

if __name__ == "__main__":
    join_cluster(load_recipe("tiny"))
