"""What a smaller cache costs in answers, one file a suite; `python -m compresskv_edge.evaluate.<suite>` runs it."""
