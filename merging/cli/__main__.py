"""python -m merging.cli"""

from .main import main

main()
