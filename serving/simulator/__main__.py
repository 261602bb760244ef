"""`python -m serving.simulator`; see `server.py`."""

from serving.simulator.server import main

main()
