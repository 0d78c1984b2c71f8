"""What a smaller cache costs in answers, one file a suite. Each suite runs with `python -m compresskv_edge.evaluate.<name>`."""
