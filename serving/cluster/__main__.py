"""`python -m serving.cluster`; see `run.py`."""

from serving.cluster.run import main

main()
